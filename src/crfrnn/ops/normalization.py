"""The response of a filter to ones, and the factors that normalize the filter by it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .engines import implementation
from .filters import apply
from .model import Term
from .transforms import direct

#: The power of the response to ones that each normalization multiplies with.
_POWERS = {"symmetric": -0.5, "before": -1.0, "after": -1.0}

NORMALIZATIONS = (*_POWERS, "none")


def response(term: Term, shape: tuple[int, int], size: Sequence[int], engine: str) -> Tensor:
    """F 1 at `shape` (B, N) points on a grid of `size`; differentiable in the term's arrays."""
    computed = _computed_by_engine(term, shape, size, engine, 1.0)
    if computed is not None:
        return computed
    like = term.arrays[1 if term.kind == "lattice" else 0]
    return apply(term, like.new_ones(*shape, 1), size, engine)[..., 0]


def normalizers(
    term: Term, shape: tuple[int, int], size: Sequence[int], engine: str, normalization: str
) -> tuple[Tensor | None, Tensor | None]:
    """Factors (B N) of the input and of the output that normalize `term`; None stands for ones."""
    if normalization == "none":
        return None, None
    power = _POWERS[normalization]
    scale = _computed_by_engine(term, shape, size, engine, power)
    if scale is None:
        before, after = factors(response(term, shape, size, engine), normalization)
    else:
        before, after = scale, scale
    return (
        None if normalization == "after" else before,
        None if normalization == "before" else after,
    )


def factors(norm: Tensor, normalization: str) -> tuple[Tensor, Tensor]:
    """Factors of input and output for a filter whose response to ones is `norm`.

    A response of zero, as outside a mask, gives a large finite factor instead of infinity: it meets
    values of zero, and zero times infinity would be NaN.
    """
    if normalization == "none":
        return torch.ones_like(norm), torch.ones_like(norm)
    norm = norm.clamp_min(torch.finfo(norm.dtype).tiny ** 0.5)
    if normalization == "symmetric":
        return norm.rsqrt(), norm.rsqrt()
    inverse, ones = norm.reciprocal(), torch.ones_like(norm)
    return (inverse, ones) if normalization == "before" else (ones, inverse)


def _computed_by_engine(
    term: Term, shape: tuple[int, int], size: Sequence[int], engine: str, power: float
) -> Tensor | None:
    """(F 1)^power in one call of the engine, where it offers that and nothing wants a gradient.

    Filling ones and taking powers in torch would wake its threads, which then spin beside the
    core's.
    """
    scales = [scale for scale in (term.before, term.after) if scale is not None]
    if not direct(*term.arrays, *scales):
        return None
    return implementation(engine).response(term, shape, size, power)
