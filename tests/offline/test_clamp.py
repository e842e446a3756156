"""Clamped pixels and bands: the recurrence in which rows are put back, in every form."""

from typing import Any

import numpy as np
import pytest

from crfrnn import Bilateral, Gaussian, gaussian_filter, refine
from crfrnn.offline.clamp import beyond_band
from tests.cases import ENGINES, containers, needs_core, needs_torch, torch

SIZE = (19, 23)
N, C = 19 * 23, 4
BILATERAL = Bilateral(9, 30, (4, 3, 5, 2))
LATTICES = (BILATERAL, Gaussian(2, 3, lattice=True))


@pytest.fixture
def image() -> np.ndarray:
    random = np.random.default_rng(0)
    blocks = np.repeat(np.repeat(random.integers(0, 256, (4, 5, 3)), 5, 0), 5, 1)[:19, :23]
    return (blocks + random.normal(0, 9, blocks.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 2, (C, *SIZE))


@pytest.fixture
def held() -> np.ndarray:
    return np.random.default_rng(2).random(SIZE) < 0.6


@pytest.fixture
def seeds() -> np.ndarray:
    random = np.random.default_rng(3)
    return np.where(random.random(SIZE) < 0.2, random.integers(0, C, SIZE), 255)


def softmax(z: np.ndarray) -> np.ndarray:
    odds = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True))


def slowly(
    image: np.ndarray,
    logits: np.ndarray,
    held: np.ndarray,
    *,
    kernels: tuple[Any, ...] = LATTICES,
    iterations: int = 10,
    normalization: str = "symmetric",
    filter: str = "lattice",
    penalty: np.ndarray | None = None,
) -> np.ndarray:
    """The full recurrence, in which clamped rows are reset after each step: marginals (C, H, W)."""
    u = logits.reshape(len(logits), -1).T.astype(np.float64)
    y, x = (axis.ravel() for axis in np.indices(SIZE))
    colors = image.reshape(-1, 3).astype(np.float64)
    penalty = 1 - np.eye(len(logits)) if penalty is None else penalty
    fixed = held.ravel()
    start = q = softmax(u)
    for _ in range(iterations):
        z = u
        for kernel in kernels:
            points = [x / kernel.position, y / kernel.position]
            if isinstance(kernel, Bilateral):
                points += list(colors.T / kernel.color)
            f = gaussian_filter(q, np.stack(points, 1), method=filter, normalization=normalization)
            z = z - (f * np.asarray(kernel.weight)) @ penalty.T
        q = np.where(fixed[:, None], start, softmax(z))
    return np.asarray(q.T.reshape(logits.shape))


# One case per thing that the recurrence may do differently.
OPTIONS: list[dict[str, Any]] = [
    {},
    {"normalization": "after"},
    {"normalization": "before", "iterations": 3},
    {"normalization": "none", "kernels": (Bilateral(9, 30, 0.1),)},
    {"filter": "exact", "kernels": (BILATERAL, Gaussian(2, 3))},
    {"iterations": 1},
    {"iterations": 0},
]


@needs_core
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_clamped_rows_are_put_back_after_each_step(
    image: np.ndarray, logits: np.ndarray, held: np.ndarray, options: dict[str, Any], engine: str
) -> None:
    expected = slowly(image, logits, held, **options)
    found = refine(
        image, logits=logits, clamp=held, engine=engine, **{"kernels": LATTICES} | options
    )
    np.testing.assert_allclose(found.probs, expected, atol=1e-8)
    np.testing.assert_array_equal(found.labels, found.probs.argmax(0))
    start = softmax(logits.reshape(C, -1).T).T.reshape(C, *SIZE)
    np.testing.assert_allclose(found.probs[:, held], start[:, held], atol=1e-12)
    if options.get("iterations", 10) > 1:  # in the first step, all pixels send the same anyway
        free = refine(image, logits=logits, engine=engine, **{"kernels": LATTICES} | options)
        assert abs(free.probs - found.probs)[:, ~held].max() > 1e-3


@needs_core
@pytest.mark.parametrize("engine", ENGINES)
def test_two_classes_and_a_compatibility(
    image: np.ndarray, logits: np.ndarray, held: np.ndarray, engine: str
) -> None:
    two, bilateral = logits[:2], (Bilateral(9, 30, 4), LATTICES[1])
    expected = slowly(image, two, held, kernels=bilateral)
    found = refine(image, logits=two, clamp=held, kernels=bilateral, engine=engine)
    np.testing.assert_allclose(found.probs, expected, atol=1e-8)
    matrix = np.random.default_rng(4).random((C, C))
    expected = slowly(image, logits, held, penalty=matrix)
    found = refine(
        image, logits=logits, clamp=held, kernels=LATTICES, compatibility=matrix, engine=engine
    )
    np.testing.assert_allclose(found.probs, expected, atol=1e-8)


@needs_core
@pytest.mark.parametrize("engine", ENGINES)
def test_a_map_of_classes_makes_pixels_certain(
    image: np.ndarray, logits: np.ndarray, seeds: np.ndarray, engine: str
) -> None:
    held, classes = seeds != 255, np.arange(C)[:, None, None]
    certain = np.where(held, np.where(seeds == classes, 0.0, -1000.0), logits)
    expected = slowly(image, certain, held)
    for kind in (np.int64, np.uint8, np.int32):
        found = refine(
            image, logits=logits, clamp=seeds.astype(kind), kernels=LATTICES, engine=engine
        )
        np.testing.assert_allclose(found.probs, expected, atol=1e-8)
        np.testing.assert_array_equal(found.probs[:, held], (seeds == classes)[:, held])
        np.testing.assert_array_equal(found.labels[held], seeds[held])
    without = refine(image, logits=logits, kernels=LATTICES, engine=engine)
    assert (without.labels != found.labels)[~held].sum() > 20  # seeds move their neighbors


def test_a_band_is_euclidean() -> None:
    random = np.random.default_rng(5)
    for size in ((40,), (31, 29), (9, 11, 13)):
        labels = random.integers(0, 3, size)
        blocks = np.kron(labels, np.ones((7,) * len(size), int))[tuple(slice(s) for s in size)]
        at_change = np.zeros(size, bool)
        for axis in range(len(size)):
            moved = np.moveaxis(blocks, axis, 0)
            change, view = moved[1:] != moved[:-1], np.moveaxis(at_change, axis, 0)
            view[1:] |= change
            view[:-1] |= change
        edge = np.argwhere(at_change)
        distance = np.sqrt(
            ((np.indices(size).reshape(len(size), -1).T[:, None] - edge) ** 2).sum(2)
        )
        for band in (0.5, 1, 1.5, 2, 3.7, 9, 1000):
            beyond = beyond_band(blocks[None], band)[0]
            np.testing.assert_array_equal(beyond.ravel(), distance.min(1) >= band)


def test_a_band_is_as_wide_as_it_says(image: np.ndarray) -> None:
    labels = np.zeros(SIZE, int)
    labels[:, 11:] = 1
    strong = [Gaussian(3, -9)]  # labels of both sides mix wherever they may
    start = refine(image, labels=labels, iterations=0).probs
    change = abs(refine(image, labels=labels, kernels=strong, band=3).probs - start)
    moved = (change > 1e-3).any((0, 1))
    np.testing.assert_array_equal(np.flatnonzero(moved), range(8, 14))


@needs_core
@pytest.mark.parametrize("engine", ENGINES)
def test_a_band_clamps_what_is_beyond_it(
    image: np.ndarray, logits: np.ndarray, held: np.ndarray, seeds: np.ndarray, engine: str
) -> None:
    smooth = refine(image, logits=logits, kernels=[Gaussian(3, 9)]).probs
    beyond = beyond_band(smooth.argmax(0)[None], 1.5)[0]
    assert 0.1 < beyond.mean() < 0.9
    options = {"kernels": LATTICES, "engine": engine}
    found = refine(image, probs=smooth, band=1.5, **options)
    same = refine(image, probs=smooth, clamp=beyond, **options)
    np.testing.assert_allclose(found.probs, same.probs, atol=1e-12)
    both = refine(image, probs=smooth, band=1.5, clamp=held, **options)
    same = refine(image, probs=smooth, clamp=beyond | held, **options)
    np.testing.assert_allclose(both.probs, same.probs, atol=1e-12)
    # Seeds are labels, so that a band lies around them.
    spot = np.full(SIZE, 255)
    spot[9, 9] = (smooth.argmax(0)[9, 9] + 1) % C
    around = refine(image, probs=smooth, band=1.5, clamp=spot, iterations=1, **options).probs
    assert abs(around - smooth)[:, 9, 10].max() > 1e-3


def test_nothing_to_do(image: np.ndarray, logits: np.ndarray) -> None:
    alike = np.zeros_like(logits)
    alike[1] = 3
    for options in ({"band": 5}, {"clamp": np.ones(SIZE, bool)}):
        found = refine(image, logits=alike, **options)
        np.testing.assert_allclose(found.probs, softmax(alike.reshape(C, -1).T).T.reshape(C, *SIZE))
    nothing = refine(image, logits=logits, clamp=np.zeros(SIZE, bool), prune=False)
    full = refine(image, logits=logits, prune=False)
    np.testing.assert_allclose(nothing.probs, full.probs, atol=1e-8)


def test_unknown_labels_are_free(image: np.ndarray) -> None:
    labels = np.zeros(SIZE, int)
    labels[:, 11:] = 1
    labels[0, :4] = 255
    found = refine(image, labels=labels, band=2)
    start = refine(image, labels=labels, iterations=0)
    moved = (abs(found.probs - start.probs) > 1e-3).any(0)
    expected = np.zeros(SIZE, bool)
    expected[:, 9:13] = True
    expected[0, :5] = True
    expected[1, :4] = True
    assert moved[0, :4].all()
    assert not moved[~expected & (np.indices(SIZE)[0] > 3)].any()


def test_batches_masks_and_containers(
    image: np.ndarray, logits: np.ndarray, held: np.ndarray, seeds: np.ndarray
) -> None:
    images, scores = np.stack([image, image[::-1]]), np.stack([logits, logits[:, ::-1]])
    valid = np.random.default_rng(6).random((2, *SIZE)) < 0.8
    for clamp in (np.stack([held, ~held]), np.stack([seeds, seeds[::-1]])):
        for extra in ({}, {"mask": valid}, {"band": 1.5}, {"mask": valid, "band": 1.5}):
            together = refine(images, logits=scores, clamp=clamp, kernels=LATTICES, **extra)
            for b in range(2):
                alone = {name: v[b] if name == "mask" else v for name, v in extra.items()}
                single = refine(
                    images[b], logits=scores[b], clamp=clamp[b], kernels=LATTICES, **alone
                )
                np.testing.assert_allclose(together.probs[b], single.probs, atol=1e-12)
        for container in containers():
            found = refine(
                container(images),
                logits=container(scores),
                clamp=container(clamp),
                kernels=LATTICES,
            )
            same = refine(images, logits=scores, clamp=clamp, kernels=LATTICES)
            assert type(found.probs) is type(container(scores))
            np.testing.assert_allclose(np.asarray(found.probs), same.probs, atol=1e-12)


@needs_core
def test_pixels_outside_a_mask_neither_send_nor_make_a_band(
    image: np.ndarray, logits: np.ndarray, held: np.ndarray
) -> None:
    valid = np.ones(SIZE, bool)
    valid[:, 15:] = False
    kernels = (Gaussian(2, 3), BILATERAL)
    options = {"kernels": kernels, "filter": "exact"}
    found = refine(image, logits=logits, clamp=held, mask=valid, **options)
    inside = refine(image[:, :15], logits=logits[..., :15], clamp=held[:, :15], **options)
    np.testing.assert_allclose(found.probs[..., :15], inside.probs, atol=1e-8)
    steps = np.zeros((2, *SIZE))
    steps[1, :, 15:] = 3  # the only label change is on the border of the mask
    still = refine(image, logits=steps, mask=valid, band=3)
    np.testing.assert_allclose(still.probs[1, :, :15], 0.5)


@needs_core
def test_options_go_with_it(image: np.ndarray, logits: np.ndarray, held: np.ndarray) -> None:
    options: dict[str, Any] = {"kernels": LATTICES, "clamp": held}
    exact = refine(image, logits=logits, **options).probs
    half = refine(image, logits=logits.astype(np.float32), precision="half", **options)
    np.testing.assert_allclose(half.probs, exact, atol=5e-3)
    stopped = refine(image, logits=logits, tol=0.005, iterations=50, **options)
    assert 1 < stopped.steps < 50
    same = slowly(image, logits, held, iterations=stopped.steps)
    np.testing.assert_allclose(stopped.probs, same, atol=1e-8)
    earlier = [slowly(image, logits, held, iterations=stopped.steps - k) for k in (1, 2)]
    assert abs(same - earlier[0])[:, ~held].mean() < 0.005  # over the free pixels
    assert abs(earlier[0] - earlier[1])[:, ~held].mean() >= 0.005


@needs_core
@pytest.mark.parametrize("engine", ENGINES)
def test_pruned_classes(image: np.ndarray, held: np.ndarray, engine: str) -> None:
    random = np.random.default_rng(7)
    many = random.normal(0, 1, (9, *SIZE)) - 12
    many[:2] += 12
    kernels = (Bilateral(9, 30, 2), Gaussian(2, 1))
    options = {"kernels": kernels, "clamp": held, "engine": engine}
    pruned = refine(image, logits=many, **options)
    full = refine(image, logits=many, prune=False, **options)
    assert pruned.pruned is not None
    assert pruned.pruned.kept == (0, 1)
    np.testing.assert_allclose(pruned.probs, full.probs, atol=1e-4)
    np.testing.assert_allclose(pruned.probs[:, held], full.probs[:, held], atol=1e-12)


@needs_core
@pytest.mark.parametrize("normalization", ["symmetric", "after", "before", "none"])
@pytest.mark.parametrize("classes", [2, 3])
def test_clamped_pixels_that_are_alike_send_as_one(classes: int, normalization: str) -> None:
    """In large images, and with little effect."""
    random = np.random.default_rng(8)
    size = (259, 301)  # no multiple of a square's side
    image = np.kron(random.integers(0, 256, (7, 8, 3)), np.ones((40, 40, 1), int))
    image = image[: size[0], : size[1]] + random.normal(0, 1.5, (*size, 3))
    scores = np.kron(random.normal(0, 1, (classes, 9, 10)), np.ones((30, 31)))
    scores = (scores[:, : size[0], : size[1]] + random.normal(0, 1, (classes, *size))) * 2
    held = np.ones(size, bool)
    held[100:160, 35:270] = random.random((60, 235)) < 0.3
    weight = 3e-3 if normalization == "none" else 4
    options: dict[str, Any] = {
        "clamp": held,
        "kernels": [Bilateral(20, 10, weight), Gaussian(2, 1)],
        "normalization": normalization,
        "iterations": 5,
    }
    if normalization == "none":
        options["kernels"] = options["kernels"][:1]
    image = image.clip(0, 255).astype(np.uint8)
    joined = refine(image, logits=scores, **options)
    alone = refine(image, logits=scores, prune=False, **options)
    free = ~held
    assert (joined.joined, alone.joined) == (normalization != "none", False)
    np.testing.assert_array_equal(joined.labels[held], alone.labels[held])
    assert (joined.labels == alone.labels)[free].mean() > 0.995
    change = abs(joined.probs - alone.probs)[:, free]
    if normalization == "none":  # sums that are not normalized multiply what joining changes
        assert change.max() == 0
    else:
        assert 1e-6 < change.mean() < 2e-3
    unrefined = refine(image, logits=scores, **options | {"iterations": 0})
    assert abs(alone.probs - unrefined.probs)[:, free].mean() > 0.02


def test_the_guard_looks_at_free_pixels(image: np.ndarray) -> None:
    probs = np.full((2, *SIZE), 0.05)
    probs[0] = 0.95
    probs[:, 5:14, 5:14] = [[[0.4]], [[0.6]]]
    probs[:, 9, 9] = [0.05, 0.95]  # sure, and outvoted
    strong: dict[str, Any] = {"kernels": [Gaussian(6, 30)], "guard": True}
    found = refine(image, probs=probs, **strong)
    assert found.guarded.reverted
    clamp = np.zeros(SIZE, bool)
    clamp[9, 9] = True
    kept = refine(image, probs=probs, clamp=clamp, **strong)
    assert kept.labels[9, 9] == 1
    assert kept.guarded.reverted < found.guarded.reverted or kept.guarded.reverted == 0


def test_what_changed_knows_the_seeds(image: np.ndarray, logits: np.ndarray) -> None:
    seeds = np.full(SIZE, 255)
    seeds[3] = (logits.argmax(0)[3] + 1) % C
    found = refine(image, logits=logits, clamp=seeds, iterations=0)
    assert found.changed.relabeled == 0  # by the CRF
    assert found.changed.pixels == N


@pytest.mark.parametrize("engine", ENGINES)
def test_independent_masks(
    image: np.ndarray, logits: np.ndarray, held: np.ndarray, engine: str
) -> None:
    masks = logits[:3] > 0.5
    masks[:, 3:12, 4:15] = True
    for extra in ({"clamp": held}, {"band": 1.5}, {"band": 2, "clamp": held}):
        options: dict[str, Any] = {"kernels": [Bilateral(9, 30, 4), Gaussian(2, 3)], **extra}
        found = refine(image, masks=masks, engine=engine, **options)
        for k in range(3):
            alone = refine(
                image, labels=masks[k].astype(int), num_classes=2, engine=engine, **options
            )
            np.testing.assert_allclose(found.probs[k], alone.probs[1], atol=2e-5)


@needs_torch
def test_devices_and_types_of_a_clamp(
    image: np.ndarray, logits: np.ndarray, held: np.ndarray
) -> None:
    scores = torch.from_numpy(logits).half()
    found = refine(image, logits=scores, clamp=held)
    assert found.probs.dtype == torch.float16
    same = refine(image, logits=scores.float(), clamp=torch.from_numpy(held))
    torch.testing.assert_close(found.probs.float(), same.probs, atol=1e-3, rtol=0)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("clamp", "message"),
    [
        (np.zeros((3, 4), bool), "clamp must have the size of the scores, (19, 23); got (3, 4)"),
        (np.zeros(SIZE), "clamp must be bool, True where"),
        (np.full(SIZE, 4), "clamp leaves no pixel free"),
        (
            np.where(np.arange(23) < 3, 4, 255) + np.zeros(SIZE, int),
            "0..3, or 255 for free pixels; got 4 to 4",
        ),
        (np.where(np.arange(23) < 3, -1, 255) + np.zeros(SIZE, int), "got -1 to -1"),
        ("seeds.png", "clamp must be a NumPy array or a torch tensor"),
    ],
)
def test_bad_clamps(image: np.ndarray, logits: np.ndarray, clamp: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        refine(image, logits=logits, clamp=clamp)
    assert message in str(caught.value)


@pytest.mark.unchecked
@pytest.mark.parametrize("band", [0, -1, float("nan"), float("inf"), True, (1, 2), "wide", None])
def test_bad_bands(image: np.ndarray, logits: np.ndarray, band: Any) -> None:
    if band is None:
        refine(image, logits=logits, band=band)
        return
    with pytest.raises((ValueError, TypeError), match="band"):
        refine(image, logits=logits, band=band)


def test_masks_have_no_classes(image: np.ndarray, seeds: np.ndarray) -> None:
    with pytest.raises(TypeError, match="clamp must be bool for masks, which have no classes"):
        refine(image, masks=np.zeros((2, *SIZE), bool), clamp=seeds)


@needs_core
def test_from_256_classes_on_255_is_a_class(image: np.ndarray) -> None:
    scores = np.zeros((256, *SIZE), np.float32)
    seeds = np.full(SIZE, 65535)
    seeds[3, 4], seeds[5, 6] = 255, 7
    found = refine(image, logits=scores, clamp=seeds, iterations=1)
    assert (found.labels[3, 4], found.labels[5, 6]) == (255, 7)
    assert found.probs[255, 3, 4] == 1
    with pytest.raises(ValueError, match="a map of 256 classes, 65535 marks free pixels"):
        refine(image, logits=scores, clamp=np.full(SIZE, 255))
    with pytest.raises(ValueError, match=r"classes 0\.\.254, or 255 for free pixels"):
        refine(image, logits=scores[:255], clamp=seeds)
