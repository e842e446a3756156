"""The gradients of a separable filter to its band matrices, for every engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .reference import transpose_band

#: The fewest rows whose products are one call: fewer rows waste less, but make more calls.
_ROWS = 64


def separable_to_bands(
    values: Tensor,
    gradient: Tensor,
    bands: Sequence[Tensor],
    separable: Callable[[Tensor, list[Tensor]], Tensor],
) -> list[Tensor]:
    """From dL/dout (B *S C) of `separable` to the gradient of each band matrix.

    Args:
        values: (B *S C) that were filtered.
        gradient: dL/dout of the same shape.
        bands: one matrix per axis of S.
        separable: the operator itself, for one axis: it gets (P S R) and one matrix.

    Returns:
        One gradient per matrix.
    """
    # Pass a maps x_a to x_{a+1} = K_a x_a. With g_{a+1} = dL/dx_{a+1}, entry (i, r + k) of the band
    # gets Σ g_{a+1}[i] x_a[i + k] over all other axes, and g_a = K_aᵀ g_{a+1}.
    shape = values.shape

    def along(axis: int, tensor: Tensor) -> Tensor:
        return tensor.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))

    stages = [along(1, values)]
    for axis, band in enumerate(bands[:-1], start=1):
        stages.append(along(axis + 1, separable(stages[-1], [band])))
    gradients = []
    for axis in range(len(bands), 0, -1):
        band, gradient = bands[axis - 1], along(axis, gradient)
        gradients.append(_band_of_products(gradient, stages[axis - 1], band.shape[1] // 2))
        if axis > 1:
            gradient = separable(gradient, [transpose_band(band)])
    return gradients[::-1]


def _band_of_products(left: Tensor, right: Tensor, radius: int) -> Tensor:
    """The band (S, 2 r + 1) around the diagonal of Σ left rightᵀ, for (P S R) each.

    Entry (i, r + k) is the product of row i of `left` and row i + k of `right`.
    """
    left, right = (tensor.transpose(0, 1).flatten(1) for tensor in (left, right))
    right = torch.nn.functional.pad(right, (0, 0, radius, radius))
    taps = torch.arange(2 * radius + 1, device=left.device)
    # Products of whole matrices are much faster than of single rows. So multiply a block of rows at
    # a time: most of what is computed then lies in the band, and little is thrown away.
    size = max(_ROWS, 2 * radius)
    rows = []
    for begin in range(0, len(left), size):
        block = left[begin : begin + size]
        products = block @ right[begin : begin + len(block) + 2 * radius].T
        place = torch.arange(len(block), device=left.device)[:, None] + taps
        rows.append(products.gather(1, place))
    return torch.cat(rows)
