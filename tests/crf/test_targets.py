"""Filters from one set of points to another: their laws, gradients and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crfrnn import Lattice, gaussian_filter
from tests.cases import ENGINES, NORMALIZATIONS, TOLERANCE

DOUBLE = torch.float64
METHODS = pytest.mark.parametrize("method", ["lattice", "exact"])
ON_ENGINES = pytest.mark.parametrize("engine", ENGINES)


def draw(n: int = 23, m: int = 31, d: int = 3, c: int = 5, batch: int = 2) -> tuple[Tensor, ...]:
    """Values (B N C), features (B N D) and targets (B M D)."""
    random = torch.Generator().manual_seed(n)
    return tuple(
        torch.randn(batch, *shape, generator=random, dtype=DOUBLE)
        for shape in ((n, c), (n, d), (m, d))
    )


def close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, **TOLERANCE[DOUBLE])


@ON_ENGINES
@pytest.mark.parametrize("sizes", [(1, 1), (1, 70), (300, 1), (301, 523), (64, 64)])
def test_exact_equals_the_sum_over_all_pairs(engine: str, sizes: tuple[int, int]) -> None:
    values, features, targets = draw(*sizes)
    kernel = torch.exp(-0.5 * ((targets[:, :, None] - features[:, None]) ** 2).sum(3))
    out = gaussian_filter(values, features, targets=targets, method="exact", engine=engine)
    close(out, kernel @ values)
    mean = gaussian_filter(
        values,
        features,
        targets=targets,
        method="exact",
        normalization="after",
        engine=engine,
    )
    close(mean, kernel @ values / kernel.sum(2, keepdim=True))


@METHODS
@ON_ENGINES
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_targets_that_are_the_features_change_nothing(
    method: str, engine: str, normalization: str
) -> None:
    values, features, _ = draw()
    options: dict[str, Any] = {"method": method, "engine": engine, "normalization": normalization}
    there = gaussian_filter(values, features, targets=features, **options)
    close(there, gaussian_filter(values, features, **options))


@METHODS
@ON_ENGINES
def test_every_target_is_filtered_as_if_it_were_a_silent_point(method: str, engine: str) -> None:
    values, features, targets = draw()
    joined = torch.cat([features, targets], 1)
    silent = torch.cat([values, torch.zeros(2, 31, 5, dtype=DOUBLE)], 1)
    expected = gaussian_filter(silent, joined, method=method, engine=engine)[:, 23:]
    close(
        gaussian_filter(values, features, targets=targets, method=method, engine=engine), expected
    )


@METHODS
@ON_ENGINES
def test_linear_and_constants_are_kept(method: str, engine: str) -> None:
    values, features, targets = draw()

    def run(values: Tensor, **options: Any) -> Tensor:
        return gaussian_filter(
            values, features, targets=targets, method=method, engine=engine, **options
        )

    other = values.flip(1)
    close(run(values + 3 * other), run(values) + 3 * run(other))
    mean = run(torch.full_like(values, 7), normalization="after")
    reached = run(torch.ones_like(values)) > 1e-12
    close(mean[reached], torch.full_like(mean[reached], 7))


def test_a_target_out_of_reach_gets_zero() -> None:
    far = np.full((1, 2), 1e3)
    for method in ("lattice", "exact"):
        out = gaussian_filter(
            np.ones((3, 1)), np.eye(3, 2), targets=far, method=method, normalization="after"
        )
        np.testing.assert_array_equal(out, [[0.0]])


@ON_ENGINES
def test_reverse_is_the_adjoint(engine: str) -> None:
    values, features, targets = draw()
    lattice = Lattice(features, targets=targets, engine=engine)
    to = torch.randn(2, 31, 5, dtype=DOUBLE)
    there = lattice.filter(values)
    back = lattice.filter(to, reverse=True)
    assert there.shape == to.shape
    assert back.shape == values.shape
    close((there * to).sum(), (values * back).sum())
    close(there, gaussian_filter(values, features, targets=targets, engine=engine))


@METHODS
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_engines_and_containers_agree(method: str, normalization: str) -> None:
    values, features, targets = draw()
    options: dict[str, Any] = {"method": method, "normalization": normalization}
    by_reference = gaussian_filter(values, features, targets=targets, engine="reference", **options)
    close(gaussian_filter(values, features, targets=targets, **options), by_reference)
    arrays = (tensor.numpy() for tensor in (values, features, targets))
    values_array, features_array, targets_array = arrays
    for engine in (None, "reference"):
        there = gaussian_filter(
            values_array, features_array, targets=targets_array, engine=engine, **options
        )
        assert isinstance(there, np.ndarray)
        close(torch.from_numpy(there), by_reference)


@METHODS
@ON_ENGINES
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradients(method: str, engine: str, normalization: str) -> None:
    inputs = [tensor.requires_grad_() for tensor in draw(5, 4, 2, 2, batch=1)]

    def run(values: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        options: dict[str, Any] = {"method": method, "normalization": normalization}
        return gaussian_filter(values, features, targets=targets, engine=engine, **options)

    assert torch.autograd.gradcheck(run, inputs)
    if method == "exact":
        assert torch.autograd.gradgradcheck(run, inputs)


@ON_ENGINES
def test_exact_operator_obeys_its_registration(engine: str) -> None:
    inputs = [tensor.requires_grad_() for tensor in draw(5, 4, 2, 2, batch=1)]
    torch.library.opcheck(torch.ops.crfrnn.exact.default, (*inputs[:2], 1e-16, engine, inputs[2]))
    torch.library.opcheck(torch.ops.crfrnn.exact.default, (*inputs[:2], 1e-16, engine))


def test_half_precision_and_leading_axes_are_kept() -> None:
    values, features, targets = draw()
    out = gaussian_filter(values.bfloat16()[:, None], features[:, None], targets=targets[:, None])
    assert out.dtype == torch.bfloat16
    assert out.shape == (2, 1, 31, 5)


BAD: dict[str, tuple[Callable[[Any, Any, Any], Any], type[Exception], str]] = {
    "D": (lambda v, f, t: gaussian_filter(v, f, targets=t[..., :1]), ValueError, r"\.\.\., M, D"),
    "leading": (lambda v, f, t: gaussian_filter(v, f, targets=t[:1]), ValueError, "leading sizes"),
    "empty": (lambda v, f, t: gaussian_filter(v, f, targets=t[:, :0]), ValueError, "not empty"),
    "flat": (lambda v, f, t: gaussian_filter(v, f, targets=t[0, 0]), ValueError, "targets must be"),
    "integers": (lambda v, f, t: gaussian_filter(v, f, targets=t.long()), TypeError, "targets mu"),
    "NaN": (
        lambda v, f, t: gaussian_filter(v, f, targets=t * float("nan")),
        ValueError,
        "targets must be finite",
    ),
    "container": (
        lambda v, f, t: gaussian_filter(v, f, targets=t.numpy()),
        ValueError,
        "targets are on NumPy but features on cpu",
    ),
    "lattice": (lambda v, f, t: Lattice(f, targets=t[..., :2]), ValueError, "targets must be"),
    "values": (
        lambda v, f, t: Lattice(f, targets=t).filter(v, reverse=True),
        ValueError,
        "leading sizes of the targets",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_targets(case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call(*draw())
