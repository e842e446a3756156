"""Soft labels: relaxed Potts penalties of two of them, entropies, cross-entropies.

The formulas are those of Zhang & Boykov (CVPR 2025, arXiv 2507.01721). `p` and `q` are
distributions over the C classes, of pixels that lie along the other axes; `log_p` is their
logarithm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crfrnn.core.names import CrossEntropy, Entropy, Relaxation
from crfrnn.crf.edges import Pair
from crfrnn.crf.filters import KernelFilter


def over_filters(
    relaxation: Relaxation, p: Tensor, filters: Sequence[KernelFilter], weights: Tensor
) -> Tensor:
    """Sum the penalties of all ordered pairs, weighted by filters (K) and classes (K, C); (B,).

    A filter is linear, so the sum over the second pixel of a pair is one pass of it, if the penalty
    is a polynomial in the two distributions. Logarithms of penalties are not.
    """
    energy = p.new_zeros(len(p))
    for kernel_filter, weight in zip(filters, weights, strict=True):
        if relaxation == "bilinear":
            # Since Σ_d p_d = 1, the sum over d ≠ c is 1 - p_c: one filter per class is enough.
            # F (1 - p_c) is not 1 - F p_c, because only filters normalized "after" keep the
            # constant 1.
            disagreement = p * kernel_filter(1 - p)
            energy = energy + disagreement.flatten(2).sum(2) @ weight
            continue
        # ½ Σ_c w_c (p_c - q_c)², with the squares of one pixel as a channel b of their own:
        # ½ ⟨b, F 1⟩ + ½ ⟨1, F b⟩ - Σ_c w_c ⟨p_c, F p_c⟩. F need not be symmetric.
        x = unit(p) if relaxation == "normalized" else p
        column = weight.view(-1, *[1] * (x.dim() - 2))
        squares = (x.square() * column).sum(1, keepdim=True)
        filtered = kernel_filter(torch.cat([x, squares, torch.ones_like(squares)], 1))
        fx, fb, f1 = filtered[:, :-2], filtered[:, -2:-1], filtered[:, -1:]
        sums = 0.5 * (squares * f1 + fb) - (x * fx * column).sum(1, keepdim=True)
        energy = energy + sums.flatten(1).sum(1)
    return energy


def over_pairs(relaxation: Relaxation, log: bool, log_p: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """Sum the penalties of weighted pairs of pixels; `log` takes -log(1 - penalty); (B,)."""
    x = log_p
    if relaxation == "normalized":
        x = x - 0.5 * x.mul(2).logsumexp(1, keepdim=True)
    x = x if log else x.exp()
    spread = None
    if log and relaxation == "quadratic":
        p = x.exp()
        spread = (p * (1 - p)).sum(1)
    energy = log_p.new_zeros(len(log_p))
    for here, there, weight in pairs:
        a, b = x[here], x[there]
        if not log:
            penalty = a * (1 - b) if relaxation == "bilinear" else 0.5 * (a - b).square()
            penalty = penalty.sum(1)
        else:
            agreement = (a + b).logsumexp(1)
            if spread is not None:
                # 1 - ½ |p - q|² = p·q + ½ (1 - |p|²) + ½ (1 - |q|²), all of them positive.
                both = 0.5 * (spread[here] + spread[there])
                smallest = torch.finfo(both.dtype).tiny
                agreement = torch.logaddexp(agreement, both.clamp_min(smallest).log())
            penalty = -agreement
        energy = energy + (weight * penalty).flatten(1).sum(1)
    return energy


def unit(p: Tensor) -> Tensor:
    """Scale distributions to the norm 1; over C classes it is C^-½ at least."""
    return p / p.square().sum(1, keepdim=True).sqrt()


def entropy(kind: Entropy, log_p: Tensor) -> Tensor:
    """The entropy of each pixel: Shannon's, or the collision entropy -log Σ_c p_c²."""
    if kind == "collision":
        return -log_p.mul(2).logsumexp(1)
    return -(log_p.exp() * log_p).sum(1)


def cross_entropy(kind: CrossEntropy, log_p: Tensor, log_y: Tensor) -> Tensor:
    """How far predictions p are from soft labels y, at each pixel.

    "shannon" is -Σ y log p, "reverse" -Σ p log y, "collision" -log Σ p y, and "divergence" the
    collision divergence -log (Σ p y / (|p| |y|)).
    """
    if kind == "shannon":
        return -(log_y.exp() * log_p).sum(1)
    if kind == "reverse":
        return -(log_p.exp() * log_y).sum(1)
    collision = -(log_p + log_y).logsumexp(1)
    if kind == "collision":
        return collision
    return collision - 0.5 * (entropy("collision", log_p) + entropy("collision", log_y))
