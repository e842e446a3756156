"""Classes left out of the inference: what is proven of them holds, and little changes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crfrnn import Bilateral, Gaussian, ops, refine
from crfrnn.core.native import core_missing
from crfrnn.crf.filters import KernelFilter
from crfrnn.crf.inference import Pairwise
from crfrnn.crf.marginals import Pruned
from crfrnn.crf.pruning import LIMIT, certify
from tests.cases import build_filters, infer

KERNELS = (Bilateral(position=12, color=20, weight=4), Gaussian(position=2, weight=3))
SIZE = (24, 33)
ENGINES = [name for name in ("cpu", "reference") if name != "cpu" or not core_missing()]


def scene(classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (1, C, H, W) of three regions; the further a class, the less likely; and an image."""
    random = torch.Generator().manual_seed(seed)
    height, width = SIZE
    region = torch.arange(width) * 3 // width
    image = (region * 90.0).expand(1, 3, height, width) + 4 * torch.randn(
        1, 3, height, width, generator=random
    )
    logits = torch.randn(1, classes, height, width, generator=random)
    logits[:, :3] += 4 * torch.nn.functional.one_hot(region, 3).T[None, :, None, :]
    logits[:, 3:] -= torch.linspace(1, 9, classes - 3)[None, :, None, None]
    return logits, image


def filters_of(
    logits: Tensor, image: Tensor, normalization: str = "symmetric", engine: str = "reference"
) -> list[KernelFilter]:
    return build_filters(
        KERNELS, logits, image, [], normalization=normalization, filter="lattice", engine=engine
    )


def table(logits: Tensor, *weights: float) -> Tensor:
    return torch.tensor(weights).float()[:, None].expand(-1, logits.shape[1]).contiguous()


def message(filters: list[KernelFilter], weights: Tensor, q: Tensor) -> Tensor:
    return sum(
        (w[:, None, None] * f(q) for w, f in zip(weights, filters, strict=True)),
        torch.zeros_like(q),
    )


def certify_scene(
    logits: Tensor, filters: list[KernelFilter], weights: Tensor, iterations: int
) -> Pruned | None:
    model = Pairwise(filters, weights, engine="reference").model(logits)
    return certify(logits.flatten(2), model, iterations)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("normalization", ["symmetric", "after", "before"])
def test_the_bound_holds_at_every_pixel_in_every_step(seed: int, normalization: str) -> None:
    logits, image = scene(12, seed)
    filters = filters_of(logits, image, normalization)
    weights = table(logits, 4, 3)
    pruned = certify_scene(logits, filters, weights, 8)
    assert pruned is not None
    assert pruned.bound <= LIMIT
    left_out = [c for c in range(12) if c not in pruned.kept]
    start = logits.softmax(1)
    for step in range(8):
        q = infer(logits, filters, weights, None, step)[0].softmax(1)
        assert (q[:, left_out] <= math.exp(pruned.bound) * start[:, left_out] * 1.0001).all()
        assert message(filters, weights, q)[:, left_out].max() <= pruned.bound * 1.0001
        assert not np.isin(q.argmax(1).numpy(), left_out).any()


def _where(logits: Tensor) -> tuple[torch.device, torch.dtype]:
    return logits.device, logits.dtype


@pytest.mark.parametrize("engine", ENGINES)
def test_little_changes(engine: str) -> None:
    logits, image = scene(21)
    options = {"kernels": KERNELS, "iterations": 10, "normalization": "symmetric", "engine": engine}
    pruned = refine(image, logits=logits, **options)
    whole = refine(image, logits=logits, prune=False, **options)
    (certificate,) = pruned.pruned
    assert certificate is not None
    assert whole.pruned == [None]
    assert {0, 1, 2} <= set(certificate.kept)
    assert len(certificate.kept) < 15
    assert torch.equal(pruned.labels, whole.labels)
    torch.testing.assert_close(pruned.probs, whole.probs, atol=1e-3, rtol=0)
    torch.testing.assert_close(pruned.probs.sum(1), torch.ones(1, *SIZE))


@pytest.mark.parametrize(
    "groups",
    [
        [[15, 3, 7], [4], [9, 10]],
        [[c] for c in range(16)],
    ],
)
def test_messages_are_bounded(groups: list[list[int]]) -> None:
    logits, image = scene(16)
    logits, image = logits.repeat(2, 1, 1, 1), torch.cat([image, image.flip(3)])
    weights = torch.rand(2, len(groups), generator=torch.Generator().manual_seed(1)) + 1
    columns = torch.zeros(2, 16)
    for group, weight in zip(groups, weights.T, strict=True):
        columns[:, group] = weight[:, None]
    true = message(filters_of(logits, image), columns, logits.softmax(1)).amax((0, 2, 3))
    terms = [f.term for f in filters_of(logits, image)]
    model = ops.Model(weights, SIZE, terms, "reference")
    found = ops.message_peaks(logits.flatten(2), groups, model)
    for bound, group in zip(found, groups, strict=True):
        largest = true[group].max().item()
        assert largest - 1e-5 <= bound <= largest * (1.5 if len(group) > 1 else 1.01) + 1e-5


@pytest.mark.skipif("cpu" not in ENGINES, reason="the core is missing")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("normalization", ["symmetric", "after", "before", "none"])
@pytest.mark.parametrize("weights", [(4, 3), (0.5, 0.1), (tuple(range(1, 17)), 0.2), (-1, 3)])
def test_the_core_certifies_what_the_reference_does(
    seed: int, normalization: str, weights: tuple[Any, Any]
) -> None:
    logits, image = scene(16, seed)
    kernels = [
        dataclasses.replace(kernel, weight=weight)
        for kernel, weight in zip(KERNELS, weights, strict=True)
    ]
    options = {"kernels": kernels, "iterations": 6, "normalization": normalization}
    for scores in (logits[0].numpy(), logits[0].flip(2).numpy()):
        ours, theirs = (
            refine(image[0].numpy(), logits=scores, engine=engine, **options).pruned
            for engine in ("cpu", "reference")
        )
        if theirs is None:
            assert ours is None
        else:
            assert isinstance(theirs, Pruned)
            assert isinstance(ours, Pruned)
            assert ours.kept == theirs.kept
            np.testing.assert_allclose(ours.bound, theirs.bound, rtol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_has_a_certificate_per_image(engine: str) -> None:
    logits, image = scene(12)
    flat = torch.zeros_like(logits)  # nothing can be left out
    whole, none = (
        refine(image, logits=scores, kernels=KERNELS, engine=engine).pruned
        for scores in (logits, flat)
    )
    assert isinstance(whole, list)
    assert isinstance(whole[0], Pruned)
    assert none == [None]
    batch = torch.cat([logits, flat, logits])
    found = refine(torch.cat([image] * 3), logits=batch, kernels=KERNELS, engine=engine).pruned
    # Engines that compute images together keep the classes that any of them needs.
    assert found == ([whole[0], None, whole[0]] if engine == "cpu" else [None] * 3)


@pytest.mark.parametrize(
    ("change", "weights"),
    [
        ("flat", (4, 3)),  # no class is far behind
        ("few classes", (4, 3)),
        ("none", (4, -1e-6)),
        ("none", (400, 300)),  # messages that matter
    ],
)
def test_off_where_nothing_can_be_proven(change: str, weights: tuple[float, float]) -> None:
    logits, image = scene(12)
    if change == "flat":
        logits = 0.3 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    if change == "few classes":
        logits = logits[:, :3]
    filters = filters_of(logits, image)
    assert certify_scene(logits, filters, table(logits, *weights), 5) is None


def test_off_with_a_compatibility_or_no_steps() -> None:
    logits, image = (tensor[0] for tensor in scene(12))
    potts = 1 - torch.eye(12)
    assert isinstance(refine(image, logits=logits, kernels=KERNELS).pruned, Pruned)
    assert refine(image, logits=logits, kernels=KERNELS, compatibility=potts).pruned is None
    assert refine(image, logits=logits, kernels=KERNELS, iterations=0).pruned is None


def flat(probs: list[float]) -> tuple[Tensor, Tensor]:
    """Logits (1, C, H, W) of the same marginals everywhere, and an image of one color."""
    logits = torch.tensor(probs).log()[None, :, None, None].expand(1, -1, *SIZE).contiguous()
    return logits, torch.full((1, 3, *SIZE), 128.0)


def test_the_bound_follows_messages_that_grow() -> None:
    """Only the unlikely classes have weights, so that each step raises them further."""
    logits, image = flat([0.5, 0.44, 0.03, 0.03])
    kernel = Bilateral(position=12, color=20)
    filters = build_filters(
        [kernel], logits, image, [], normalization="after", filter="lattice", engine="reference"
    )
    weights = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    steps = 10
    pruned = certify_scene(logits, filters, weights, steps)
    assert pruned is not None
    assert pruned.kept == (0, 1)
    q = infer(logits, filters, weights, None, steps - 1)[0].softmax(1)
    last = message(filters, weights, q).amax()
    assert last > 1.3 * message(filters, weights, logits.softmax(1)).amax()
    assert last <= pruned.bound


def test_a_class_that_a_small_message_lets_win_stays() -> None:
    logits, image = flat([0.5, 0.4, 0.05, 0.05])
    kernel = Bilateral(position=12, color=20, weight=(0, 1, 0, 0))
    given = {"logits": logits, "kernels": [kernel], "iterations": 1, "normalization": "after"}
    pruned, whole = (refine(image, **given, prune=prune) for prune in (True, False))
    assert pruned.pruned[0].kept == (0, 1)
    assert (whole.labels == 1).all()
    assert (pruned.labels == 1).all()
