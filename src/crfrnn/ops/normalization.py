"""The response of a filter to ones, and the factors that normalize the filter by it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .engines import implementation
from .filters import apply
from .model import Term
from .transforms import direct

#: Each normalization multiplies by this power of the response to ones.
_POWERS = {"symmetric": -0.5, "before": -1.0, "after": -1.0}


def response(term: Term, shape: tuple[int, int], size: Sequence[int], engine: str) -> Tensor:
    """F 1 at `shape` (B, N) points on a grid of `size`, differentiable in the term's arrays."""
    computed = _computed_by_engine(term, shape, size, engine, 1.0)
    if computed is not None:
        return computed
    like = term.arrays[1 if term.kind == "lattice" else 0]
    return apply(term, like.new_ones(*shape, 1), size, engine)[..., 0]


def normalizers(
    term: Term, shape: tuple[int, int], size: Sequence[int], engine: str, normalization: str
) -> tuple[Tensor | None, Tensor | None]:
    """Factors (B N) of input and output that normalize `term`; None stands for ones."""
    # With n = G 1 and F = D_post G D_pre:
    #   symmetric  D_pre = D_post = n^-½   F stays symmetric, its largest eigenvalue is 1
    #   after      D_post = n^-1           rows sum to one: a message is a weighted mean
    #   before     D_pre = n^-1            columns sum to one: each pixel sends the same total
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
    """Factors of input and output for a filter whose response to ones is `norm`; not for "none".

    A response of zero, for example outside a mask, gives a large finite factor. It multiplies
    values of zero, and an infinite factor would turn them into NaN.
    """
    # At the square root of the smallest normal number, 1/n and its derivative -1/n² are finite.
    norm = norm.clamp_min(torch.finfo(norm.dtype).tiny ** 0.5)
    if normalization == "symmetric":
        return norm.rsqrt(), norm.rsqrt()
    inverse, ones = norm.reciprocal(), torch.ones_like(norm)
    return (inverse, ones) if normalization == "before" else (ones, inverse)


def _computed_by_engine(
    term: Term, shape: tuple[int, int], size: Sequence[int], engine: str, power: float
) -> Tensor | None:
    """(F 1)^power in one call of the engine; None if it has none or a gradient is needed.

    Filling ones and taking powers in torch would wake torch's threads, which then spin and compete
    with those of the core.
    """
    scales = [scale for scale in (term.before, term.after) if scale is not None]
    if not direct(*term.arrays, *scales):
        return None
    return implementation(engine).response(term, shape, size, power)
