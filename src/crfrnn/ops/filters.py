"""The Gaussian filters as registered operators."""

# No postponed annotations: torch reads an operator's schema from them. Where there is a
# `list[Tensor]`, which torch 2.6 does not know, the schema is written out.
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import reference
from .arrays import EXACT_TOLERANCE, LatticeArrays
from .engines import implementation
from .model import Term
from .transforms import direct, no_forward_mode, no_second_derivative, one_by_one


@torch.library.custom_op("crfrnn::build", mutates_args=())
def _build(features: Tensor, engine: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    vertex, weight, neighbor, entry, offset, starts = implementation(engine).build(features)
    return vertex, weight, neighbor, entry, offset, starts  # torch accepts no named tuple here


def build(features: Tensor, engine: str) -> LatticeArrays:
    """Build the permutohedral lattice around `features` (B N D); see `reference.build`.

    The vertices have no gradient. If the features need one, the weights are computed again by
    differentiable operations, with the same result to the bit.
    """
    if direct(features):
        return implementation(engine).build(features)
    lattice = LatticeArrays(*_build(features.detach(), engine))
    if not (torch.is_grad_enabled() and features.requires_grad):
        return lattice
    # Not `_replace`, which torch.compile of some versions cannot trace; so for slices of it.
    vertex, _, *others = lattice
    return LatticeArrays(vertex, reference.barycentric(features), *others)


@_build.register_fake
def _(features: Tensor, engine: str) -> tuple[Tensor, ...]:
    batch, n, d = features.shape
    vertices = torch.library.get_ctx().new_dynamic_size()
    index = functools.partial(features.new_empty, dtype=torch.int32)
    return (
        index((batch, n, d + 1)),
        features.new_empty((batch, n, d + 1)),
        index((d + 1, vertices, 2)),
        index((batch, n * (d + 1))),
        index((vertices + batch,)),
        torch.empty(
            batch + 1, dtype=torch.int64, device=features.device if engine == "triton" else "cpu"
        ),
    )


@_build.register_vmap
def _(info: Any, in_dims: Any, *_: Any) -> Any:
    raise NotImplementedError(
        "a lattice cannot be built under vmap, because items differ in their number of vertices. "
        "Build it outside, with CRFRNN.prepare(image) or Lattice(features), and map over the "
        "logits; or give the whole batch at once."
    )


@torch.library.custom_op("crfrnn::filter", mutates_args=())
def _filter(
    values: Tensor,
    vertex: Tensor,
    weight: Tensor,
    neighbor: Tensor,
    entry: Tensor,
    offset: Tensor,
    starts: Tensor,
    reverse: bool,
    engine: str,
) -> Tensor:
    lattice = LatticeArrays(vertex, weight, neighbor, entry, offset, starts)
    return implementation(engine).filter(values, lattice, reverse)


def filter(values: Tensor, lattice: LatticeArrays, reverse: bool, engine: str) -> Tensor:
    """Splat, blur and slice `values` (B N C); `reverse` blurs the axes backwards: the adjoint."""
    no_forward_mode(values, lattice.weight)
    if direct(values, lattice.weight):
        return implementation(engine).filter(values, lattice, reverse)
    filtered: Tensor = _filter(values, *lattice, reverse, engine)
    return filtered


@_filter.register_fake
def _(values: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _save_filter(ctx: Any, inputs: Any, output: Tensor) -> None:
    values, *lattice, ctx.reverse, ctx.engine = inputs
    ctx.save_for_backward(*lattice, *([values] if ctx.needs_input_grad[2] else []))


def _filter_adjoint(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    # The filter is G = α Sᵀ B_D ... B_0 S: splat S, blurs B_a, slice Sᵀ and gain α. Each blur is
    # symmetric, since the neighbor relation is: v is w's neighbor forth where w is v's neighbor
    # back. So Gᵀ = α Sᵀ B_0 ... B_D S is the operator itself with the axes reversed. The order
    # matters: blurs commute only on a complete lattice, and one around real points lacks vertices.
    lattice = LatticeArrays(*ctx.saved_tensors[:6])
    to_values = filter(gradient, lattice, not ctx.reverse, ctx.engine)
    to_weight = None
    if ctx.needs_input_grad[2]:
        values = ctx.saved_tensors[6]
        to_weight = _filter_to_weight(values, gradient, *lattice, ctx.reverse, ctx.engine)
    return to_values, None, to_weight, *[None] * 6


_filter.register_autograd(_filter_adjoint, setup_context=_save_filter)
_filter.register_vmap(one_by_one(_filter))


@torch.library.custom_op("crfrnn::filter_to_weight", mutates_args=())
def _filter_to_weight(
    values: Tensor,
    gradient: Tensor,
    vertex: Tensor,
    weight: Tensor,
    neighbor: Tensor,
    entry: Tensor,
    offset: Tensor,
    starts: Tensor,
    reverse: bool,
    engine: str,
) -> Tensor:
    lattice = LatticeArrays(vertex, weight, neighbor, entry, offset, starts)
    return implementation(engine).filter_to_weight(values, gradient, lattice, reverse)


@_filter_to_weight.register_fake
def _(values: Tensor, gradient: Tensor, vertex: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(weight)


_filter_to_weight.register_vmap(one_by_one(_filter_to_weight))
no_second_derivative(
    _filter_to_weight,
    "the second derivative of a lattice with respect to its features is not defined; use "
    "filter='exact', or detach the features",
)


@torch.library.custom_op(
    "crfrnn::separable",
    mutates_args=(),
    schema="(Tensor values, Tensor[] bands, str engine) -> Tensor",
)
def _separable(values: Tensor, bands: list[Tensor], engine: str) -> Tensor:
    return implementation(engine).separable(values, bands)


def separable(values: Tensor, bands: list[Tensor], engine: str) -> Tensor:
    """Multiply `values` (B *S C) along each axis of S by the band matrix of that axis."""
    no_forward_mode(values, *bands)
    if direct(values, *bands):
        return implementation(engine).separable(values, bands)
    filtered: Tensor = _separable(values, bands, engine)
    return filtered


@_separable.register_fake
def _(values: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _save_separable(ctx: Any, inputs: Any, output: Tensor) -> None:
    values, bands, ctx.engine = inputs
    # torch lists the tensors of a list argument one after the other among the inputs.
    ctx.to_bands = any(ctx.needs_input_grad[1 : 1 + len(bands)])
    ctx.save_for_backward(*bands, *([values] if ctx.to_bands else []))


def _separable_adjoint(ctx: Any, gradient: Tensor) -> tuple[Tensor, list[Tensor | None], None]:
    if ctx.to_bands:
        *bands, values = ctx.saved_tensors
        to_bands = reference.separable_to_bands(values, gradient, bands)
    else:
        bands = ctx.saved_tensors
        to_bands = [None] * len(bands)
    # Convolutions along different axes commute, so only each band matrix is transposed.
    transposed = [reference.transpose_band(band) for band in bands]
    return separable(gradient, transposed, ctx.engine), to_bands, None


_separable.register_autograd(_separable_adjoint, setup_context=_save_separable)
_separable.register_vmap(one_by_one(_separable))


@torch.library.custom_op("crfrnn::exact", mutates_args=())
def _exact(values: Tensor, features: Tensor, tolerance: float, engine: str) -> Tensor:
    return implementation(engine).exact(values, features, tolerance)


def exact(values: Tensor, features: Tensor, tolerance: float, engine: str) -> Tensor:
    """Sum exp(-½|f_i - f_j|²) v_j over all j, for `values` (B N C) and `features` (B N D)."""
    no_forward_mode(values, features)
    if direct(values, features):
        return implementation(engine).exact(values, features, tolerance)
    summed: Tensor = _exact(values, features, tolerance, engine)
    return summed


@_exact.register_fake
def _(values: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _save_exact(ctx: Any, inputs: Any, output: Tensor) -> None:
    values, features, ctx.tolerance, ctx.engine = inputs
    ctx.save_for_backward(values, features)


def _exact_adjoint(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    values, features = ctx.saved_tensors
    to_values = exact(gradient, features, ctx.tolerance, ctx.engine)  # the kernel is symmetric
    if not ctx.needs_input_grad[1]:
        return to_values, None, None, None
    # With K_ij = exp(-½|f_i - f_j|²), dK_ij/df_i = K_ij (f_j - f_i). Feature i acts as that of
    # output i and as that of source i, and K is symmetric:
    #   dL/df_i = Σ_j K_ij (g_i·v_j + v_i·g_j) (f_j - f_i).
    # The first half is Σ_c g_ic (Σ_j K_ij v_jc f_j - f_i Σ_j K_ij v_jc): exact filters of v and of
    # v times each feature, as more channels of one call. The second half swaps g and v.
    # Only differences of features count. Centering them keeps the two terms, and so the rounding
    # error of their difference, small.
    centered = features - features.mean(1, keepdim=True)

    def moment(left: Tensor, right: Tensor) -> Tensor:
        right = torch.cat([right[..., None], right[..., None] * centered[:, :, None]], dim=3)
        sums = exact(right.flatten(2), features, ctx.tolerance, ctx.engine).view(right.shape)
        sums = (left[..., None] * sums).sum(2)
        first_moment: Tensor = sums[..., 1:] - sums[..., :1] * centered
        return first_moment

    return to_values, moment(gradient, values) + moment(values, gradient), None, None


_exact.register_autograd(_exact_adjoint, setup_context=_save_exact)
_exact.register_vmap(one_by_one(_exact))


def apply(term: Term, values: Tensor, size: Sequence[int], engine: str) -> Tensor:
    """Apply F = D_after G D_before to `values` (B N C); differentiable in values and arrays."""
    values = values if term.before is None else values * term.before[..., None]
    if term.kind == "lattice":
        values = filter(values, LatticeArrays(*term.arrays), False, engine)
    elif term.kind == "grid":
        grid = values.reshape(values.shape[0], *size, values.shape[2])
        values = separable(grid, list(term.arrays), engine).reshape(values.shape)
    else:
        tolerance = EXACT_TOLERANCE.get(values.dtype, 1e-8)
        values = exact(values, term.arrays[0], tolerance, engine)
    return values if term.after is None else values * term.after[..., None]
