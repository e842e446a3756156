"""refine(): containers, layouts, kinds of scores, masks, grids, and what it is for."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import crfrnn
from crfrnn import Bilateral, FeatureGaussian, Gaussian, Refined, refine
from crfrnn.presets import PRESETS
from tests.cases import (
    ENGINES,
    TOLERANCE,
    GridCase,
    available_engines,
    containers,
    needs_core,
    needs_torch,
    torch,
)


@pytest.fixture
def photo() -> np.ndarray:
    """Low in contrast, so that its colours bind pixels together: see the test that says so."""
    return np.random.default_rng(0).integers(100, 110, (5, 7, 3), dtype=np.uint8)


@pytest.fixture
def logits() -> np.ndarray:
    return 2 * np.random.default_rng(1).normal(size=(4, 5, 7))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(0))
    return e / e.sum(0)


def same(one: Refined, other: Refined, dtype=np.float64) -> None:
    probs = [np.asarray(r.probs, dtype) for r in (one, other)]
    np.testing.assert_allclose(*probs, **TOLERANCE[dtype])
    np.testing.assert_array_equal(*[np.asarray(r.labels) for r in (one, other)])


def test_the_image_of_these_tests_matters(photo, logits) -> None:
    kernels = [Bilateral(67, 3, 4)]
    one = refine(photo, logits=logits, kernels=kernels)
    for other in (photo[::-1].copy(), photo[:, ::-1].copy(), photo // 2):
        assert np.abs(refine(other, logits=logits, kernels=kernels).probs - one.probs).max() > 0.01


# --- Containers and layouts. ---


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64], ids=lambda k: k.__name__)
def test_numpy_comes_back_as_numpy(photo, logits, kind) -> None:
    refined = refine(photo, logits=logits.astype(kind))
    assert isinstance(refined.probs, np.ndarray)
    assert isinstance(refined.labels, np.ndarray)
    assert refined.probs.dtype == kind
    assert refined.labels.dtype == np.int64
    assert refined.probs.shape == (4, 5, 7)
    assert refined.labels.shape == (5, 7)
    np.testing.assert_allclose(refined.probs.sum(0), 1, atol=2e-3 if kind == np.float16 else 1e-6)
    expected = refine(photo, logits=logits.astype(kind).astype(np.float64)).probs
    np.testing.assert_allclose(refined.probs, expected, atol=1e-3 if kind == np.float16 else 1e-5)


@needs_torch
@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
def test_torch_comes_back_as_torch(photo, logits, kind: str) -> None:
    kind = getattr(torch, kind)
    scores = torch.from_numpy(logits).to(kind)
    refined = refine(torch.from_numpy(photo), logits=scores)
    assert isinstance(refined.probs, torch.Tensor)
    assert refined.probs.dtype == kind
    assert refined.labels.dtype == torch.int64
    expected = refine(photo, logits=scores.double().numpy())
    assert refined.labels.tolist() == expected.labels.tolist()
    bound = {torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(kind, 1e-5)
    expected = torch.from_numpy(expected.probs)
    torch.testing.assert_close(refined.probs.double(), expected, rtol=0, atol=bound)


def test_other_number_types_and_memory_layouts(photo, logits) -> None:
    expected = refine(photo, logits=logits)
    for scores in [
        logits.astype(">f8"),
        logits.astype(np.longdouble),
        np.asfortranarray(logits),
        logits[:, ::-1, ::-1].copy()[:, ::-1, ::-1],
        np.moveaxis(np.moveaxis(logits, 0, -1).copy(), -1, 0),
        logits.tolist(),
    ]:
        same(refine(photo, logits=scores), expected)
    for image in [
        photo.astype(np.int64),
        photo.astype(np.uint16),
        photo.astype(np.float32),
        photo.astype(">f4"),
        *[container(photo) for container in containers()],
        *[container(photo.astype(np.float16)) for container in containers()],
        np.asfortranarray(photo),
        photo.tolist(),
    ]:
        same(refine(image, logits=logits), expected)


def test_inputs_are_left_alone_and_may_be_read_only(photo, logits) -> None:
    probs = softmax(logits)
    before = photo.copy(), logits.copy(), probs.copy()
    for array in (photo, logits, probs):
        array.flags.writeable = False
    refine(photo, logits=logits)
    refine(photo, energy=logits)
    refine(photo, probs=probs)
    for array, copy in zip((photo, logits, probs), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@needs_torch
def test_no_gradient_is_kept(photo, logits) -> None:
    scores = torch.from_numpy(logits).requires_grad_()
    refined = refine(photo, logits=scores)
    assert not refined.probs.requires_grad


def test_channels_first_and_last_images_are_the_same(photo, logits) -> None:
    expected = refine(photo, logits=logits)
    planes = np.moveaxis(photo, -1, 0)
    same(refine(planes, logits=logits), expected)
    same(refine(planes, logits=logits, channels_last=False), expected)
    same(refine(photo, logits=logits, channels_last=True), expected)
    batch = np.stack([logits, logits])
    for images in (np.stack([photo, photo]), np.stack([planes, planes])):
        same(Refined(*first(refine(images, logits=batch))), expected)


def first(refined: Refined):
    return refined.probs[0], refined.labels[0], refined.engine, refined.steps


def test_an_image_that_fits_both_ways_is_read_channels_last() -> None:
    image = np.random.default_rng(0).integers(100, 110, (3, 3, 3), dtype=np.uint8)
    logits = np.random.default_rng(1).normal(size=(2, 3, 3))
    last = refine(image, logits=logits)
    same(refine(image, logits=logits, channels_last=True), last)
    other = refine(image, logits=logits, channels_last=False)
    same(other, refine(np.moveaxis(image, 0, -1), logits=logits))
    assert np.abs(other.probs - last.probs).max() > 1e-3


def test_a_grey_image_is_one_channel(photo, logits) -> None:
    grey = photo[..., 0]
    expected = refine(grey, logits=logits)
    same(refine(grey[..., None], logits=logits), expected)
    same(refine(grey[None], logits=logits), expected)


def test_feature_maps_may_have_their_channels_on_either_side(photo, logits) -> None:
    maps = np.random.default_rng(2).normal(size=(5, 7, 2))
    kernels = [FeatureGaussian(position=5)]
    expected = refine(None, logits=logits, kernels=kernels, features=[maps])
    turned = np.moveaxis(maps, -1, 0)
    for image in (None, photo, np.moveaxis(photo, -1, 0), photo[..., 0]):
        for features in (maps, turned):
            same(refine(image, logits=logits, kernels=kernels, features=[features]), expected)
    square = np.random.default_rng(2).normal(size=(3, 3, 3))
    small = logits[:, :3, :3]
    last = refine(None, logits=small, kernels=kernels, features=[square])
    same(refine(None, logits=small, kernels=kernels, features=[square], channels_last=True), last)
    turned = np.moveaxis(square, 0, -1)
    other = refine(None, logits=small, kernels=kernels, features=[turned])
    same(refine(None, logits=small, kernels=kernels, features=[square], channels_last=False), other)


@pytest.mark.parametrize(
    ("scores", "classes", "image"),
    [
        ((2, 11), 0, (11,)),
        ((2, 11), 0, (11, 3)),
        ((2, 11), 0, (3, 11)),
        ((3, 2, 11), 1, (3, 11)),
        ((3, 2, 11), 1, (3, 11, 4)),
        ((2, 3, 5), 0, (3, 5)),
        ((4, 2, 3, 5), 1, (4, 3, 5, 3)),
        ((4, 2, 3, 5), 1, (4, 3, 3, 5)),
        ((2, 3, 5, 7), 0, (3, 5, 7)),
        ((2, 3, 5, 7), 0, (3, 5, 7, 2)),
        ((2, 3, 5, 7), 0, (1, 3, 5, 7)),
        ((2, 3, 5, 7), 1, (2, 3, 5, 7)),  # a batch of images, before a volume
        ((4, 2, 3, 5, 7), 1, (4, 3, 5, 7)),
        ((4, 2, 3, 5, 7), 1, (4, 1, 3, 5, 7)),
    ],
    ids=str,
)
@pytest.mark.parametrize("engine", ENGINES)
def test_signals_images_volumes_and_batches(scores, classes, image, engine: str) -> None:
    random = np.random.default_rng(0)
    z = random.normal(size=scores)
    guide = random.integers(100, 110, image, dtype=np.uint8)
    refined = refine(guide, logits=z, engine=engine)
    assert refined.probs.shape == scores
    assert refined.labels.shape == tuple(np.delete(scores, classes))
    np.testing.assert_allclose(refined.probs.sum(classes), 1, rtol=1e-12)
    np.testing.assert_array_equal(refined.labels, refined.probs.argmax(classes))
    start = np.exp(z) / np.exp(z).sum(classes, keepdims=True)
    assert np.abs(refined.probs - start).max() > 0.01


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)], ids=str)
def test_images_of_one_pixel_or_one_row(shape, engine: str) -> None:
    random = np.random.default_rng(0)
    z = random.normal(size=(3, *shape))
    image = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    for filter in ("lattice", "exact"):
        refined = refine(image, logits=z, filter=filter, engine=engine)
        assert refined.probs.shape == (3, *shape)
        np.testing.assert_allclose(refined.probs.sum(0), 1, rtol=1e-12)
    row = refine(image.reshape(-1, 3), logits=z.reshape(3, -1), filter="exact", engine=engine)
    np.testing.assert_allclose(refined.probs.reshape(3, -1), row.probs, rtol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_one_pixel_in_closed_form(filter: str, engine: str) -> None:
    """Alone, a pixel filters to itself, so that z ← u - w (1 - softmax(z)) for the total w."""
    u = np.array([0.3, -0.2, 0.9])
    z = u
    for _ in range(3):
        z = u - 7 * (1 - softmax(z))
    refined = refine(
        np.full((1, 1, 3), 9, np.uint8),
        logits=u[:, None, None],
        kernels=[Bilateral(weight=5), Gaussian(weight=2)],
        iterations=3,
        filter=filter,
        engine=engine,
    )
    np.testing.assert_allclose(refined.probs[:, 0, 0], softmax(z), rtol=1e-12)


# --- Kinds of scores. ---


def test_kinds_of_scores_say_the_same(photo, logits) -> None:
    probs = softmax(logits)
    assert probs.min() > 1e-5  # or probs= would be clipped
    expected = refine(photo, logits=logits)
    same(refine(photo, probs=probs), expected)
    same(refine(photo, energy=-logits), expected)
    same(refine(photo, energy=-np.log(probs)), expected)


def test_probabilities_are_clipped(photo) -> None:
    certain = np.zeros((2, 5, 7))
    certain[0] = 1
    refined = refine(photo, probs=certain, iterations=0)
    expected = 1e-5 / (1 + 1e-5)
    np.testing.assert_allclose(refined.probs[1], expected, rtol=1e-9)


def test_probabilities_may_miss_one_by_rounding(photo, logits) -> None:
    probs = softmax(logits)
    refined = refine(photo, probs=1.01 * probs, iterations=0)
    np.testing.assert_allclose(refined.probs, probs, rtol=1e-9)


def test_one_channel_is_the_foreground(photo, logits) -> None:
    score = logits[:1]
    both = np.concatenate([np.zeros_like(score), score])
    expected = refine(photo, logits=both)
    assert expected.probs.shape == (2, 5, 7)
    same(refine(photo, logits=score), expected)
    probability = 1 / (1 + np.exp(-score))
    same(refine(photo, probs=probability), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint16, np.int64, bool])
def test_labels_are_right_with_the_confidence_given(photo, kind) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (5, 7))
    refined = refine(photo, labels=labels.astype(kind), confidence=0.9, num_classes=3)
    probs = np.full((3, 5, 7), 0.05)
    np.put_along_axis(probs, labels[None], 0.9, axis=0)
    same(refined, refine(photo, probs=probs.astype(np.float32)), np.float32)


def test_ignored_labels_start_uniform(photo) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (5, 7))
    labels[2, 3] = 255
    labels[0, 0] = 255
    start = refine(photo, labels=labels, iterations=0).probs
    assert start.shape == (3, 5, 7)
    np.testing.assert_allclose(start[:, labels == 255], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(start.max(0)[labels != 255], 0.7, rtol=1e-6)
    same(
        refine(photo, labels=np.where(labels == 255, -1, labels), ignore_index=-1),
        refine(photo, labels=labels),
        np.float32,
    )
    # One step: a uniform start is a balance that any rounding tips, and ten steps would show it.
    unknown = refine(photo, labels=np.full((5, 7), 255), iterations=1)
    np.testing.assert_allclose(unknown.probs, 0.5, rtol=1e-5)


def test_ignored_labels_are_filled_in() -> None:
    image = np.zeros((6, 8, 3), np.uint8)
    image[:, 4:] = 200
    labels = np.zeros((6, 8), np.uint8)
    labels[:, 4:] = 1
    expected = labels.copy()
    labels[2:4, 2:6] = 255
    np.testing.assert_array_equal(refine(image, labels=labels, preset="irn").labels, expected)


# --- Options. ---


def test_presets_are_their_parameters(photo, logits) -> None:
    for name, preset in PRESETS.items():
        spelled_out = refine(
            photo,
            logits=logits,
            kernels=list(preset.kernels),
            iterations=preset.iterations,
            normalization=preset.normalization,
        )
        same(refine(photo, logits=logits, preset=name), spelled_out)
    same(refine(photo, logits=logits), refine(photo, logits=logits, preset="deeplab"))


def test_no_iterations_return_the_scores(photo, logits) -> None:
    refined = refine(photo, logits=logits, iterations=0)
    np.testing.assert_allclose(refined.probs, softmax(logits), rtol=1e-12)
    np.testing.assert_array_equal(refined.labels, logits.argmax(0))
    assert refined.steps == 0


def test_zero_weights_return_the_scores(photo, logits) -> None:
    kernels = [Bilateral(weight=0), Gaussian(weight=(0, 0, 0, 0))]
    for filter in ("lattice", "exact"):
        refined = refine(photo, logits=logits, kernels=kernels, filter=filter)
        np.testing.assert_allclose(refined.probs, softmax(logits), rtol=1e-12)
    np.testing.assert_allclose(
        refine(photo, logits=logits, kernels=[]).probs, softmax(logits), rtol=1e-12
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_permuting_the_classes_permutes_the_result(photo, logits, engine: str) -> None:
    order = [2, 0, 3, 1]
    penalty = np.random.default_rng(3).random((4, 4))
    kernels = [Bilateral(20, 4, (1, 2, 3, 4)), Gaussian(2, (0.5, 1, 1.5, 2))]
    turned = [Bilateral(20, 4, (3, 1, 4, 2)), Gaussian(2, (1.5, 0.5, 2, 1))]
    one = refine(photo, logits=logits, kernels=kernels, compatibility=penalty, engine=engine)
    other = refine(
        photo,
        logits=logits[order],
        kernels=turned,
        compatibility=penalty[order][:, order],
        engine=engine,
    )
    np.testing.assert_allclose(other.probs, one.probs[order], rtol=1e-9, atol=1e-12)


def test_a_penalty_keeps_classes_apart(photo, logits) -> None:
    """A[l, l'] > 0 makes l beside l' dearer: a class that all others shun loses."""
    shunned = np.zeros((4, 4))
    shunned[2, :] = 5
    gentle = refine(photo, logits=logits, compatibility=np.zeros((4, 4)))
    np.testing.assert_allclose(gentle.probs, softmax(logits), rtol=1e-12)
    harsh = refine(photo, logits=logits, compatibility=shunned)
    assert (gentle.labels == 2).any()
    assert not (harsh.labels == 2).any()
    assert (harsh.probs[2] < gentle.probs[2]).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tolerance_stops_each_image_when_it_has_settled(photo, logits, engine: str) -> None:
    settled = 30 * logits  # nothing moves it
    batch = np.stack([logits, settled])
    images = np.stack([photo, photo])
    options = {"kernels": [Bilateral(20, 6, 2)], "engine": engine}
    refined = refine(images, logits=batch, iterations=50, tol=1e-4, **options)
    made = list(refined.steps)
    assert made[1] < made[0] < 50
    for b, steps in enumerate(made):
        alone = refine(photo, logits=batch[b], iterations=steps, **options)
        np.testing.assert_allclose(refined.probs[b], alone.probs, rtol=1e-9, atol=1e-12)
        assert alone.steps == steps
    never = refine(images, logits=batch, iterations=50, **options)
    assert list(never.steps) == [50, 50]
    np.testing.assert_allclose(refined.probs, never.probs, atol=0.01)


def test_the_engine_asked_for_runs_and_is_told(photo, logits) -> None:
    for engine in available_engines():
        assert refine(photo, logits=logits, engine=engine).engine == engine
    fastest = available_engines()[-1]
    assert refine(photo, logits=logits).engine == fastest
    assert crfrnn.info().runs["CPU float32"] == fastest
    assert ("cpu" in available_engines()) == (crfrnn.info().engines["cpu"] == "ready")


@needs_core
@pytest.mark.parametrize("filter", ["lattice", "exact"])
@pytest.mark.parametrize("preset", PRESETS)
def test_engines_agree(preset: str, filter: str, dtype) -> None:
    logits, image = GridCase(2, 21, (9, 13)).make(dtype)
    ours, reference = (
        refine(image, logits=logits, preset=preset, filter=filter, engine=engine)
        for engine in ("cpu", "reference")
    )
    # Ten steps of a strong field multiply the rounding of the first.
    bound = {torch.float32: 1e-3, torch.float64: 1e-9}[dtype]
    torch.testing.assert_close(ours.probs, reference.probs, rtol=0, atol=bound)


# --- The mask. ---


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("normalization", ["symmetric", "after", "before", "none"])
def test_a_mask_of_a_rectangle_is_a_crop(photo, logits, normalization: str, engine: str) -> None:
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:6] = True
    kernels = [Bilateral(4, 6, 0.5), Gaussian(1.5, 0.3)]
    options = {
        "kernels": kernels,
        "normalization": normalization,
        "filter": "exact",
        "engine": engine,
    }
    masked = refine(photo, logits=logits, mask=mask, **options)
    crop = refine(photo[1:4, 2:6], logits=logits[:, 1:4, 2:6], **options)
    np.testing.assert_allclose(masked.probs[:, 1:4, 2:6], crop.probs, rtol=1e-9)
    np.testing.assert_allclose(masked.probs[:, ~mask], softmax(logits)[:, ~mask], rtol=1e-12)
    assert np.abs(crop.probs - softmax(logits)[:, 1:4, 2:6]).max() > 0.01


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_what_lies_outside_the_mask_does_not_matter(photo, logits, filter, engine) -> None:
    mask = np.random.default_rng(5).random((5, 7)) > 0.4
    kernels = [Bilateral(10, 6, 2), Gaussian(1.5, 1)]
    options = {"mask": mask, "kernels": kernels, "filter": filter, "engine": engine}
    other = np.where(mask, logits, np.random.default_rng(6).normal(size=logits.shape))
    one = refine(photo, logits=logits, **options)
    two = refine(photo, logits=other, **options)
    np.testing.assert_allclose(one.probs[:, mask], two.probs[:, mask], rtol=1e-12)
    np.testing.assert_allclose(two.probs[:, ~mask], softmax(other)[:, ~mask], rtol=1e-12)
    if filter == "exact":  # a lattice may have other vertices where outside pixels moved
        image = np.where(mask[..., None], photo, 255 - photo)
        three = refine(image, logits=logits, **options)
        np.testing.assert_allclose(one.probs[:, mask], three.probs[:, mask], rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_a_mask_without_a_pixel_keeps_the_scores(photo, logits, filter, engine) -> None:
    for dtype in (np.float32, np.float64):
        refined = refine(
            photo,
            logits=logits.astype(dtype),
            mask=np.zeros((5, 7), bool),
            filter=filter,
            engine=engine,
        )
        np.testing.assert_allclose(refined.probs, softmax(logits), rtol=1e-5)


def test_masks_of_a_batch_may_differ(photo, logits) -> None:
    masks = np.random.default_rng(7).random((2, 5, 7)) > 0.4
    together = refine(np.stack([photo] * 2), logits=np.stack([logits] * 2), mask=masks)
    for b in range(2):
        for container in containers():
            alone = refine(photo, logits=logits, mask=container(masks[b]))
            np.testing.assert_allclose(together.probs[b], alone.probs, rtol=1e-12)


# --- What it is for. ---


def disc(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A disc on a ground, with noise, and its labels."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] - size / 2
    labels = (x**2 + y**2 < (size / 3) ** 2).astype(np.int64)
    image = np.where(labels[..., None] == 1, (180, 90, 60), (70, 110, 150))
    return (image + random.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8), labels


def iou(labels: np.ndarray, truth: np.ndarray) -> float:
    return ((labels == 1) & (truth == 1)).sum() / ((labels == 1) | (truth == 1)).sum()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_a_noisy_mask_becomes_sharp(filter: str, engine: str) -> None:
    image, truth = disc(32)
    noise = np.random.default_rng(1).normal(0, 1, truth.shape)
    score = (2.0 * truth - 1 + 1.5 * noise)[None]
    before = iou(score[0] > 0, truth)
    refined = refine(image, logits=score, preset="krahenbuhl", filter=filter, engine=engine)
    assert before < 0.75
    assert iou(refined.labels, truth) > 0.97


def test_a_coarse_mask_follows_the_edge() -> None:
    image, truth = disc(64)
    coarse = truth.reshape(8, 8, 8, 8).mean((1, 3))
    probs = np.kron(coarse, np.ones((8, 8))).clip(0.05, 0.95)[None]
    before = iou(probs[0] > 0.5, truth)
    refined = refine(image, probs=probs, preset="krahenbuhl")
    assert iou(refined.labels, truth) > before + 0.05


# --- Memory. ---

# VmHWM is this process's own peak, and cannot fall; ru_maxrss would start at the parent's. The base
# is what is resident when the inputs stand, so an earlier peak can only make the figure larger.
MEASURE = """
import numpy as np, skimage.data, torch
from crfrnn import refine

def resident(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1000

torch.set_num_threads(2)
image = skimage.data.astronaut()[:500, :500]
logits = np.random.default_rng(0).normal(size=(21, 500, 500)).astype(np.float32)
refine(image[:20, :20], logits=logits[:, :20, :20])
base = resident("VmRSS")
refined = refine(image, logits=logits, preset="crfasrnn", iterations=10, engine="{engine}")
print(refined.engine, resident("VmHWM") - base)
"""


@needs_core
@needs_torch
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_of_a_large_image() -> None:
    """500 x 500 x 21 and ten steps take at most 300 MB beside the inputs."""
    pytest.importorskip("skimage")
    script = MEASURE.format(engine="cpu")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300
    )
    ran, megabytes = done.stdout.split()
    assert ran == "cpu"
    assert 20 < float(megabytes) <= 300  # the result alone takes 21
    assert math.isfinite(float(megabytes))


@needs_torch
@pytest.mark.parametrize("kind", ["logits", "probs", "energy", "labels"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_and_arrays_give_the_same_to_the_bit(kind: str, dtype: type) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (17, 23, 3), dtype=np.uint8)
    scores = random.normal(0, 2, (7, 17, 23)).astype(dtype)
    if kind == "probs":
        scores = np.exp(scores) / np.exp(scores).sum(0)
    if kind == "labels":
        scores = scores.argmax(0)
    arrays = refine(image, **{kind: scores})
    tensors = refine(torch.from_numpy(image), **{kind: torch.from_numpy(scores)})
    assert isinstance(tensors.probs, torch.Tensor)
    np.testing.assert_array_equal(tensors.probs.numpy(), arrays.probs)
    np.testing.assert_array_equal(tensors.labels.numpy(), arrays.labels)


@pytest.mark.unchecked
def test_scores_without_a_name_say_which_names_there_are() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(TypeError, match=r"name the scores: refine\(image, logits=\.\.\.\)"):
        refine(image, np.zeros((2, 4, 5), np.float32))
