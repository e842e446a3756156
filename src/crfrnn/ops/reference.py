"""The operators in plain PyTorch, on any device and float type: the oracle of every engine."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from crfrnn.core.inference import Options

from . import frank_wolfe
from .arrays import LatticeArrays
from .model import Model, Term
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
    "penalty",
    "response",
    "saved_width",
    "separable",
    "worth_pruning",
]

#: The `mean_field` of an engine.
Recurrence = Callable[[Tensor, Model, Options], tuple[Tensor, Tensor, Tensor]]

#: Size, in elements, of the largest temporary matrix in `exact`, for any N.
_EXACT_CHUNK = 1 << 23


def separable(values: Tensor, bands: Sequence[Tensor]) -> Tensor:
    """Multiply `values` (B *S C) along each axis of S by the band matrix of that axis.

    `bands[a][i, r + k]` is the weight of source i + k for output i, |k| <= r. Sources beyond the
    border count as zero.
    """
    # The weights of a row differ near borders, where normalization divides by what is inside. So
    # this is a banded matrix product, not a convolution with a constant kernel: tap k multiplies
    # the values shifted by k - r with column k of the band.
    for axis, band in enumerate(bands, start=1):
        size, radius = values.shape[axis], band.shape[1] // 2
        edge = values.new_zeros(*values.shape[:axis], radius, *values.shape[axis + 1 :])
        wide = torch.cat([edge, values, edge], dim=axis)
        column = [-1 if k == axis else 1 for k in range(values.dim())]
        terms = (band[:, k].view(column) * wide.narrow(axis, k, size) for k in range(band.shape[1]))
        values = functools.reduce(torch.add, terms)
    return values


def exact(
    values: Tensor, features: Tensor, tolerance: float, targets: Tensor | None = None
) -> Tensor:
    """Sum exp(-½|t_i - f_j|²) v_j over all j for `values` (B N C); targets t default to features f.

    The M x N kernel matrix is computed in slabs of rows, and none is stored. `tolerance` is the
    kernel value below which an engine may leave out a pair; the reference leaves out none.
    """
    del tolerance
    n = features.shape[1]
    targets = features if targets is None else targets
    rows = max(1, _EXACT_CHUNK // max(n * len(features), 1))
    slabs = []
    for begin in range(0, targets.shape[1], rows):
        slab = targets[:, begin : begin + rows]
        squared = torch.zeros(
            slab.shape[0], slab.shape[1], n, dtype=features.dtype, device=features.device
        )
        # Squared differences axis by axis, not |f_i|² + |f_j|² - 2 f_i·f_j: that cancels the digits
        # of points that lie close together but far from the origin.
        for axis in range(features.shape[2]):
            squared = squared + (slab[:, :, None, axis] - features[:, None, :, axis]) ** 2
        slab = torch.exp(-0.5 * squared)
        # Column by column: a product of matrices may sum up its last columns in another order, and
        # the recurrence would turn that rounding into a difference between classes that are tied.
        columns = [slab @ column[..., None] for column in values.unbind(2)]
        slabs.append(torch.cat(columns, dim=2))
    return torch.cat(slabs, dim=1) if slabs else values.clone()


def mean_field(logits: Tensor, model: Model, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence from `logits` (B C N).

    Returns:
        The logits (B C N); the marginals before each step (B T N C), with T = 0 unless
        `options.save`, and those after the last for Frank-Wolfe; the number of steps of each image
        (B).
    """
    # One step, with M_k = A W_k and marginals as rows (N C):
    #   z_t = u - Σ_k M_k F_k Q_{t-1},   Q_t = softmax(z_t), or Frank-Wolfe's (`frank_wolfe`).
    # The backward needs Q_{t-1} and nothing else of a step, so only that is saved.
    unary = logits.transpose(1, 2)
    z = unary
    saved_q = []
    steps = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    running = torch.ones_like(steps, dtype=torch.bool)
    q = z.softmax(2)
    storage = torch.float16 if options.half else None
    for step in range(options.iterations):
        saved_q += [q] if options.save else []
        cost = sum(
            (
                penalty(apply(term, q, model.size, storage=storage), model.weights[k])
                for k, term in enumerate(model.terms)
            ),
            torch.zeros_like(q),
        )
        # An image that has stopped keeps its logits, so a batch gives what its images give alone.
        z = torch.where(running[:, None, None], unary - cost, z)
        steps = steps + running
        after = frank_wolfe.advance(z, q, model.update)
        before, q = q, torch.where(running[:, None, None], after, q)
        if options.tolerance > 0 and step + 1 < options.iterations:
            running = running & ((q - before).abs().mean((1, 2)) >= options.tolerance)
    if model.update is not None and options.iterations > 0:
        saved_q += [q] if options.save else []
        z = frank_wolfe.result(unary, z, q, model.update)
    saved = torch.stack(saved_q, dim=1) if saved_q else q.new_empty(len(q), 0, *q.shape[1:])
    return z.transpose(1, 2).clone(memory_format=torch.contiguous_format), saved, steps


def marginals(
    logits: Tensor, model: Model, options: Options, recurrence: Recurrence = mean_field
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Run the recurrence for marginals and labels, without gradients.

    If `model.kept` names classes, the Potts recurrence runs on these and on a single class that
    stands for all others. The last column of the weights belongs to that class.

    Args:
        logits: the unary term (B C N).
        model: the pairwise model.
        options: iterations, tolerance and storage.
        recurrence: the `mean_field` of an engine.

    Returns:
        Marginals (B C N); labels (B N); the number of steps of each image (B); whether all
        marginals are finite, which is checked on the CPU only.
    """
    if model.kept:
        # The classes left out share one penalty p_t in every step: none of them sends or receives a
        # message, and Potts adds the same sum to all. So their logits stay u_c - p_t, and
        #   Σ_c exp(u_c - p_t) = exp(logsumexp_c(u_c) - p_t)
        # is what a single class with the logit logsumexp(u) adds to the softmax. Its change at the
        # end, -p_T, is the change of each of them.
        kept = set(model.kept)
        others = [c for c in range(logits.shape[1]) if c not in kept]
        parts = (list(model.kept), others)
        inside, outside = (torch.tensor(part, device=logits.device) for part in parts)
        left_out = logits.index_select(1, outside)
        rest = left_out.logsumexp(1, keepdim=True)
        chosen = torch.cat([logits.index_select(1, inside), rest], dim=1)
        updated, _, steps = recurrence(chosen, model, options)
        z = torch.empty_like(logits)
        z.index_copy_(1, inside, updated[:, :-1])
        z.index_copy_(1, outside, left_out + (updated[:, -1:] - rest))
    else:
        z, _, steps = recurrence(logits, model, options)
    q = z.softmax(dim=1)
    # On a device, the test would wait for it.
    finite = q.device.type != "cpu" or bool(torch.isfinite(q.sum()))
    return q, q.max(dim=1).indices, steps, finite


def worth_pruning(logits: Tensor) -> bool:
    """Whether leaving classes out of `logits` can save more than the search for them costs."""
    del logits
    return True


def class_peaks(logits: Tensor) -> list[float]:
    """The largest ratio of each class's marginal to the likeliest one's, over batch and pixels."""
    # Q(c) / Q(d) = exp(u(c) - u(d)): the sum in the softmax cancels.
    differences = logits - logits.amax(1, keepdim=True)
    return [math.exp(highest) for highest in differences.amax((0, 2)).tolist()]


def message_peaks(
    logits: Tensor,
    groups: Sequence[Sequence[int]],
    model: Model,
    recurrence: Recurrence = mean_field,
) -> list[float]:
    """Upper bounds of the first Potts message Σ w_k F_k Q to any class of each group.

    Args:
        logits: the unary term (B C N).
        groups: G groups of classes that do not overlap.
        model: the normalized kernels, and non-negative weights (K G): per kernel and group, the
            largest weight of a class in the group.
        recurrence: the `mean_field` of an engine.
    """
    # At each pixel the logit of a group g is the largest of its classes. Let Q' be the softmax over
    # the groups and the ungrouped classes. For c in g,
    #   Q'(g) = max_{c in g} e^u(c) / (Σ_groups max e^u + Σ_ungrouped e^u) >= e^u(c) / Σ_d e^u(d),
    # because the maximum over a group is at most the sum over it. F_k is monotone and w_k(g) is at
    # least w_k(c), so Σ w_k(g) F_k Q'(g) bounds the message to every class of the group.
    ungrouped = [c for c in range(logits.shape[1]) if not any(c in group for group in groups)]
    columns = [logits[:, list(group)].amax(1) for group in groups]
    columns += [logits[:, c] for c in ungrouped]
    unary = torch.stack(columns, dim=1)
    # A step gives z = u - Σ_k M_k F_k Q. With M_k = -diag(w_k), z - u is the message itself.
    wide = torch.nn.functional.pad(model.weights, (0, len(ungrouped)))
    z, _, _ = recurrence(unary, model._replace(weights=-wide.diag_embed()), Options(iterations=1))
    peaks: list[float] = (z - unary)[:, : len(groups)].amax((0, 2)).tolist()
    return peaks


def mean_field_backward(
    gradient: Tensor, saved: Tensor, model: Model
) -> tuple[Tensor, Tensor, Tensor]:
    """From dL/dz (B C N) to dL/dlogits, dL/dweights and dL/d(λ, α).

    It takes one adjoint filter per kernel and step. The last result is empty for mean field.
    """
    # Let M_k = A W_k and g_t = dL/dz_t. A change of z_t = u - Σ_k M_k F_k Q_{t-1} changes L by
    #   dL = ⟨g_t, du⟩ - Σ_k ⟨g_t, dM_k F_k Q_{t-1}⟩ - Σ_k ⟨g_t, M_k F_k dQ_{t-1}⟩.
    # F_k acts on pixels and M_k on classes, so they commute. With R_k = F_kᵀ g_t,
    #   dL = ⟨g_t, du⟩ - Σ_k ⟨R_k Q_{t-1}ᵀ, dM_k⟩ + ⟨h, dQ_{t-1}⟩,   h = -Σ_k M_kᵀ R_k,
    # and the softmax, dQ = Q ⊙ (dz - Σ_c Q_c dz_c), gives g_{t-1} = Q ⊙ (h - Σ_c Q_c h_c).
    # u enters every step and Q_0, so dL/du is the sum of all g_t, t = 0..T.
    #
    # Potts with weights per class has M_k = (1 1ᵀ - I) diag(w_k). Its left factor is symmetric and
    # is moved in front of the filter: with R_k = F_kᵀ (1 1ᵀ - I) g_t, that is "sum of g - g",
    #   dL/dw_kc = -Σ_i R_kic Q_ic   and   h_c = -Σ_k w_kc R_kc.
    # The other form stores rows of pixels, so M_kᵀ R_k is `filtered @ weights[k]`.
    weights, size, update = model.weights, model.size, model.update
    g = gradient.transpose(1, 2)
    to_logits = g
    to_weights = torch.zeros_like(weights)
    to_rates = weights.new_zeros(2 if update else 0, dtype=torch.float64)
    marginals = list(saved.unbind(1))
    carry = torch.zeros_like(g)
    if update is not None and marginals:
        last = marginals.pop()
        g, to_logits, carry, rates = frank_wolfe.start_backward(
            g, marginals[0], marginals[-1], last, update
        )
        to_logits = to_logits + g
        to_rates += rates
    while marginals:
        q = marginals.pop()
        h = carry
        for k, term in enumerate(model.terms):
            if weights.dim() == 2:
                filtered = apply(term, g.sum(2, keepdim=True) - g, size, adjoint=True)
                to_weights[k] -= (filtered * q).sum((0, 1))
                h = h - filtered * weights[k]
            else:
                filtered = apply(term, g, size, adjoint=True)
                to_weights[k] -= torch.einsum("bnc,bnd->cd", filtered, q)
                h = h - filtered @ weights[k]
        if update is None or not marginals:  # Q_0 is the softmax of u, whatever the step
            g = q * (h - (q * h).sum(2, keepdim=True))
        else:
            strength, alpha = update.rates
            before = marginals[-1]
            s = frank_wolfe.target(before, q, update)
            g = alpha / strength * frank_wolfe.pull(h, s, update.regularizer)
            carry = (1 - alpha) * h
            to_rates += frank_wolfe.to_rates(h, g, s, before, update)
        to_logits = to_logits + g
    to_logits = to_logits.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    return to_logits, to_weights, to_rates.to(weights.dtype)


def response(term: Term, shape: tuple[int, int], size: Sequence[int], power: float) -> None:
    """None: this engine has no faster way to (F 1)^power than its filters."""
    del term, shape, size, power


def needs_total(classes: int) -> bool:
    """Whether terms of the recurrence need their responses to ones."""
    del classes
    return False


def saved_width(classes: int, needs_all: bool = False) -> int:
    """Number of values that `mean_field` saves per pixel and step."""
    del needs_all
    return classes


def apply(
    term: Term,
    values: Tensor,
    size: Sequence[int],
    adjoint: bool = False,
    storage: torch.dtype | None = None,
) -> Tensor:
    """Apply F = D_after G D_before to `values` (B N C), or its adjoint."""
    # Fᵀ = D_before Gᵀ D_after: the factors swap places. A lattice reverses its blurs, a grid
    # transposes its bands, and the exact kernel is symmetric.
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
    # The matrix K has K[i, i + k] = band[i, r + k]. So Kᵀ[i, i + k] = K[i + k, i], which is
    # K[j, j - k] at row j = i + k: band[i + k, r - k].
    size, taps = band.shape
    radius = taps // 2
    row = torch.arange(size, device=band.device)[:, None] + torch.arange(
        -radius, radius + 1, device=band.device
    )
    inside = (row >= 0) & (row < size)
    mirrored = band.flip(1).gather(0, row.clamp(0, size - 1))
    return torch.where(inside, mirrored, 0)


def penalty(filtered: Tensor, weights: Tensor) -> Tensor:
    """M F for one kernel: Potts with one weight per class, or any matrix M = A W."""
    if weights.dim() == 2:
        return filtered @ weights.T
    # (1 1ᵀ - I) m = sum of m - m: each label pays for the weighted neighbors of all other labels.
    weighted = filtered * weights
    return weighted.sum(2, keepdim=True) - weighted
