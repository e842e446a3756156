"""The operators in C++ through `_core`, for float32 and float64 on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crfrnn import _core as _compiled
from crfrnn.core import lattice
from crfrnn.core.inference import Options
from crfrnn.core.threads import threads

from .arrays import LatticeArrays, exact_tolerance
from .model import Model, Term, Update
from .reference import transpose_band

__all__ = [
    "build",
    "exact",
    "filter",
    "filter_to_weight",
    "mean_field",
    "mean_field_backward",
    "needs_total",
    "response",
    "saved_width",
    "separable",
]

#: The core takes CPU tensors. Its stub declares NumPy arrays only, hence `Any`.
_core: Any = _compiled

#: Size in bytes of the smallest block that the core keeps for reuse.
_LARGE = 1 << 20

saved_width = _core.saved_width


def build(features: Tensor) -> LatticeArrays:
    """Build the lattice around `features` (B N D)."""
    return LatticeArrays(*map(torch.from_numpy, lattice.build(features.detach().numpy())))


def filter(values: Tensor, arrays: LatticeArrays, reverse: bool) -> Tensor:
    """Splat, blur and slice `values` (B N C); `reverse` blurs the axes backwards: the adjoint."""
    return torch.from_numpy(lattice.filter(values.detach().numpy(), _detached(arrays), reverse))


def filter_to_weight(
    values: Tensor, gradient: Tensor, arrays: LatticeArrays, reverse: bool
) -> Tensor:
    """From dL/dout (B N C) of `filter` to dL/dweight (B N D+1); see `reference_lattice`."""
    both = values.detach().numpy(), gradient.detach().numpy()
    return torch.from_numpy(lattice.filter_to_weight(*both, _detached(arrays), reverse))


def separable(values: Tensor, bands: Sequence[Tensor]) -> Tensor:
    """Multiply `values` (B *S C) along each axis of S by the band matrix of that axis."""
    values = values.detach().contiguous()
    out = torch.empty_like(values)
    _core.separable(values, _plain(bands), out, threads())
    return out


def exact(
    values: Tensor, features: Tensor, tolerance: float, targets: Tensor | None = None
) -> Tensor:
    """Sum the Gaussian over all pairs of points but those below `tolerance`; see `reference`."""
    at = None if targets is None else targets.detach().numpy()
    points = features.detach().numpy()
    return torch.from_numpy(lattice.exact(values.detach().numpy(), points, at, tolerance))


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
    width = saved_width(classes, model.update is not None and model.update.needs_all)
    z = _empty(logits.shape, logits.dtype)
    saved = _empty((batch, model.saved_steps(options), n, width), logits.dtype)
    steps = torch.zeros(batch, dtype=torch.int64, device="cpu")
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
            _core_step(model.update),
            threads(),
        )
    return z, saved, steps


def response(term: Term, shape: tuple[int, int], size: Sequence[int], power: float) -> Tensor:
    """(F 1)^power at `shape` (B, N) points; a negative power first raises F 1 above zero."""
    like = term.arrays[1] if term.kind == "lattice" else term.arrays[0]
    out = like.new_empty(shape)
    for b in range(shape[0]):
        _core.response(_core_term(term, b), shape[1], size[-1], power, out[b], threads())
    return out


def mean_field_backward(
    gradient: Tensor, saved: Tensor, model: Model
) -> tuple[Tensor, Tensor, Tensor]:
    """From dL/dz (B C N) to the gradients of the inputs; see `reference.mean_field_backward`."""
    gradient, weights = gradient.detach().contiguous(), model.weights.detach().contiguous()
    to_logits = _empty(gradient.shape, gradient.dtype)
    # In double precision: each sum runs over all pixels, with terms of both signs.
    sums = weights.new_empty((len(gradient), *weights.shape), dtype=torch.float64)
    to_rates = weights.new_zeros(2 if model.update else 0, dtype=torch.float64)
    for b in range(len(gradient)):
        rates = _core.mean_field_backward(
            saved[b],
            gradient[b],
            weights,
            [_core_term(term, b, adjoint=True) for term in model.terms],
            model.size[-1],
            to_logits[b],
            sums[b],
            _core_step(model.update),
            threads(),
        )
        if model.update:
            to_rates += to_rates.new_tensor(rates)
    # The core sums R_k Q_{t-1}ᵀ over the steps; ∂L/∂M_k is minus that.
    return to_logits, -sums.sum(0).to(weights.dtype), to_rates.to(weights.dtype)


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialized tensor; a large one lies in memory of the core, as in `lattice.empty`."""
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE:
        return torch.empty(shape, dtype=dtype, device="cpu")
    return torch.from_numpy(_core.memory(size)).view(dtype).view(shape)


def _plain(arrays: Sequence[Tensor]) -> list[Tensor]:
    return [array.detach().contiguous() for array in arrays]


def _detached(arrays: LatticeArrays) -> LatticeArrays:
    return LatticeArrays(*(array.detach() for array in arrays))


def _core_step(update: Update | None) -> tuple[Any, ...] | None:
    if update is None:
        return None
    strength, size = update.rates.tolist()
    is_l2 = update.regularizer == "l2"
    return is_l2, strength, size, update.mix, update.blends, update.learns


def _core_term(term: Term, b: int, adjoint: bool = False) -> Any:
    scales = [
        None if scale is None else scale[b].detach().contiguous()
        for scale in (term.before, term.after, term.total)
    ]
    if term.kind == "lattice":
        return _core.lattice_term(*_detached(LatticeArrays(*term.arrays)).item(b), *scales)
    if term.kind == "exact":
        features = term.arrays[0][b].detach().contiguous()
        return _core.exact_term(features, exact_tolerance(features.dtype), *scales)
    # For the adjoint, the core itself swaps the factors and reverses the blurs of a lattice. Only
    # the bands of a grid have to be transposed for it.
    bands = [transpose_band(band) for band in term.arrays] if adjoint else term.arrays
    return _core.grid_term(_plain(bands), *scales)
