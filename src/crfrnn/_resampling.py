"""Linear interpolation between grids, of NumPy arrays and tensors.

A pixel covers the extent from i to i + 1, and its center is at i + ½. Grids cover the same extent,
whatever their resolution, so the outer edges of their outer pixels coincide. With
`align_corners` the centers of the outer pixels coincide instead.
"""

from __future__ import annotations

import math

import numpy as np

from ._arrays import Array, is_tensor, to_torch


def resample(maps: Array, size: tuple[int, ...]) -> Array:
    """Interpolate maps (..., *s) to (..., *S); shrinking averages over the cells that it covers.

    Floating-point maps of either container; a tensor is differentiable.
    """
    for axis, length in enumerate(size, maps.ndim - len(size)):
        maps = interpolate(maps, axis, length)
    return maps


def interpolate(
    values: Array, axis: int, length: int, kept: int | None = None, align_corners: bool = False
) -> Array:
    """Interpolate along an axis to `length` numbers, of which the first `kept` are returned."""
    kept = length if kept is None else kept
    count = values.shape[axis]
    if count == length:
        return values[(slice(None),) * axis + (slice(kept),)]
    cells, weights = _taps(count, length, kept, align_corners)
    if is_tensor(values):
        # A product with a matrix, because the gradient of a gather adds up in any order on a GPU.
        matrix = np.zeros((count, kept))
        np.add.at(matrix, (cells, np.arange(kept)), weights)
        moved = values.movedim(axis, -1) @ to_torch(matrix).to(values)
        return moved.movedim(-1, axis)
    shape = [-1 if number == axis else 1 for number in range(values.ndim)]
    result: np.ndarray = np.zeros(1, values.dtype)
    for cell, weight in zip(cells, weights.astype(values.dtype), strict=True):
        part = values.take(cell, axis)
        part *= weight.reshape(shape)
        part += result
        result = part
    return result


def _taps(count: int, length: int, kept: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """The cells that each result is made of, and their weights, both (taps, kept)."""
    place = np.arange(kept)
    if align_corners:
        center, reach = place * ((count - 1) / max(length - 1, 1)), 1.0
    else:
        ratio = count / length
        center, reach = (place + 0.5) * ratio - 0.5, max(ratio, 1.0)
    # A cell at a distance d from the center weighs 1 - d / reach, and cells outside weigh nothing.
    cells = np.floor(center - reach).astype(int) + 1 + np.arange(math.ceil(2 * reach))[:, None]
    weights = np.maximum(0, 1 - np.abs(cells - center) / reach)
    weights[(cells < 0) | (cells >= count)] = 0
    return cells.clip(0, count - 1), weights / weights.sum(axis=0)
