"""The Gaussian filters as registered operators."""

# No postponed annotations: torch reads an operator's schema from them. Where there is a
# `list[Tensor]`, which torch 2.6 does not know, the schema is written out.
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import reference
from .arrays import LatticeArrays, exact_tolerance
from .band_gradients import separable_to_bands
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


def _separable_adjoint(ctx: Any, gradient: Tensor) -> tuple[Tensor, Sequence[Tensor | None], None]:
    to_bands: Sequence[Tensor | None]
    if ctx.to_bands:
        *bands, values = ctx.saved_tensors
        one_axis = functools.partial(separable, engine=ctx.engine)
        with torch.autocast(values.device.type, enabled=False):  # of a backward called inside one
            to_bands = separable_to_bands(values, gradient, bands, one_axis)
    else:
        bands = ctx.saved_tensors
        to_bands = [None] * len(bands)
    # Convolutions along different axes commute, so only each band matrix is transposed.
    transposed = [reference.transpose_band(band) for band in bands]
    return separable(gradient, transposed, ctx.engine), to_bands, None


_separable.register_autograd(_separable_adjoint, setup_context=_save_separable)
_separable.register_vmap(one_by_one(_separable))


@torch.library.custom_op(
    "crfrnn::exact",
    mutates_args=(),
    schema="(Tensor values, Tensor features, float tolerance, str engine, Tensor? targets=None)"
    " -> Tensor",
)
def _exact(
    values: Tensor,
    features: Tensor,
    tolerance: float,
    engine: str,
    targets: Tensor | None = None,
) -> Tensor:
    return implementation(engine).exact(values, features, tolerance, targets).contiguous()


def exact(
    values: Tensor,
    features: Tensor,
    tolerance: float,
    engine: str,
    targets: Tensor | None = None,
) -> Tensor:
    """Sum exp(-½|t_i - f_j|²) v_j over all j, for `values` (B N C) and `features` f (B N D).

    The targets t (B M D) are the features by default.
    """
    tensors = (values, features) if targets is None else (values, features, targets)
    no_forward_mode(*tensors)
    if direct(*tensors):
        return implementation(engine).exact(values, features, tolerance, targets)
    summed: Tensor = _exact(values, features, tolerance, engine, targets)
    return summed


@_exact.register_fake
def _(
    values: Tensor, features: Tensor, tolerance: float, engine: str, targets: Tensor | None = None
) -> Tensor:
    rows = values.shape[1] if targets is None else targets.shape[1]
    return values.new_empty(values.shape[0], rows, values.shape[2])


def _save_exact(ctx: Any, inputs: Any, output: Tensor) -> None:
    values, features, ctx.tolerance, ctx.engine, targets = inputs
    # torch leaves out a last argument that has its default.
    ctx.to_targets = targets is not None and ctx.needs_input_grad[4]
    ctx.save_for_backward(values, features, targets)


def _exact_adjoint(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    values, features, targets = ctx.saved_tensors
    if targets is None:
        to_values = exact(gradient, features, ctx.tolerance, ctx.engine)  # the kernel is symmetric
    else:
        to_values = exact(gradient, targets, ctx.tolerance, ctx.engine, features)
    if not (ctx.needs_input_grad[1] or ctx.to_targets):
        return to_values, *[None] * 4
    # With K_ij = exp(-½|t_i - f_j|²), dK_ij/dt_i = K_ij (f_j - t_i) and dK_ij/df_j = -dK_ij/dt_i:
    #   dL/dt_i = Σ_j K_ij (g_i·v_j) (f_j - t_i),
    #   dL/df_j = Σ_i K_ij (g_i·v_j) (t_i - f_j).
    # The first is Σ_c g_ic (Σ_j K_ij v_jc f_j - t_i Σ_j K_ij v_jc): exact filters of v and of
    # v times each feature, as more channels of one call. The second swaps the two ends. Where the
    # features are their own targets, both are theirs.
    # Only differences of features count. Centering them keeps the two terms, and so the rounding
    # error of their difference, small.
    center = features.mean(1, keepdim=True)
    sources = features - center
    ends = sources if targets is None else targets - center

    def moment(left: Tensor, at: Tensor, right: Tensor, of: Tensor) -> Tensor:
        right = torch.cat([right[..., None], right[..., None] * of[:, :, None]], dim=3)
        receivers = None if at is of else at
        sums = exact(right.flatten(2), of, ctx.tolerance, ctx.engine, receivers)
        sums = (left[..., None] * sums.view(*left.shape, right.shape[3])).sum(2)
        first_moment: Tensor = sums[..., 1:] - sums[..., :1] * at
        return first_moment

    to_features = moment(values, sources, gradient, ends)
    to_targets = moment(gradient, ends, values, sources)
    if targets is None:
        return to_values, to_features + to_targets, None, None, None
    return to_values, to_features, None, None, to_targets


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
        values = exact(values, term.arrays[0], exact_tolerance(values.dtype), engine)
    return values if term.after is None else values * term.after[..., None]
