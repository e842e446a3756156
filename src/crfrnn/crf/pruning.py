"""Finds classes that provably stay unlikely: the reference of csrc/crf/certificate.hpp."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from crfrnn import ops

from .marginals import Pruned

#: Largest message, in logits, that a class may receive at any pixel in any step to be left out.
LIMIT = 0.5

#: Classes whose marginals stay below this fraction of the likeliest class's are tested together.
_RARE = 0.05

#: Largest number of tests, with one for the rare classes. A test filters one column; four columns
#: cost almost nothing.
_TESTS = 4

#: Logits by which a class stays below the likeliest one even with a message of `LIMIT`: the proof
#: needs none, but rounding takes a part of it.
_MARGIN = 0.01

#: A class whose marginals nowhere exceed this fraction of the likeliest class's cannot win by a
#: message of `LIMIT`.
_NEVER = math.exp(-LIMIT - _MARGIN)


def certify(logits: Tensor, model: ops.Model, iterations: int) -> Pruned | None:
    """Find the classes that provably stay unlikely; None if fewer than two do.

    A class is left out if every message to it stays below `LIMIT`, and its marginals are everywhere
    so far below those of the likeliest class that such a message cannot make it the likeliest. The
    proof needs Potts compatibility and non-negative kernel weights. It is about the full inference;
    of the kept classes, which miss the messages that are dropped, it says nothing.

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
    groups = [rare] if rare else []
    likely = (pair for pair in order if pair[0] >= _RARE)
    for _, pairs in itertools.groupby(likely, lambda pair: pair[0]):
        # Where there are no tests for all classes of equal ratios, these share one: their order
        # must not decide which are left out.
        equal = [c for _, c in pairs]
        groups += [[c] for c in equal] if len(groups) + len(equal) <= _TESTS else [equal]
        if len(groups) >= _TESTS:
            break
    return groups


def _growth(first: float, iterations: int) -> float:
    """The bound M_T of the last message, from the bound M_1 of the first."""
    bound = first
    for _ in range(iterations - 1):
        bound = first * math.exp(min(bound, 1.0))  # clamped beyond LIMIT, to not overflow
    return bound
