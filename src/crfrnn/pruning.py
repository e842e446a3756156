"""Leaving classes out of the recurrence that provably stay unlikely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import ops
from .filters import KernelFilter
from .recurrence import penalty_weights

#: A class may be left out if no message to it exceeds this, in logits, at any pixel in any step.
LIMIT = 0.5

#: Classes whose marginals stay below this part of the likeliest class's are tested together, ...
_RARE = 0.05

#: ... others one by one, so many in all: rows that short cost next to nothing to filter. From the
#: limit follows that a class below this part of the likeliest one's never becomes the likeliest.
_TESTS = 4
_NEVER = math.exp(-LIMIT)


@dataclass(frozen=True)
class Pruned:
    """Classes that are left out, and what is known of them.

    Attributes:
        kept: the classes that take part.
        bound: no message to a class that is left out exceeds this, in logits, at any pixel in any
            step. So its marginals stay below exp(bound) times those of the unary term, and it is
            the likeliest class of no pixel.
    """

    kept: tuple[int, ...]
    bound: float


@dataclass(frozen=True)
class Marginals:
    """What the recurrence comes to.

    Attributes:
        probs: (B, C, *S) marginals.
        labels: (B, *S) int64, the likeliest class of each pixel.
        steps: the updates that each image of the batch made.
        pruned: what was left out; None if nothing.
    """

    probs: Tensor
    labels: Tensor
    steps: list[int]
    pruned: Pruned | None


def certify(
    logits: Tensor,
    filters: Sequence[KernelFilter],
    weights: Tensor,
    iterations: int,
    engine: str,
) -> Pruned | None:
    """Find the classes that can be left out, with a proof; None if there are none.

    With Potts compatibility and kernel weights w >= 0, messages are not negative, so that at each
    pixel a message m_t to class c raises its marginal to exp(m_t) Q_0(c) at most. Filters are
    monotonous: from M_1, the largest first message Σ w F Q_0(c) at any pixel, the bounds
    M_{t+1} = M_1 exp(M_t) hold by induction. A class is left out if its bound stays below `LIMIT`
    and it is so far below the likeliest class everywhere that it cannot become that.

    Args:
        logits: the unary term (B, C, *S).
        filters: the normalised kernels.
        weights: kernel weights (K, C) of the Potts model.
        iterations: steps to come.
        engine: the engine to search with.
    """
    classes = logits.shape[1]
    if classes < 4 or not filters or iterations < 1:
        return None
    peaks = ops.class_peaks(logits.flatten(2), engine)
    groups = _groups(peaks)
    # A class alone is no gain: the one that stands for those left out takes its place.
    if sum(map(len, groups)) < 2 or bool((weights < 0).any()):
        return None
    terms = [kernel.term(logits, total=False) for kernel in filters]
    largest = torch.stack([weights[:, group].amax(1) for group in groups], dim=1)
    size = logits.shape[2:]
    first = ops.message_peaks(logits.flatten(2), groups, largest, size, terms, engine)
    bounds = [_growth(message, iterations) for message in first]
    left_out = {
        c for group, bound in zip(groups, bounds, strict=True) if bound <= LIMIT for c in group
    }
    if len(left_out) < 2:
        return None
    kept = tuple(c for c in range(classes) if c not in left_out)
    return Pruned(kept, max(bound for bound in bounds if bound <= LIMIT))


def _groups(peaks: Sequence[float]) -> list[list[int]]:
    """Classes to test, from the ratios of their marginals to the likeliest one's."""
    order = sorted((peak, c) for c, peak in enumerate(peaks) if peak <= _NEVER)
    rare = [c for peak, c in order if peak < _RARE]
    alone = [[c] for peak, c in order if peak >= _RARE]
    return [*([rare] if rare else []), *alone][:_TESTS]


def _growth(first: float, iterations: int) -> float:
    """The bound of the last message, from that of the first."""
    bound = first
    for _ in range(iterations - 1):
        bound = first * math.exp(min(bound, 1.0))  # above LIMIT all are alike
    return bound


def marginals(
    logits: Tensor,
    filters: Sequence[KernelFilter],
    weights: Tensor,
    compatibility: Tensor | None,
    iterations: int,
    *,
    prune: bool = True,
    tolerance: float = 0.0,
    half: bool = False,
    engine: str | None = None,
) -> Marginals:
    """Run the recurrence without gradients, on as few classes as can be certified.

    The classes left out stand together as one that takes part in the softmax and sends no messages;
    afterwards each of them has moved as that one did.

    Args:
        logits: the unary term (B, C, *S).
        filters: the normalised kernels.
        weights: kernel weights, (K,), (K, C) or (K, C, C).
        compatibility: (C, C) penalties; None is Potts, the only one that allows pruning.
        iterations: number of updates.
        prune: whether to leave classes out, where that can save more than it costs.
        tolerance: as in `recurrence.infer`.
        half: whether lattices store their values in half precision, where the engine can.
        engine: as in `recurrence.infer`.

    Raises:
        ValueError: the result is not finite.
    """
    engine = ops.resolve_engine(engine, logits.device, logits.dtype)
    with torch.no_grad():
        weights = penalty_weights(weights, compatibility, logits)
        pruned = None
        if prune and weights.dim() == 2 and ops.worth_pruning(logits, engine):
            pruned = certify(logits, filters, weights, iterations, engine)
        kept: list[int] = []
        if pruned is not None:
            kept = list(pruned.kept)
            weights = torch.cat([weights[:, kept], weights.new_zeros(len(filters), 1)], dim=1)
        total = pruned is None and ops.needs_total(logits.shape[1], engine)
        terms = [f.term(logits, total) for f in filters]
        size = logits.shape[2:]
        probs, labels, steps, finite = ops.marginals(
            logits.flatten(2), weights, size, terms, iterations, tolerance, kept, half, engine
        )
    if not finite:
        raise ValueError(
            f"the scores, kernel weights or compatibility are too large for {probs.dtype}: the "
            f"result is not finite. Scale them down, or give the scores in float64."
        )
    return Marginals(probs.view(logits.shape), labels.view(-1, *size), steps.tolist(), pruned)
