"""The operators in plain PyTorch, on any device and float type: the oracle of every engine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .arrays import LatticeArrays
from .model import Model, Options, Term
from .reference_lattice import barycentric, build, filter, filter_to_weight

__all__ = [
    "barycentric",
    "build",
    "class_peaks",
    "exact",
    "filter",
    "filter_to_weight",
    "marginals",
    "mean_field",
    "mean_field_backward",
    "message_peaks",
    "needs_total",
    "response",
    "saved_width",
    "separable",
    "separable_to_bands",
    "worth_pruning",
]

#: The `mean_field` of an engine.
Recurrence = Callable[[Tensor, Model, Options], tuple[Tensor, Tensor, Tensor]]

#: Elements of the largest temporary matrix that `exact` makes, whatever N is.
_EXACT_CHUNK = 1 << 23


def separable(values: Tensor, bands: Sequence[Tensor]) -> Tensor:
    """Multiply `values` (B *S C) along each axis of S by the band matrix of that axis.

    `bands[a][i, r + k]` is the weight of source i + k for output i, |k| <= r; sources beyond the
    border count as zero.
    """
    for axis, band in enumerate(bands, start=1):
        size, radius = values.shape[axis], band.shape[1] // 2
        edge = values.new_zeros(*values.shape[:axis], radius, *values.shape[axis + 1 :])
        wide = torch.cat([edge, values, edge], dim=axis)
        column = [-1 if k == axis else 1 for k in range(values.dim())]
        terms = (band[:, k].view(column) * wide.narrow(axis, k, size) for k in range(band.shape[1]))
        values = functools.reduce(torch.add, terms)
    return values


def separable_to_bands(
    values: Tensor, gradient: Tensor, bands: Sequence[Tensor]
) -> list[Tensor | None]:
    """From dL/dout (B *S C) of `separable` to the gradient of each band matrix."""
    stages = [values]
    for axis, band in enumerate(bands, start=1):
        stages.append(_along(stages[-1], axis, band))
    gradients: list[Tensor | None] = []
    for axis, band in reversed(list(enumerate(bands, start=1))):
        size, radius = values.shape[axis], band.shape[1] // 2
        wide = torch.nn.functional.pad(stages[axis - 1].movedim(axis, -1), (radius, radius))
        rows = gradient.movedim(axis, -1)
        taps = [
            (rows * wide.narrow(-1, k, size)).flatten(0, -2).sum(0) for k in range(band.shape[1])
        ]
        gradients.insert(0, torch.stack(taps, dim=1))
        gradient = _along(gradient, axis, transpose_band(band))
    return gradients


def exact(values: Tensor, features: Tensor, tolerance: float) -> Tensor:
    """Sum exp(-½|f_i - f_j|²) v_j over all j, including j = i, for `values` (B N C).

    The N x N kernel is made in slabs of rows and thrown away. `tolerance` is the kernel value below
    which an engine may leave a pair out; this one leaves none out.
    """
    del tolerance
    n = features.shape[1]
    rows = max(1, _EXACT_CHUNK // max(n * len(features), 1))
    slabs = []
    for begin in range(0, n, rows):
        slab = features[:, begin : begin + rows]
        squared = torch.zeros(
            slab.shape[0], slab.shape[1], n, dtype=features.dtype, device=features.device
        )
        for axis in range(features.shape[2]):
            squared = squared + (slab[:, :, None, axis] - features[:, None, :, axis]) ** 2
        slabs.append(torch.exp(-0.5 * squared) @ values)
    return torch.cat(slabs, dim=1) if slabs else values.clone()


def mean_field(logits: Tensor, model: Model, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence from `logits` (B C N).

    Returns:
        The logits; the marginals before each step (B T N C) if they are to be saved; the steps
        made (B).
    """
    unary = logits.transpose(1, 2)
    z = unary
    history = []
    steps = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    running = torch.ones_like(steps, dtype=torch.bool)
    q = z.softmax(2)
    storage = torch.float16 if options.half else None
    for step in range(options.iterations):
        history += [q] if options.save else []
        penalty = sum(
            (
                _penalty(apply(term, q, model.size, storage=storage), model.weights[k])
                for k, term in enumerate(model.terms)
            ),
            torch.zeros_like(q),
        )
        z = torch.where(running[:, None, None], unary - penalty, z)
        steps = steps + running
        before, q = q, z.softmax(2)
        if options.tolerance > 0 and step + 1 < options.iterations:
            running = running & ((q - before).abs().mean((1, 2)) >= options.tolerance)
    saved = torch.stack(history, dim=1) if history else q.new_empty(len(q), 0, *q.shape[1:])
    return z.transpose(1, 2).clone(memory_format=torch.contiguous_format), saved, steps


def marginals(
    logits: Tensor, model: Model, options: Options, run: Recurrence = mean_field
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Run the recurrence for its marginals (B C N) and labels (B N), without gradients.

    With `model.kept` classes, the Potts recurrence runs on these, and the last weight stands for
    all others: in the softmax they are one class whose logit is the log of the sum of their exps,
    and each of them then moves as that one did. Also returned: the steps made (B), and whether all
    marginals are finite, as far as the CPU knows. `run` is another engine's `mean_field`.
    """
    if model.kept:
        kept = set(model.kept)
        others = [c for c in range(logits.shape[1]) if c not in kept]
        parts = (list(model.kept), others)
        inside, outside = (torch.tensor(part, device=logits.device) for part in parts)
        left_out = logits.index_select(1, outside)
        rest = left_out.logsumexp(1, keepdim=True)
        chosen = torch.cat([logits.index_select(1, inside), rest], dim=1)
        moved, _, steps = run(chosen, model, options)
        z = torch.empty_like(logits)
        z.index_copy_(1, inside, moved[:, :-1])
        z.index_copy_(1, outside, left_out + (moved[:, -1:] - rest))
    else:
        z, _, steps = run(logits, model, options)
    q = z.softmax(dim=1)
    finite = q.device.type != "cpu" or bool(torch.isfinite(q.sum()))
    return q, q.max(dim=1).indices, steps, finite


def worth_pruning(logits: Tensor) -> bool:
    """Whether leaving classes out of `logits` can save more than the search for them costs."""
    del logits
    return True


def class_peaks(logits: Tensor) -> list[float]:
    """The largest ratio of each class's marginal to the likeliest one's, over batch and pixels."""
    below = logits - logits.amax(1, keepdim=True)
    peaks: list[float] = below.amax((0, 2)).exp().tolist()
    return peaks


def message_peaks(
    logits: Tensor, groups: Sequence[Sequence[int]], model: Model, run: Recurrence = mean_field
) -> list[float]:
    """Upper bounds of the first Potts message Σ w_k F_k Q to any class of each group.

    The model's weights are (K G), not negative. A group stands for its likeliest class at each
    pixel, so that one channel bounds them all. `run` is another engine's `mean_field`.
    """
    alone = [c for c in range(logits.shape[1]) if not any(c in group for group in groups)]
    columns = [logits[:, list(group)].amax(1) for group in groups]
    columns += [logits[:, c] for c in alone]
    unary = torch.stack(columns, dim=1)
    # A step with -W_k in place of A W_k adds the message itself.
    wide = torch.nn.functional.pad(model.weights, (0, len(alone)))
    z, _, _ = run(unary, model._replace(weights=-wide.diag_embed()), Options(iterations=1))
    peaks: list[float] = (z - unary)[:, : len(groups)].amax((0, 2)).tolist()
    return peaks


def mean_field_backward(gradient: Tensor, saved: Tensor, model: Model) -> tuple[Tensor, Tensor]:
    """From dL/dz (B C N) to dL/dlogits and dL/dweights: one adjoint filter a kernel and step."""
    weights, size = model.weights, model.size
    g = gradient.transpose(1, 2)
    to_logits = g
    to_weights = torch.zeros_like(weights)
    for q in reversed(saved.unbind(1)):
        h = torch.zeros_like(q)
        for k, term in enumerate(model.terms):
            if weights.dim() == 2:
                filtered = apply(term, g.sum(2, keepdim=True) - g, size, adjoint=True)
                to_weights[k] -= (filtered * q).sum((0, 1))
                h = h - filtered * weights[k]
            else:
                filtered = apply(term, g, size, adjoint=True)
                to_weights[k] -= torch.einsum("bnc,bnd->cd", filtered, q)
                h = h - filtered @ weights[k]
        g = q * (h - (q * h).sum(2, keepdim=True))
        to_logits = to_logits + g
    return to_logits.transpose(1, 2).clone(memory_format=torch.contiguous_format), to_weights


def response(term: Term, shape: tuple[int, int], size: Sequence[int], power: float) -> None:
    """(F 1)^power (B N), kept from zero for a negative power. The filters serve as well here."""
    del term, shape, size, power


def needs_total(classes: int) -> bool:
    """Whether terms of the recurrence need their responses to ones."""
    del classes
    return False


def saved_width(classes: int) -> int:
    """Values that `mean_field` saves for each pixel and step."""
    return classes


def apply(
    term: Term,
    values: Tensor,
    size: Sequence[int],
    adjoint: bool = False,
    storage: torch.dtype | None = None,
) -> Tensor:
    """F = D_after G D_before on `values` (B N C), or its adjoint."""
    first, last = (term.after, term.before) if adjoint else (term.before, term.after)
    values = values if first is None else values * first[:, :, None]
    if term.kind == "lattice":
        values = filter(values, LatticeArrays(*term.arrays), adjoint, storage)
    elif term.kind == "grid":
        bands = [transpose_band(band) for band in term.arrays] if adjoint else term.arrays
        grid = values.reshape(len(values), *size, values.shape[2])
        values = separable(grid, bands).reshape(values.shape)
    else:
        values = exact(values, term.arrays[0], 0.0)
    return values if last is None else values * last[:, :, None]


def transpose_band(band: Tensor) -> Tensor:
    """The band matrix of the transpose: entry (i, r + k) is entry (i + k, r - k) of `band`."""
    size, taps = band.shape
    radius = taps // 2
    row = torch.arange(size, device=band.device)[:, None] + torch.arange(
        -radius, radius + 1, device=band.device
    )
    inside = (row >= 0) & (row < size)
    mirrored = band.flip(1).gather(0, row.clamp(0, size - 1))
    return torch.where(inside, mirrored, 0)


def _along(values: Tensor, axis: int, band: Tensor) -> Tensor:
    return separable(values.movedim(axis, 1), [band]).movedim(1, axis)


def _penalty(filtered: Tensor, weights: Tensor) -> Tensor:
    """A W F for one kernel: Potts with one weight a class, or any matrix."""
    if weights.dim() == 2:
        return filtered @ weights.T
    weighted = filtered * weights
    return weighted.sum(2, keepdim=True) - weighted
