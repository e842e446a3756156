"""Leaving classes out of the recurrence that provably stay unlikely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crfrnn import ops
from crfrnn.ops import Options

from .inference import Pairwise

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


def certify(logits: Tensor, model: ops.Model, iterations: int) -> Pruned | None:
    """Find the classes that can be left out, with a proof; None if there are none.

    With Potts compatibility and kernel weights w >= 0, messages are not negative, so that at each
    pixel a message m_t to class c raises its marginal to exp(m_t) Q_0(c) at most. Filters are
    monotonous: from M_1, the largest first message Σ w F Q_0(c) at any pixel, the bounds
    M_{t+1} = M_1 exp(M_t) hold by induction. A class is left out if its bound stays below `LIMIT`
    and it is so far below the likeliest class everywhere that it cannot become that.

    Args:
        logits: the unary term (B, C, N).
        model: kernel weights (K, C) of a Potts model, and the normalized kernels.
        iterations: steps to come.
    """
    classes = logits.shape[1]
    if classes < 4 or not model.terms or iterations < 1 or model.weights.dim() != 2:
        return None
    groups = _groups(ops.class_peaks(logits, model.engine))
    # A class alone is no gain: the one that stands for those left out takes its place.
    if sum(map(len, groups)) < 2 or bool((model.weights < 0).any()):
        return None
    largest = torch.stack([model.weights[:, group].amax(1) for group in groups], dim=1)
    first = ops.message_peaks(logits, groups, model._replace(weights=largest))
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
    logits: Tensor, pairwise: Pairwise, options: Options, *, prune: bool = True
) -> Marginals:
    """Run the recurrence without gradients, on as few classes as can be certified.

    The classes left out stand together as one that takes part in the softmax and sends no messages;
    afterwards each of them has moved as that one did.

    Args:
        logits: the unary term (B, C, *S).
        pairwise: kernels, weights and compatibility. Only Potts models allow pruning.
        options: iterations, tolerance and precision.
        prune: whether to leave classes out, where that can save more than it costs.

    Raises:
        ValueError: the result is not finite.
    """
    flat = logits.flatten(2)
    with torch.no_grad():
        model = pairwise.model(logits)
        prune = prune and ops.worth_pruning(logits, model.engine)
        pruned = certify(flat, model, options.iterations) if prune else None
        if pruned is not None:
            rest = model.weights.new_zeros(len(model.terms), 1)
            weights = torch.cat([model.weights[:, list(pruned.kept)], rest], dim=1)
            model = model._replace(weights=weights, kept=pruned.kept)
        probs, labels, steps, finite = ops.marginals(flat, model, options)
    if not finite:
        raise ValueError(
            f"the scores, kernel weights or compatibility are too large for {probs.dtype}: the "
            f"result is not finite. Scale them down, or give the scores in float64."
        )
    return Marginals(
        probs.view(logits.shape), labels.view(-1, *logits.shape[2:]), steps.tolist(), pruned
    )
