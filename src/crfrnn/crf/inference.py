"""Running the recurrence on prepared kernels, by the fused operator where there is one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crfrnn import ops

from .filters import KernelFilter
from .mean_field import mean_field


def infer(
    logits: Tensor,
    filters: Sequence[KernelFilter],
    weights: Tensor,
    compatibility: Tensor | None,
    iterations: int,
    *,
    tolerance: float = 0.0,
    engine: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run mean-field steps from `logits` (B C *S).

    Gradients reach the logits, weights and compatibility; where the filters ask for one, the plain
    recurrence runs instead of the fused operator.

    Args:
        logits: the unary term, -energy.
        filters: the normalized filter of each kernel, from `build_filters`.
        weights: kernel weights, (K,), (K, C) or (K, C, C).
        compatibility: (C, C) penalties; None is Potts, which runs faster than the same matrix.
        iterations: number of updates; 0 returns `logits`.
        tolerance: an image stops when the mean change of its marginals falls below this; 0 never.
        engine: "reference", "cpu" or "triton"; by default the fastest that suits.

    Returns:
        Logits (B C *S), and the steps that each image made (B).
    """
    size = logits.shape[2:]
    if torch.is_grad_enabled() and any(f.differentiable for f in filters):
        penalty = potts(logits) if compatibility is None else compatibility
        z = mean_field(-logits, filters, weights, penalty, iterations)
        return z, torch.full((len(logits),), iterations, device=logits.device)
    engine = ops.resolve_engine(engine, logits.device, logits.dtype)
    weights = penalty_weights(weights, compatibility, logits)
    total = ops.needs_total(logits.shape[1], engine)
    terms = [f.term(logits, total) for f in filters]
    z, steps = ops.mean_field(
        logits.flatten(2), weights, size, terms, iterations, tolerance, engine
    )
    return z.view(logits.shape), steps


def penalty_weights(weights: Tensor, compatibility: Tensor | None, logits: Tensor) -> Tensor:
    """What the operator takes: (K, C) for Potts with one weight a class, else A W_k (K, C, C)."""
    weights = weights[:, None].expand(-1, logits.shape[1]) if weights.dim() == 1 else weights
    if compatibility is None and weights.dim() == 2:
        return weights
    penalty = potts(logits) if compatibility is None else compatibility
    # A product of small matrices would wake the threads of a library, which spin for milliseconds.
    return penalty * weights[:, None] if weights.dim() == 2 else penalty @ weights


def potts(logits: Tensor) -> Tensor:
    """The compatibility 1 - I for the classes of `logits` (B C *S)."""
    return 1 - torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
