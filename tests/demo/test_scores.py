"""refine() on the two demo photographs with a real network's scores of them."""

import numpy as np
import pytest

from crfrnn import Bilateral, Gaussian, refine
from tests.cases import needs_core, needs_torch, photograph

#: Photograph, its full size, and the VOC class that is on it.
PHOTOGRAPHS = [("astronaut", (512, 512), 15), ("chelsea", (300, 451), 8)]


def shrunk(name: str, size: tuple[int, int], factor: float) -> tuple[np.ndarray, np.ndarray]:
    height, width = size
    return photograph(name, (round(height / factor), round(width / factor)))


@needs_core
@needs_torch
@pytest.mark.parametrize(("preset", "factor"), [("deeplab", 4), ("krahenbuhl", 6), ("crfasrnn", 6)])
@pytest.mark.parametrize(("name", "size", "label"), PHOTOGRAPHS, ids=["astronaut", "chelsea"])
def test_engines_give_the_same_labels(name, size, label, preset: str, factor: int) -> None:
    """At least 99.99 % of pixels; shrunk, because the reference engine is slow."""
    image, logits = shrunk(name, size, factor)
    ours, reference = (
        refine(image, logits=logits, preset=preset, engine=engine)
        for engine in ("cpu", "reference")
    )
    assert (ours.labels == reference.labels).mean() >= 0.9999
    assert (ours.labels == label).any()
    relabelled = (ours.labels != logits.argmax(0)).mean()
    assert 0.001 < relabelled < 0.2  # it did something, and not too much


@pytest.mark.parametrize(("name", "size", "label"), PHOTOGRAPHS, ids=["astronaut", "chelsea"])
def test_lattice_and_exact_give_the_same_labels(name, size, label) -> None:
    """At least 98 % of pixels; shrunk fivefold with the bandwidths, because exact is quadratic."""
    image, logits = shrunk(name, size, 5)
    kernels = [Bilateral(position=67 / 5, color=3, weight=4), Gaussian(position=1, weight=3)]
    lattice, exact = (
        refine(image, logits=logits, kernels=kernels, iterations=5, filter=filter)
        for filter in ("lattice", "exact")
    )
    assert (lattice.labels == exact.labels).mean() >= 0.98
    assert np.abs(lattice.probs - exact.probs).max() > 1e-4  # they are not the same computation
    assert (exact.labels == label).any()


@pytest.mark.parametrize(("name", "size", "label"), PHOTOGRAPHS, ids=["astronaut", "chelsea"])
def test_full_size(name, size, label) -> None:
    """The default: the network's object stays, its edge moves, every number is sound."""
    image, logits = photograph(name, size)
    before = logits.argmax(0)
    refined = refine(image, logits=logits)
    assert np.isfinite(refined.probs).all()
    np.testing.assert_allclose(refined.probs.sum(0), 1, rtol=1e-5)
    kept = ((refined.labels == label) & (before == label)).sum() / (before == label).sum()
    assert kept > 0.9
    assert 0.001 < (refined.labels != before).mean() < 0.1
