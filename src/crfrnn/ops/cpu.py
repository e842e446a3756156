"""The operators in C++ through `_core`, for float32 and float64 on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crfrnn import _core as _compiled
from crfrnn.core.threads import threads

from .arrays import EXACT_TOLERANCE, LatticeArrays, refuse_far
from .model import Model, Options, Term
from .reference import filter_to_weight, transpose_band, worth_pruning

__all__ = [
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
    "stores_half",
    "worth_pruning",
]

#: The core takes CPU tensors. Its stub declares NumPy arrays only, hence `Any`.
_core: Any = _compiled

#: Size in bytes of the smallest block that the core keeps for reuse.
_LARGE = 1 << 20

saved_width = _core.saved_width
stores_half = _core.stores_half


def build(features: Tensor) -> LatticeArrays:
    """Build the lattice around `features` (B N D)."""
    features = features.detach().contiguous()
    batch, n, d = features.shape
    # Sizes per point are known and filled in place. The number of vertices is not: the core
    # allocates what depends on it, and hands it over as NumPy arrays without a copy.
    vertex = _empty((batch, n, d + 1), torch.int32)
    weight = _empty((batch, n, d + 1), features.dtype)
    entry = _empty((batch, n * (d + 1)), torch.int32)
    neighbors, offsets, sizes = [], [], [0]
    for b in range(batch):
        try:
            neighbor, counts = _core.build(features[b], vertex[b], weight[b], entry[b], threads())
        except ValueError:  # the core checks the range too, but its message has no remedy
            refuse_far(float(features.abs().max()), features.dtype)
            raise
        neighbors.append(torch.from_numpy(neighbor))
        offsets.append(torch.from_numpy(counts))
        sizes.append(neighbor.shape[1])
    neighbor = neighbors[0] if batch == 1 else torch.cat(neighbors, dim=1)
    offset = offsets[0] if batch == 1 else torch.cat(offsets)
    starts = torch.tensor(sizes).cumsum(0)
    return LatticeArrays(vertex, weight, neighbor, entry, offset, starts)


def filter(values: Tensor, lattice: LatticeArrays, reverse: bool) -> Tensor:
    """Splat, blur and slice `values` (B N C); `reverse` blurs the axes backwards: the adjoint."""
    values = values.detach().contiguous()
    out = torch.empty_like(values)
    for b in range(values.shape[0]):
        arrays = _lattice_item(lattice, b)
        _core.filter(values[b], *arrays, reverse, out[b], threads())
    return out


def separable(values: Tensor, bands: Sequence[Tensor]) -> Tensor:
    """Multiply `values` (B *S C) along each axis of S by the band matrix of that axis."""
    values = values.detach().contiguous()
    out = torch.empty_like(values)
    _core.separable(values, _plain(bands), out, threads())
    return out


def exact(values: Tensor, features: Tensor, tolerance: float) -> Tensor:
    """Sum the Gaussian over all pairs of points but those below `tolerance`; see `reference`."""
    values, features = values.detach().contiguous(), features.detach().contiguous()
    out = torch.empty_like(values)
    for b in range(len(values)):
        _core.exact(values[b], features[b], tolerance, out[b], threads())
    return out


def needs_total(classes: int) -> bool:
    """Whether terms need their responses to ones, from which the core derives the last class.

    Gives torch.compile the answer of `_core.needs_total`, which it cannot trace.
    """
    # Marginals sum to one, so F Q_C = F 1 - Σ_{c<C} F Q_c: C - 1 columns are enough. That pays for
    # filtering F 1 only if it shortens the padded rows of 1, 2, 4, 8, 12... values.
    return classes in (2, 3) or (classes > 3 and classes % 4 == 1)


def mean_field(logits: Tensor, model: Model, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence from `logits` (B C N); see `reference.mean_field`."""
    logits, weights = logits.detach().contiguous(), model.weights.detach().contiguous()
    batch, classes, n = logits.shape
    # One image at a time, each with all threads: images share no work, and the buffers of the core
    # stay as large as those of a single image.
    saved_steps = options.iterations if options.save else 0
    z = _empty(logits.shape, logits.dtype)
    saved = _empty((batch, saved_steps, n, saved_width(classes)), logits.dtype)
    steps = torch.zeros(batch, dtype=torch.int64)
    for b in range(batch):
        steps[b] = _core.mean_field(
            logits[b],
            weights,
            [_core_term(term, b) for term in model.terms],
            model.size[-1],
            options.iterations,
            options.tolerance,
            z[b],
            saved[b] if options.save else None,
            threads(),
        )
    return z, saved, steps


def marginals(
    logits: Tensor, model: Model, options: Options
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Run the recurrence for marginals and labels; see `reference.marginals`."""
    logits, weights = logits.detach().contiguous(), model.weights.detach().contiguous()
    batch, _, n = logits.shape
    probs = _empty(logits.shape, logits.dtype)
    labels = torch.empty((batch, n), dtype=torch.int64)
    steps = torch.zeros(batch, dtype=torch.int64)
    finite = True
    for b in range(batch):
        steps[b], item_finite = _core.marginals(
            logits[b],
            weights,
            [_core_term(term, b, half=options.half) for term in model.terms],
            model.size[-1],
            options.iterations,
            options.tolerance,
            list(model.kept),
            probs[b],
            labels[b],
            threads(),
        )
        finite = finite and item_finite
    return probs, labels, steps, finite


def response(term: Term, shape: tuple[int, int], size: Sequence[int], power: float) -> Tensor:
    """(F 1)^power at `shape` (B, N) points; a negative power first raises F 1 above zero."""
    like = term.arrays[1] if term.kind == "lattice" else term.arrays[0]
    out = like.new_empty(shape)
    for b in range(shape[0]):
        _core.response(_core_term(term, b), shape[1], size[-1], power, out[b], threads())
    return out


def class_peaks(logits: Tensor) -> list[float]:
    """The largest ratio of each class to the likeliest one; see `reference.class_peaks`."""
    items = [_core.class_peaks(item.contiguous(), threads()) for item in logits]
    return [max(peaks) for peaks in zip(*items, strict=True)]


def message_peaks(logits: Tensor, groups: Sequence[Sequence[int]], model: Model) -> list[float]:
    """Upper bounds of the first message to groups of classes; see `reference.message_peaks`."""
    # The core filters a fixed number of columns at once; more groups take more calls.
    limit: int = _core.message_groups
    if len(groups) > limit:
        parts = (groups[:limit], groups[limit:])
        columns = (model.weights[:, :limit], model.weights[:, limit:])
        first, rest = (
            message_peaks(logits, part, model._replace(weights=column))
            for part, column in zip(parts, columns, strict=True)
        )
        return first + rest
    items = [
        _core.message_peaks(
            logits[b].contiguous(),
            [list(group) for group in groups],
            model.weights.contiguous(),
            [_core_term(term, b) for term in model.terms],
            model.size[-1],
            threads(),
        )
        for b in range(len(logits))
    ]
    return [max(peaks) for peaks in zip(*items, strict=True)]


def mean_field_backward(gradient: Tensor, saved: Tensor, model: Model) -> tuple[Tensor, Tensor]:
    """From dL/dz (B C N) to dL/dlogits and dL/dweights; see `reference.mean_field_backward`."""
    gradient, weights = gradient.detach().contiguous(), model.weights.detach().contiguous()
    to_logits = _empty(gradient.shape, gradient.dtype)
    # In double precision: each sum runs over all pixels, with terms of both signs.
    sums = torch.empty((len(gradient), *weights.shape), dtype=torch.float64)
    for b in range(len(gradient)):
        _core.mean_field_backward(
            saved[b],
            gradient[b],
            weights,
            [_core_term(term, b, adjoint=True) for term in model.terms],
            model.size[-1],
            to_logits[b],
            sums[b],
            threads(),
        )
    # The core sums R_k Q_{t-1}ᵀ over the steps; ∂L/∂M_k is minus that.
    return to_logits, -sums.sum(0).to(weights.dtype)


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialized tensor; a large one lies in memory that the core keeps for reuse."""
    # The system hands over fresh memory zeroed and page by page, at first touch: for a photograph
    # that takes as long as one or two steps. The core asks for large pages and keeps freed blocks,
    # so only the first call pays.
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(_core.memory(size)).view(dtype).view(shape)


def _plain(arrays: Sequence[Tensor]) -> list[Tensor]:
    return [array.detach().contiguous() for array in arrays]


def _lattice_item(lattice: LatticeArrays, b: int) -> tuple[Any, ...]:
    """The arrays of batch item `b`, as the core takes them."""
    begin, end = lattice.starts[b : b + 2].tolist()
    offset = lattice.offset[begin + b : end + b + 1]
    return (
        lattice.vertex[b],
        lattice.weight[b].detach(),
        lattice.neighbor,
        lattice.entry[b],
        offset,
        begin,
    )


def _core_term(term: Term, b: int, adjoint: bool = False, half: bool = False) -> Any:
    scales = [
        None if scale is None else scale[b].detach().contiguous()
        for scale in (term.before, term.after, term.total)
    ]
    if term.kind == "lattice":
        return _core.lattice_term(*_lattice_item(LatticeArrays(*term.arrays), b), *scales, half)
    if term.kind == "exact":
        features = term.arrays[0][b].detach().contiguous()
        return _core.exact_term(features, EXACT_TOLERANCE[features.dtype], *scales)
    # For the adjoint, the core itself swaps the factors and reverses the blurs of a lattice. Only
    # the bands of a grid have to be transposed for it.
    bands = [transpose_band(band) for band in term.arrays] if adjoint else term.arrays
    return _core.grid_term(_plain(bands), *scales)
