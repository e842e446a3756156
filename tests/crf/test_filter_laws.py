"""What any Gaussian filter obeys, on inputs that hypothesis draws."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crfrnn import Lattice, gaussian_filter
from crfrnn.core.threads import limited_threads
from crfrnn.crf.filters import ExactFilter
from tests.cases import ENGINES, PointCase

#: Every law compares two sums of the same terms in another order, so double precision it is; the
#: bound is looser than TOLERANCE because nothing keeps a drawn sum from cancelling.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}

POINTS = st.builds(
    PointCase,
    batch=st.integers(1, 3),
    n=st.integers(1, 40),
    d=st.integers(1, 6),
    c=st.integers(1, 9),
    spread=st.sampled_from([0.01, 0.3, 1.0, 3.0, 30.0]),
    kind=st.sampled_from(["random", "constant", "duplicated", "lattice-points", "strided"]),
)

METHODS = pytest.mark.parametrize("method", ["lattice", "exact"])
ON_ENGINES = pytest.mark.parametrize("engine", ENGINES)


def make(case: PointCase) -> tuple[Tensor, Tensor]:
    return case.make(torch.float64)


def build(features: Tensor, method: str, engine: str) -> Lattice | ExactFilter:
    kind = Lattice if method == "lattice" else ExactFilter
    return kind(features, engine=engine)


@METHODS
@ON_ENGINES
@given(case=POINTS, scale=st.floats(-10, 10))
def test_linear(method: str, engine: str, case: PointCase, scale: float) -> None:
    features, u = make(case)
    v = u.flip(1).roll(1, 2) + 1
    run = build(features, method, engine).filter
    torch.testing.assert_close(run(u + scale * v), run(u) + scale * run(v), **CLOSE)


@METHODS
@ON_ENGINES
@given(case=POINTS)
def test_adjoint(method: str, engine: str, case: PointCase) -> None:
    """⟨F u, v⟩ = ⟨u, Fᵀ v⟩, where Fᵀ blurs the axes in reverse."""
    features, u = make(case)
    v = u.flip(1).roll(1, 2) + 1
    run = build(features, method, engine).filter
    torch.testing.assert_close((run(u) * v).sum(), (u * run(v, reverse=True)).sum(), **CLOSE)


@METHODS
@ON_ENGINES
@given(case=POINTS)
def test_backward_is_the_adjoint(method: str, engine: str, case: PointCase) -> None:
    features, u = make(case)
    v = u.flip(1) + 1
    u = u.clone().requires_grad_()
    filtered = build(features, method, engine)
    (gradient,) = torch.autograd.grad((filtered.filter(u) * v).sum(), u)
    torch.testing.assert_close(gradient, filtered.filter(v, reverse=True), **CLOSE)


@METHODS
@ON_ENGINES
@given(case=POINTS, shuffle=st.randoms(use_true_random=False))
def test_permuting_the_points_permutes_the_output(method, engine, case, shuffle) -> None:
    features, values = make(case)
    order = list(range(case.n))
    shuffle.shuffle(order)
    expected = build(features, method, engine).filter(values)[:, order]
    out = build(features[:, order], method, engine).filter(values[:, order])
    torch.testing.assert_close(out, expected, **CLOSE)


@METHODS
@ON_ENGINES
@given(case=POINTS, constant=st.floats(-100, 100))
def test_normalized_filtering_keeps_constants(method, engine, case, constant) -> None:
    features, values = make(case)
    values = torch.full_like(values, constant)
    out = gaussian_filter(values, features, method=method, normalization="after", engine=engine)
    torch.testing.assert_close(out, values, **CLOSE)


@METHODS
@ON_ENGINES
@given(case=POINTS)
def test_normalized_filtering_before_keeps_the_sum(method, engine, case) -> None:
    """Normalising the input keeps the total mass, for filters that are their own adjoint."""
    features, values = make(case)
    out = gaussian_filter(values, features, method=method, normalization="before", engine=engine)
    if method == "exact" or case.n == 1:
        torch.testing.assert_close(out.sum(1), values.sum(1), **CLOSE)
    else:  # F and its adjoint differ where neighbours are missing: see `test_adjoint`
        norm = build(features, method, engine).filter(torch.ones_like(values[..., :1]))
        column = build(features, method, engine).filter(torch.ones_like(norm), reverse=True)
        torch.testing.assert_close(out.sum(1), (column / norm * values).sum(1), **CLOSE)


@METHODS
@ON_ENGINES
@given(case=POINTS)
def test_positive_values_stay_positive(method: str, engine: str, case: PointCase) -> None:
    features, values = make(case)
    out = build(features, method, engine).filter(values.abs())
    assert out.min() >= -1e-12
    # Every point hears itself: at least its own splat, sliced.
    weight = 1.0 if method == "exact" else 1 / (case.d + 1) / 2
    assert (out - weight * values.abs()).min() >= -1e-12


@METHODS
@ON_ENGINES
@given(case=POINTS)
def test_batch_items_are_independent(method: str, engine: str, case: PointCase) -> None:
    features, values = make(case)
    together = build(features, method, engine).filter(values)
    for b in range(case.batch):
        alone = build(features[b : b + 1], method, engine).filter(values[b : b + 1])
        torch.testing.assert_close(together[b : b + 1], alone, **CLOSE)


@METHODS
@ON_ENGINES
@given(case=POINTS)
def test_channels_are_independent(method: str, engine: str, case: PointCase) -> None:
    features, values = make(case)
    run = build(features, method, engine).filter
    single = torch.cat([run(values[..., c : c + 1]) for c in range(case.c)], dim=2)
    torch.testing.assert_close(run(values), single, **CLOSE)


@given(case=POINTS)
def test_exact_is_invariant_to_rotation_and_translation(case: PointCase) -> None:
    features, values = make(case)
    rotation, _ = torch.linalg.qr(torch.randn(case.d, case.d, dtype=torch.float64))
    moved = features @ rotation + 3.7
    expected = gaussian_filter(values, features, method="exact")
    torch.testing.assert_close(gaussian_filter(values, moved, method="exact"), expected, **CLOSE)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_table_beyond_the_caches_is_blurred_as_a_small_one(threads: int, reverse: bool) -> None:
    # 24 channels of 100 000 vertices are blurred along all axes in one wave, four are not.
    generator = torch.Generator().manual_seed(0)
    lattice = Lattice(10 * torch.rand(1, 20_000, 5, generator=generator), engine="cpu")
    assert lattice.vertices > 70_000
    values = torch.randn(1, 20_000, 24, generator=generator)
    with limited_threads(threads):
        whole = lattice.filter(values, reverse=reverse)
        parts = [lattice.filter(part, reverse=reverse) for part in values.split(4, -1)]
    torch.testing.assert_close(whole, torch.cat(parts, -1), rtol=0, atol=0)


@METHODS
@ON_ENGINES
def test_threads_do_not_change_the_result(method: str, engine: str) -> None:
    features, values = PointCase(1, 4001, 3, 7, 3).make(torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(build(features, method, engine).filter(values))
    finally:
        torch.set_num_threads(before)
    for one, other in itertools.pairwise(results):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # sums of many float32
