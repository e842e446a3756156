"""Half precision: what engines store as float16, how near it stays, that nothing overflows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crfrnn import Bilateral, Gaussian, Refined, ops, refine
from crfrnn.core.native import core, core_missing
from crfrnn.ops.arrays import LatticeArrays
from tests.cases import build_filters

ENGINES = [name for name in ("cpu", "reference") if name != "cpu" or not core_missing()]
KERNELS = (Bilateral(position=12, color=20, weight=4), Gaussian(position=2, weight=3))
NORMALIZATIONS = ("symmetric", "after", "before", "none")


def half_stored(engine: str) -> bool:
    if engine != "cpu":
        return True
    return bool(core().stores_half())


def scene(classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    image = np.repeat(np.repeat(random.uniform(0, 255, (4, 6, 3)), 8, 0), 8, 1)
    image += random.normal(0, 5, image.shape)
    logits = random.normal(0, 2, (classes, *image.shape[:2]))
    return image.clip(0, 255).astype(np.float32), logits.astype(np.float32)


def in_both(image: np.ndarray, **options: Any) -> tuple[Refined, Refined]:
    """In full precision and in half, of all classes."""
    full, half = (
        refine(image, **options, prune=False, precision=precision) for precision in ("full", "half")
    )
    return full, half


def both(engine: str, classes: int, normalization: str = "symmetric") -> tuple[Refined, Refined]:
    image, logits = scene(classes)
    if normalization == "none":
        kernels = [Bilateral(position=12, color=20, weight=0.05)]
    else:
        kernels = list(KERNELS)
    return in_both(
        image,
        logits=logits,
        kernels=kernels,
        iterations=5,
        normalization=normalization,
        engine=engine,
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("engine", ENGINES)
def test_marginals_move_by_less_than_a_hundredth(engine: str, normalization: str) -> None:
    full, half = both(engine, 21, normalization)
    change = np.abs(full.probs - half.probs)
    assert change.max() < 1e-2
    assert change.mean() < 1e-5
    assert (full.labels == half.labels).mean() > 0.999
    assert change.max() > 0 or not half_stored(engine), "nothing was stored in half"


@pytest.mark.skipif("cpu" not in ENGINES, reason="the core is missing")
@pytest.mark.parametrize("classes", [10, 16, 40, 67])
@pytest.mark.parametrize("normalization", ["symmetric", "after"])
def test_the_core_rounds_as_the_reference_does(classes: int, normalization: str) -> None:
    # Where the core leaves a class to its response to ones, that class is rounded otherwise.
    assert not ops.needs_total(classes, "cpu")
    if not half_stored("cpu"):
        pytest.skip("this processor does not convert half precision")
    full, ours = both("cpu", classes, normalization)
    _, reference = both("reference", classes, normalization)
    rounding = np.abs(ours.probs - full.probs).mean()
    assert np.abs(ours.probs - reference.probs).mean() < 0.2 * rounding


@pytest.mark.skipif("cpu" not in ENGINES, reason="the core is missing")
def test_the_core_keeps_few_classes_in_full() -> None:
    full, half = both("cpu", 8)
    np.testing.assert_array_equal(full.probs, half.probs)


@pytest.mark.skipif("cpu" not in ENGINES, reason="the core is missing")
def test_double_stays_double() -> None:
    image, logits = scene(21)
    given = logits.astype(np.float64)
    full, half = in_both(image, logits=given, kernels=KERNELS)
    np.testing.assert_array_equal(full.probs, half.probs)


@pytest.mark.parametrize("normalization", ["none", "after"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_large_flat_picture_does_not_overflow(engine: str, normalization: str) -> None:
    """All 160 000 pixels meet at a few vertices, each of which then sums up more than 65 504."""
    size, classes = 400, 10
    logits = np.zeros((classes, size, size), np.float32)
    logits[0] = 20
    kernel = Bilateral(position=1e4, color=20, weight=1e-5 if normalization == "none" else 1.0)
    full, half = in_both(
        np.zeros((size, size), np.uint8),
        logits=logits,
        kernels=[kernel],
        iterations=1,
        normalization=normalization,
        engine=engine,
    )
    np.testing.assert_allclose(half.probs, full.probs, atol=1e-3)


@pytest.mark.parametrize("normalization", ["symmetric", "before"])
def test_normalized_input_stays_in_range(normalization: str) -> None:
    """Splatted, it is some thousands at most, whatever the picture."""
    pictures: list[Tensor] = [
        torch.full((1, 3, 128, 128), 128.0),
        torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 255,
        torch.arange(128.0).expand(1, 3, 128, 128),
    ]
    for picture in pictures:
        for position, color in ((1000.0, 20.0), (100.0, 3.0), (3.0, 100.0)):
            (kernel,) = build_filters(
                [Bilateral(position=position, color=color)],
                torch.zeros(1, 1, 128, 128),
                picture,
                [],
                normalization=normalization,
                filter="lattice",
            )
            term = kernel.term
            assert term.before is not None
            arrays = LatticeArrays(*term.arrays)
            table = torch.zeros(int(arrays.starts[-1]) + 1)
            for corner in range(6):
                share = arrays.weight[0, :, corner] * term.before[0]
                table.index_add_(0, arrays.vertex[0, :, corner].long(), share)
            assert table.max() < 4096


@pytest.mark.unchecked
def test_another_precision_is_refused() -> None:
    image, logits = scene(3)
    with pytest.raises(ValueError, match="unknown precision 'fp16'; expected one of: full, half"):
        refine(image, logits=logits, precision="fp16")
