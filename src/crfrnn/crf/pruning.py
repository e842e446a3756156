"""Leaves classes that provably stay unlikely out of the recurrence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crfrnn import ops
from crfrnn.ops import Options

from .inference import Pairwise

#: Largest message, in logits, that a class may receive at any pixel in any step to be left out.
LIMIT = 0.5

#: Classes whose marginals stay below this fraction of the likeliest class's are tested together.
_RARE = 0.05

#: Largest number of tests, with one for the rare classes. A test filters one column; four columns
#: cost almost nothing.
_TESTS = 4

#: A class whose marginals nowhere exceed this fraction of the likeliest class's cannot win by a
#: message of `LIMIT`.
_NEVER = math.exp(-LIMIT)


@dataclass(frozen=True)
class Pruned:
    """The classes that are kept, and the bound that certifies leaving out the others.

    Attributes:
        kept: the classes that take part.
        bound: an upper bound, in logits, of every message to a class that is left out, at any pixel
            in any step. The marginals of that class stay below exp(bound) times those of the unary
            term, and it is the likeliest class at no pixel.
    """

    kept: tuple[int, ...]
    bound: float


@dataclass(frozen=True)
class Marginals:
    """The result of the recurrence.

    Attributes:
        probs: (B, C, *S) marginals.
        labels: (B, *S) int64, the likeliest class of each pixel.
        steps: the updates computed for each image of the batch.
        pruned: the certificate of the classes that were left out; None if all took part.
    """

    probs: Tensor
    labels: Tensor
    steps: list[int]
    pruned: Pruned | None


def certify(logits: Tensor, model: ops.Model, iterations: int) -> Pruned | None:
    """Find the classes that provably stay unlikely; None if fewer than two do.

    A class is left out if every message to it stays below `LIMIT`, and its marginals are everywhere
    so far below those of the likeliest class that such a message cannot make it the likeliest. The
    proof needs Potts compatibility and non-negative kernel weights.

    Args:
        logits: the unary term (B, C, N).
        model: kernel weights (K, C) of a Potts model, and the normalized kernels.
        iterations: number of steps of the recurrence.
    """
    # Proof, with w >= 0 and filters F whose entries are not negative.
    # 1. Potts logits are z_t(c) = u(c) + m_t(c), up to a constant per pixel, and every m_t >= 0. So
    #      Q_t(c) = e^(u(c) + m_t(c)) / Σ_d e^(u(d) + m_t(d)) <= e^m_t(c) Q_0(c).
    # 2. F is monotone. If m_t(c) <= M_t at all pixels, then
    #      m_{t+1}(c) = Σ w F Q_t(c) <= e^M_t Σ w F Q_0(c) <= e^M_t M_1,
    #    where M_1 bounds the first message Σ w F Q_0(c). `_growth` iterates M_{t+1} = M_1 e^M_t.
    # 3. Let d be the likeliest class of a pixel, and Q_0(c) <= e^-LIMIT Q_0(d), so that
    #    u(c) <= u(d) - LIMIT. With m_t(c) <= LIMIT and m_t(d) >= 0,
    #      u(c) + m_t(c) <= u(d) <= u(d) + m_t(d): c never wins.
    # A group of classes is tested as a single class, with the largest logit of its members at each
    # pixel and their largest weight per kernel. Fewer classes then share the softmax, so its Q_0 is
    # at least that of each member, and so is the message.
    classes = logits.shape[1]
    if classes < 4 or not model.terms or iterations < 1 or model.weights.dim() != 2:
        return None
    groups = _groups(ops.class_peaks(logits, model.engine))
    # Leaving out a single class saves nothing: the class that stands for it takes its place.
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
    """Groups of classes to test, from each class's largest ratio to the likeliest class."""
    order = sorted((peak, c) for c, peak in enumerate(peaks) if peak <= _NEVER)
    rare = [c for peak, c in order if peak < _RARE]
    alone = [[c] for peak, c in order if peak >= _RARE]
    return [*([rare] if rare else []), *alone][:_TESTS]


def _growth(first: float, iterations: int) -> float:
    """The bound M_T of the last message, from the bound M_1 of the first."""
    bound = first
    for _ in range(iterations - 1):
        bound = first * math.exp(min(bound, 1.0))  # clamped beyond LIMIT, to not overflow
    return bound


def marginals(
    logits: Tensor, pairwise: Pairwise, options: Options, *, prune: bool = True
) -> Marginals:
    """Run the recurrence without gradients, and leave out the classes that `certify` permits.

    A single class stands for all that are left out. It takes part in the softmax and sends no
    messages. At the end, the logit of each class that was left out is shifted by as
    much as the logit of that single class.

    Args:
        logits: the unary term (B, C, *S).
        pairwise: kernels, weights and compatibility. Only Potts models allow pruning.
        options: iterations, tolerance and precision.
        prune: whether to leave classes out if that can save more than the search costs.

    Raises:
        ValueError: the result is not finite.
    """
    flat = logits.flatten(2)
    with torch.no_grad():
        model = pairwise.model(logits)
        prune = prune and ops.worth_pruning(logits, model.engine)
        pruned = certify(flat, model, options.iterations) if prune else None
        if pruned is not None:
            # Weight zero: the message of the stand-in is zero. Its logit is the log of the sum of
            # the exponentials of those that it replaces, so their softmax is exact.
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
