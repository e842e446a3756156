"""Leaving classes out of the recurrence that provably stay negligible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _checks, ops
from .filters import KernelFilter
from .recurrence import penalty_weights

#: A class whose marginals start below this everywhere may be left out, or below a quarter of 1 / C
#: where that is less: it then never comes near to winning a pixel.
THRESHOLD = 0.01


@dataclass(frozen=True)
class Pruned:
    """Classes that are left out, and what is known of them.

    Attributes:
        kept: the classes that take part.
        bound: no marginal of a class that is left out exceeds this, at any pixel after any step.
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

    With Potts compatibility, kernel weights w >= 0 and filters whose row sums are at most r, the
    message to a class is between 0 and Σ w r max Q. Since messages to the others are not negative,
    its marginals after a step are at most exp(Σ w r max Q) times those of the unary term. So, from
    e_0 = max Q_0, the bounds e_{t+1} = e_0 exp(Σ w r e_t) hold by induction. Classes are left out
    when they start below `THRESHOLD` and their bound does not double.

    Args:
        logits: the unary term (B, C, *S).
        filters: the normalised kernels.
        weights: kernel weights (K, C) of the Potts model.
        iterations: steps to come.
        engine: the engine to search with.
    """
    classes = logits.shape[1]
    if classes < 4 or not filters:
        return None
    peaks = ops.class_peaks(logits.flatten(2), engine)
    threshold = min(THRESHOLD, 0.25 / classes)
    kept = tuple(c for c, peak in enumerate(peaks) if peak >= threshold)
    if len(kept) > classes - 2:
        return None
    totals = [kernel.term(logits, total=True).total for kernel in filters]
    row_sums = [weights.new_tensor(math.inf) if t is None else _largest(t) for t in totals]
    # All numbers at once, because reading them waits for a device.
    read = torch.stack([weights.min(), *weights.amax(1), *row_sums]).tolist()
    lowest, largest, row_sums = read[0], read[1 : len(filters) + 1], read[len(filters) + 1 :]
    if lowest < 0:
        return None
    growth = sum(weight * total for weight, total in zip(largest, row_sums, strict=True))
    start = bound = max(peak for peak in peaks if peak < threshold)
    for _ in range(iterations):
        bound = start * math.exp(min(growth * bound, 1.0))
    return Pruned(kept, bound) if bound < 2 * start else None


def _largest(tensor: Tensor) -> Tensor:
    """The largest value; see `_checks.plain`."""
    plain = _checks.plain(tensor)
    return plain.max() if isinstance(plain, Tensor) else tensor.new_tensor(plain.max())


def marginals(
    logits: Tensor,
    filters: Sequence[KernelFilter],
    weights: Tensor,
    compatibility: Tensor | None,
    iterations: int,
    *,
    prune: bool = True,
    tolerance: float = 0.0,
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
        prune: whether to leave classes out.
        tolerance: as in `recurrence.infer`.
        engine: as in `recurrence.infer`.

    Raises:
        ValueError: the result is not finite.
    """
    engine = ops.resolve_engine(engine, logits.device, logits.dtype)
    with torch.no_grad():
        weights = penalty_weights(weights, compatibility, logits)
        pruned = None
        if prune and weights.dim() == 2:
            pruned = certify(logits, filters, weights, iterations, engine)
        kept: list[int] = []
        if pruned is not None:
            kept = list(pruned.kept)
            weights = torch.cat([weights[:, kept], weights.new_zeros(len(filters), 1)], dim=1)
        terms = [f.term(logits, total=pruned is None and engine == "cpu") for f in filters]
        probs, labels, steps, finite = ops.marginals(
            logits.flatten(2), weights, logits.shape[2:], terms, iterations, tolerance, kept, engine
        )
    if not finite:
        raise ValueError(
            f"the scores, kernel weights or compatibility are too large for {probs.dtype}: the "
            f"result is not finite. Scale them down, or give the scores in float64."
        )
    size = logits.shape[2:]
    return Marginals(probs.view(logits.shape), labels.view(-1, *size), steps.tolist(), pruned)
