"""Independent two-class models in plain PyTorch: the reference of csrc/crf/independent.hpp."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .mean_field import Filter


def independent_mean_field(
    logits: Tensor,
    filters: Sequence[Filter],
    background: Tensor,
    foreground: Tensor,
    iterations: int,
    held: Tensor | None = None,
) -> Tensor:
    """Mean-field inference of independent two-class Potts models that share their filters.

    With the marginal q of the foreground and 1 - q of the background, the logit of the foreground
    against the background is z = u + Σ_k (w_k1 F_k q - w_k0 F_k (1 - q)), and q = sigmoid(z).

    Args:
        logits: (B, C, *S), u: of the foreground against the background, one model per channel.
        filters: one normalized filter per kernel, each mapping (B, C, *S) to itself.
        background: kernel weights w_k0, (K, C) or (K, 1).
        foreground: kernel weights w_k1, likewise.
        iterations: number of updates; 0 returns the logits.
        held: (B, 1 or C, *S) bool, the clamped pixels: they send, and keep their logits.

    Returns:
        The logits after the last update, differentiable in all inputs. Apply the logistic function
        for probabilities.
    """
    if not filters or iterations == 0:
        return logits
    ones = torch.ones_like(logits[:, :1])
    shape = (len(filters), 1, -1, *[1] * (logits.dim() - 2))  # K 1 C 1...
    both, tilt = (background + foreground).reshape(shape), (foreground - background).reshape(shape)
    unary = logits + sum(w / 2 * f(ones) for w, f in zip(tilt, filters, strict=True))
    for _ in range(iterations):
        s = logits.sigmoid() - 0.5  # it has smaller rounding errors than q; see independent.hpp
        new = unary + sum(w * f(s) for w, f in zip(both, filters, strict=True))
        logits = new if held is None else torch.where(held, logits, new)
    return logits
