"""The recurrence where some pixels are clamped, in plain PyTorch: the oracle of the core's."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from crfrnn.core.inference import Options

from . import reference
from .filters import apply
from .model import Model


def mean_field(
    logits: Tensor, model: Model, options: Options, held: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence from `logits` (B C N), and put the clamped pixels back after each step.

    The filters run on the engine of the model. Gradients reach the logits, those of clamped pixels
    too, because these send; the weights; and the arrays of the terms.

    Args:
        logits: the unary term.
        model: the pairwise model.
        options: iterations and tolerance. An image stops when the marginals of its free pixels
            change by less than the tolerance on average. Values are stored in full precision.
        held: (B N) bool, the clamped pixels.

    Returns:
        The logits (B C N); nothing, where `reference.mean_field` returns the marginals that it
        saved; the number of steps of each image (B).
    """
    unary = z = logits.transpose(1, 2)
    q = start = z.softmax(2)
    fixed = held[:, :, None]
    steps = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    running = torch.ones_like(steps, dtype=torch.bool)
    values = (~held).sum(1).clamp_min(1) * logits.shape[1]
    for step in range(options.iterations):
        penalty = torch.zeros_like(q)
        for term, weights in zip(model.terms, model.weights, strict=True):
            filtered = apply(term, q, model.size, model.engine)
            penalty = penalty + reference.penalty(filtered, weights)
        z = torch.where(fixed | ~running[:, None, None], z, unary - penalty)
        steps = steps + running
        before, q = q, torch.where(fixed, start, z.softmax(2))
        if options.tolerance > 0 and step + 1 < options.iterations:
            change = (q - before).detach().abs().sum((1, 2)) / values
            running = running & (change >= options.tolerance)
            if not bool(running.any()):
                break
    saved = q.new_empty(len(q), 0, *q.shape[1:])
    return z.transpose(1, 2).clone(memory_format=torch.contiguous_format), saved, steps


def marginals(
    logits: Tensor, model: Model, options: Options, held: Tensor
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Run it for marginals and labels, without gradients; see `reference.marginals`."""
    return reference.marginals(logits, model, options, partial(mean_field, held=held))
