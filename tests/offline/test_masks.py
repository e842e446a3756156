"""Independent masks: each equals a call of its own, in every form, on every engine."""

from typing import Any

import numpy as np
import pytest

from crfrnn import Bilateral, Gaussian, refine
from tests.cases import ENGINES, needs_core, needs_torch, torch

SIZE = (19, 23)


@pytest.fixture
def image() -> np.ndarray:
    random = np.random.default_rng(0)
    blocks = np.repeat(np.repeat(random.integers(0, 256, (4, 5, 3)), 5, 0), 5, 1)[:19, :23]
    return (blocks + random.normal(0, 4, blocks.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def masks() -> np.ndarray:
    """More than a table of the core holds: 32 columns."""
    random = np.random.default_rng(1)
    corner = random.integers(0, 12, (37, 2))
    y, x = np.indices(SIZE)
    inside = [(y >= a) & (y < a + 7) & (x >= b) & (x < b + 9) for a, b in corner]
    return np.stack(inside) ^ (random.random((37, *SIZE)) < 0.05)


def alone(image: np.ndarray, mask: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The probability of the foreground, and the labels, of one mask as two exclusive classes."""
    kind = {"probs": mask[None]} if mask.dtype.kind == "f" else {"labels": mask.astype(np.int64)}
    refined = refine(image, **kind, num_classes=2, prune=False, **options)
    return refined.probs[1], refined.labels == 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preset": "maskcut", "iterations": 4},
        {"normalization": "after", "confidence": 0.9},
        {"kernels": [Bilateral(9, 20, (2, 5)), Gaussian(2, (1, 3), lattice=True)]},
        {"kernels": [Gaussian(2, 1.5)], "normalization": "before"},
        {"kernels": [Bilateral(9, 20, 0.1)], "normalization": "none"},
        {"filter": "exact", "iterations": 2},
        {"iterations": 0},
        {"kernels": []},
    ],
    ids=str,
)
def test_each_mask_equals_a_call_of_its_own(
    image: np.ndarray, masks: np.ndarray, options: dict[str, Any], engine: str
) -> None:
    masks = masks[: 37 if engine == "cpu" else 5]
    found = refine(image, masks=masks, engine=engine, **options)
    assert found.probs.shape == found.labels.shape == masks.shape
    assert found.labels.dtype == np.bool_
    for k in range(0, len(masks), 9):
        probs, labels = alone(image, masks[k], engine=engine, **options)
        np.testing.assert_allclose(found.probs[k], probs, atol=2e-5)
        assert (found.labels[k] == labels).mean() > 0.999


def test_a_mask_does_not_depend_on_the_others(image: np.ndarray, masks: np.ndarray) -> None:
    together = refine(image, masks=masks)
    turned = refine(image, masks=masks[::-1])
    single = refine(image, masks=masks[4:5])
    np.testing.assert_allclose(turned.probs[::-1], together.probs, atol=1e-5)
    np.testing.assert_allclose(single.probs[0], together.probs[4], atol=2e-5)


def test_all_kinds_of_masks(image: np.ndarray, masks: np.ndarray) -> None:
    expected = refine(image, masks=masks).probs
    for same in (masks.astype(np.uint8), masks.astype(np.uint8) * 255, masks.astype(np.int64)):
        np.testing.assert_array_equal(refine(image, masks=same).probs, expected)
    soft = np.where(masks, 0.7, 0.3)
    np.testing.assert_allclose(refine(image, masks=soft).probs, expected, atol=1e-4)  # in double
    assert refine(image, masks=soft).probs.dtype == np.float64
    gray = np.full((1, *SIZE), 127.5).round().astype(np.uint8)  # 128 of 255
    assert abs(refine(image, masks=gray, iterations=0).probs - 0.5).max() < 0.001


def test_batches_and_a_mask_of_valid_pixels(image: np.ndarray, masks: np.ndarray) -> None:
    images, valid = np.stack([image, image[::-1]]), np.random.default_rng(2).random(SIZE) < 0.8
    batch = np.stack([masks, masks[:, ::-1]])
    where = np.stack([valid, valid[::-1]])
    found = refine(images, masks=batch, mask=where)
    for b in range(2):
        item = refine(images[b], masks=batch[b], mask=where[b])
        np.testing.assert_array_equal(found.probs[b], item.probs)
    outside = found.probs[0][:, ~valid]
    np.testing.assert_allclose(outside, np.where(masks[:, ~valid], 0.7, 0.3), atol=1e-6)
    assert found.steps == [10, 10]


def test_each_mask_has_a_verdict(image: np.ndarray, masks: np.ndarray) -> None:
    found = refine(image, masks=masks)
    assert len(found.changed) == len(masks)
    for before, after, verdict in zip(masks, found.labels, found.changed, strict=True):
        assert verdict.relabeled == (before != after).sum()
        assert verdict.confident == 0  # of labels that are right with probability 0.7
        assert verdict.vanished == ((1,) if before.any() and not after.any() else ())
    batch = refine(image[None], masks=masks[None, :3])
    assert [len(of_image) for of_image in batch.changed] == [3]


@needs_core
def test_half_precision(image: np.ndarray, masks: np.ndarray) -> None:
    full, half = (refine(image, masks=masks, precision=p).probs for p in ("full", "half"))
    assert np.abs(full - half).max() < 0.01


@needs_torch
def test_tensors_get_tensors(image: np.ndarray, masks: np.ndarray) -> None:
    found = refine(torch.from_numpy(image), masks=torch.from_numpy(masks))
    expected = refine(image, masks=masks)
    assert found.labels.dtype == torch.bool
    np.testing.assert_array_equal(found.probs.numpy(), expected.probs)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"masks": np.full((2, *SIZE), 256)}, "0..255"),
        ({"masks": np.full((2, *SIZE), -1)}, "0..255"),
        ({"masks": np.full((2, *SIZE), 255.0)}, "Divide by 255"),
        ({"masks": np.full((2, *SIZE), np.nan)}, "must be finite"),
        ({"masks": np.zeros(SIZE, bool)}, r"The mask axis is missing: masks must be \(K, H, W\)"),
        ({"masks": np.zeros((0, *SIZE), bool)}, "must not be empty"),
        ({"masks": np.zeros((2, 5, 5), bool)}, "must have the same size"),
        ({"confidence": 0.4}, "between 0.5 and 1"),
        ({"compatibility": 1 - np.eye(2)}, "do not go with masks"),
        ({"tol": 0.1}, "do not go with masks"),
        ({"guard": True}, "do not go with masks"),
        ({"kernels": [Gaussian(weight=(1, 2, 3))]}, "2 classes"),
        ({"labels": np.zeros(SIZE, int)}, "exactly one of"),
    ],
    ids=str,
)
def test_bad_input(image: np.ndarray, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        refine(image, **{"masks": np.zeros((2, *SIZE), bool), **change})


def test_certain_floats_get_a_warning(image: np.ndarray, masks: np.ndarray) -> None:
    with pytest.warns(UserWarning, match="Give bools"):
        refine(image, masks=masks.astype(np.float32))
