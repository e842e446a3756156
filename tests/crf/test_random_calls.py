"""Small random calls of `refine`: what has to hold of every result, whatever the options."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crfrnn import CRFRNN, Bilateral, Gaussian, refine
from crfrnn.core.native import core_missing
from crfrnn.offline.refined import Refined

pytestmark = [
    pytest.mark.skipif(bool(core_missing()), reason="the core is missing"),
    pytest.mark.usefixtures("one_thread"),
]

#: The profile's number of inputs is for tests whose examples take longer.
MANY = settings(max_examples=5 * settings.default.max_examples)

CLASSES = (2, 3, 4, 5, 6, 9, 13, 21, 33, 34)
NORMALIZATIONS = ("symmetric", "after", "before", "none")


@dataclass(frozen=True)
class Call:
    """Logits (B, C, H, W) or, of energies, their negatives; and the rest of a call."""

    image: np.ndarray
    logits: np.ndarray
    options: dict[str, Any]

    def refine(self, engine: str = "cpu", **options: Any) -> Refined:
        return refine(self.image, logits=self.logits, **{**self.options, **options}, engine=engine)


def draw(seed: int) -> Call:
    """A call on up to three tiny images, where classes are often tied, or rare."""
    random = np.random.default_rng(seed)
    batch, classes = int(random.integers(1, 4)), int(random.choice(CLASSES))
    size = tuple(int(s) for s in random.choice([1, 2, 3, 5, 8], 2))
    logits = random.choice([0.0, 0.01, 1.0, 5.0]) * random.normal(size=(batch, classes, *size))
    if random.integers(2):
        logits[:, classes // 2 :] -= random.uniform(0, 8)
    kernels = [
        Bilateral(
            position=random.uniform(1, 30),
            color=random.uniform(1, 30),
            weight=float(random.choice([0.1, 1, 4, 10])),
        ),
        Gaussian(position=random.uniform(0.5, 5), weight=float(random.choice([0.1, 1, 3]))),
    ]
    options = {
        "kernels": [kernels, kernels[:1], kernels[1:]][random.integers(3)],
        "iterations": int(random.choice([0, 1, 2, 5, 10])),
        "normalization": str(random.choice(NORMALIZATIONS)),
        "filter": str(random.choice(["lattice", "exact"])),
        "channels_last": True,
        "tol": [None, None, None, 0.001][random.integers(4)],
        "precision": ["full", "full", "full", "half"][random.integers(4)],
    }
    image = random.integers(0, 256, (batch, *size, 3), dtype=np.uint8)
    dtype = np.float64 if random.integers(4) == 0 else np.float32
    return Call(image, logits.astype(dtype), options)


SEEDS = st.integers(0, 2**32 - 1)


@MANY
@given(seed=SEEDS, as_energy=st.booleans(), engine=st.sampled_from(["cpu", "reference"]))
def test_probabilities_sum_to_one_and_labels_are_the_likeliest(
    seed: int, as_energy: bool, engine: str
) -> None:
    call = draw(seed)
    name, scores = ("energy", -call.logits) if as_energy else ("logits", call.logits)
    result = refine(call.image, **{name: scores}, **call.options, engine=engine)
    assert result.probs.shape == call.logits.shape
    total = result.probs.astype(np.float64).sum(1)
    tolerance = sum_tolerance(result.probs.dtype, call.logits.shape[1])
    np.testing.assert_allclose(total, 1, rtol=0, atol=tolerance)
    chosen = np.take_along_axis(result.probs, result.labels[:, None], 1)
    np.testing.assert_array_equal(chosen[:, 0], result.probs.max(1))


def sum_tolerance(dtype: np.dtype[Any], classes: int) -> float:
    """How far the sum of probabilities is from one; float16 rounds each by 2^-12 of itself."""
    return 5e-4 if dtype == np.float16 else float((classes + 8) * np.finfo(dtype).eps)


@MANY
@given(
    seed=SEEDS,
    kind=st.sampled_from(["logits", "energy", "labels"]),
    classes=st.sampled_from([2, 3]),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    engine=st.sampled_from(["cpu", "reference"]),
)
def test_batches_of_single_pixels(
    seed: int, kind: str, classes: int, dtype: str, engine: str
) -> None:
    random = np.random.default_rng(seed)
    batch = int(random.integers(2, 4))
    scale = random.choice([0.0, 0.01, 1.0, 30.0, 1e4])
    scores = (scale * random.normal(size=(batch, classes, 1, 1))).astype(dtype)
    options = {**draw(seed).options, "engine": engine}
    if kind == "labels":
        scores = random.integers(0, classes, (batch, 1, 1))
        options["num_classes"] = classes
    image = random.integers(0, 256, (batch, 1, 1, 3), dtype=np.uint8)
    result = refine(image, **{kind: scores}, **options)
    assert result.probs.shape == (batch, classes, 1, 1)
    probs = result.probs.astype(np.float64)
    atol = sum_tolerance(result.probs.dtype, classes)
    np.testing.assert_allclose(probs.sum(1), 1, rtol=0, atol=atol)
    chosen = np.take_along_axis(result.probs, result.labels[:, None], 1)
    np.testing.assert_array_equal(chosen[:, 0], result.probs.max(1))
    if dtype != "float16":
        np.testing.assert_array_equal(result.labels, result.probs.argmax(1))
    # A pixel alone in its image, whose classes get equal weights, keeps its likeliest class.
    expected = {"logits": scores, "energy": -scores}.get(kind)
    if expected is not None:
        np.testing.assert_array_equal(result.labels, expected.argmax(1))


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize("classes", [150, 1000])
def test_probabilities_of_many_classes_sum_to_one(classes: int, engine: str) -> None:
    """The worst that was found: labels, in which all classes but one are tied."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    labels = random.integers(0, classes, (8, 8))
    result = refine(image, labels=labels, num_classes=classes, engine=engine)
    total = result.probs.astype(np.float64).sum(0)
    atol = sum_tolerance(result.probs.dtype, classes)
    np.testing.assert_allclose(total, 1, rtol=0, atol=atol)


@MANY
@given(seed=SEEDS)
def test_the_layer_differs_as_little_as_rounding_explains(seed: int) -> None:
    """It derives the message to the last class from the others; `refine` filters all of them."""
    call = draw(seed)
    tensors = torch.from_numpy(call.logits), torch.from_numpy(call.image).movedim(-1, 1)
    names = ("kernels", "iterations", "normalization", "filter")
    chosen = {name: call.options[name] for name in names}
    layer = CRFRNN(
        call.logits.shape[1],
        **{**chosen, "eval_iterations": chosen["iterations"]},
        weights="scalar",
    )
    layer = layer.to(tensors[0].dtype).eval()
    with torch.no_grad():
        for row, kernel in zip(layer.kernel_weights, chosen["kernels"], strict=True):
            row.fill_(kernel.weight)  # a new layer has rounded it to float32
        theirs = layer(tensors[0], tensors[1].to(tensors[0].dtype)).softmax(1).numpy()
    call = replace(call, options={**call.options, "tol": None, "precision": "full"})
    ours = call.refine(prune=False).probs
    few = 16 * np.finfo(call.logits.dtype).eps
    noise = np.random.default_rng(seed).uniform(-1, 1, call.logits.shape)
    scale = np.maximum(np.abs(call.logits), 1)
    near = replace(call, logits=(call.logits + few * scale * noise).astype(call.logits.dtype))
    moved = np.abs(near.refine(prune=False).probs - ours).max()
    np.testing.assert_allclose(theirs.sum(1), 1, atol=sum_tolerance(theirs.dtype, len(theirs[0])))
    assert np.abs(theirs - ours).max() <= 100 * (moved + few)


@MANY
@given(seed=SEEDS)
def test_classes_that_change_places_change_nothing_else(seed: int) -> None:
    """To the bit in the core, if the model is Potts."""
    call = draw(seed)
    order = np.random.default_rng(seed).permutation(call.logits.shape[1])
    swapped = replace(call, logits=np.ascontiguousarray(call.logits[:, order]))
    np.testing.assert_array_equal(call.refine().probs[:, order], swapped.refine().probs)


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize("filter", ["lattice", "exact"])
@pytest.mark.parametrize("classes", CLASSES)
def test_a_tie_stays_a_tie(classes: int, filter: str, engine: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for normalization in NORMALIZATIONS:
        for dtype in (np.float32, np.float64):
            result = refine(
                image,
                logits=np.zeros((classes, 9, 7), dtype),
                preset="psa",
                filter=filter,
                normalization=normalization,
                iterations=30,
                engine=engine,
            )
            np.testing.assert_allclose(result.probs, 1 / classes, rtol=4 * np.finfo(dtype).eps)
            assert not result.labels.any()


@MANY
@given(seed=SEEDS)
def test_the_core_differs_from_the_reference_as_little_as_rounding_explains(seed: int) -> None:
    """By no more than 100 times what a change of the logits by a few roundings does."""
    call = draw(seed)
    # An image may stop a step earlier or later.
    call = replace(call, options={**call.options, "tol": None, "precision": "full"})
    few = 16 * np.finfo(call.logits.dtype).eps
    noise = np.random.default_rng(seed).uniform(-1, 1, call.logits.shape)
    scale = np.maximum(np.abs(call.logits), 1)
    near = replace(call, logits=(call.logits + few * scale * noise).astype(call.logits.dtype))
    # Without pruning: a bound at the limit may fall on either side of it.
    theirs = call.refine("reference", prune=False).probs
    moved = np.abs(near.refine("reference", prune=False).probs - theirs).max()
    apart = np.abs(call.refine(prune=False).probs - theirs).max()
    assert apart <= 100 * (moved + few)


@MANY
@given(seed=SEEDS)
def test_what_is_certified_holds_in_the_full_inference(seed: int) -> None:
    call = draw(seed)
    check_certificate(replace(call, options={**call.options, "tol": None, "precision": "full"}))


def check_certificate(call: Call) -> float:
    """Check the statement of `Pruned`. Returns the largest change of a kept class's marginal."""
    pruned, full = call.refine(), call.refine(prune=False)
    change = 0.0
    for b, certificate in enumerate(pruned.pruned):
        if certificate is None:
            np.testing.assert_array_equal(pruned.probs[b], full.probs[b])
            continue
        kept, logits = list(certificate.kept), call.logits[b]
        left_out = np.setdiff1d(np.arange(len(logits)), kept)
        assert certificate.bound <= 0.5
        assert not np.isin(full.labels[b], left_out).any()
        assert not np.isin(pruned.labels[b], left_out).any()
        start = np.exp(logits - logits.max(0), dtype=np.float64)
        start /= start.sum(0)
        most = math.exp(certificate.bound) * start[left_out]
        assert (full.probs[b, left_out] <= most * 1.0001 + 1e-37).all()
        change = max(change, float(np.abs(pruned.probs[b] - full.probs[b])[kept].max()))
    return change


def tied(
    classes: int, size: tuple[int, int], first: int, gap: float, below: float, seed: int
) -> Call:
    """All classes are tied but for a random `gap`; those from `first` on are `below` the others."""
    random = np.random.default_rng(seed)
    logits = gap * random.normal(size=(1, classes, *size))
    logits[:, first:] -= below
    kernels = [Bilateral(position=25, color=15, weight=7), Gaussian(position=0.6, weight=5)]
    options = {"kernels": kernels, "iterations": 10, "normalization": "after"}
    image = random.integers(0, 256, (1, *size, 3), dtype=np.uint8)
    return Call(image, logits.astype(np.float32), {**options, "channels_last": True})


@pytest.mark.parametrize("classes", [4, 21, 33])
@pytest.mark.parametrize("size", [(1, 1), (5, 5)])
@pytest.mark.parametrize("gap", [0.0, 0.003, 0.03])
def test_what_is_certified_holds_near_ties(classes: int, size: tuple[int, int], gap: float) -> None:
    for first in (2, classes // 2, classes - 2):
        check_certificate(tied(classes, size, first, gap, 1.2, first))


@pytest.mark.parametrize(
    ("worst", "change"),
    [
        ((21, (5, 5), 7, 0.1, 1.5, 1), 0.56),
        ((33, (5, 5), 7, 0.03, 0.9, 18), 0.15),
        ((33, (1, 1), 5, 0.03, 0.7, 2), 0.14),
        ((21, (1, 1), 15, 0.1, 0.7, 7), 0.12),
    ],
)
def test_the_worst_inputs_a_search_found(worst: tuple[Any, ...], change: float) -> None:
    """Of the kept classes nothing is certified: near ties, their marginals may change much."""
    assert check_certificate(tied(*worst)) == pytest.approx(change, abs=0.05)


def test_a_label_per_pixel_is_read_as_a_batch_where_a_volume_would_fit_too() -> None:
    """Images come before volumes: (2, 1, 1) labels are two images of one pixel."""
    labels = np.array([0, 1]).reshape(2, 1, 1)
    image = np.zeros((2, 1, 1, 3), np.uint8)
    two = refine(image, labels=labels)
    assert two.probs.shape == (2, 2, 1, 1)
    np.testing.assert_allclose(two.probs.sum(1), 1, atol=1e-6)
    volume = refine(image[None], labels=labels[None])
    assert volume.probs.shape == (1, 2, 2, 1, 1)
    np.testing.assert_allclose(volume.probs.sum(1), 1, atol=1e-6)
