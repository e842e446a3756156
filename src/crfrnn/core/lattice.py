"""Gaussian filters over free features on NumPy arrays: the lattice and the exact sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from crfrnn._arrays import Array

from .limits import EXACT_TOLERANCE, refuse_far
from .native import core
from .threads import threads

#: Size in bytes of the smallest block that the core keeps for reuse.
_LARGE = 1 << 20


class LatticeArrays(NamedTuple):
    """One permutohedral lattice per batch item, in flat arrays that all engines share.

    The vertices of item `b` are rows 1..M_b of its own table; row 0 is always zero and stands for
    "no such vertex". M is the sum of all M_b.
    """

    vertex: Array  # B N D+1, int32: the corners of the simplex around each point
    weight: Array  # B N D+1: barycentric weights; those of a point sum to one
    neighbor: Array  # D+1 M 2, int32: the two blur neighbors along each axis
    # B N*(D+1), int32: the pairs (point, corner), as point*(D+1) + corner, sorted by vertex
    entry: Array
    # M+B, int32: vertex v of item b has the entries offset[v]..offset[v+1] of its item; each item
    # has M_b + 1 numbers
    offset: Array
    # B+1, int64, on the CPU ("triton": on the device): rows starts[b]..starts[b+1] of `neighbor`
    # belong to item b
    starts: Array

    def item(self, b: int) -> tuple[Any, ...]:
        """The arrays of batch item `b`, in the order of the core's arguments."""
        begin, end = self.starts[b : b + 2].tolist()
        offset = self.offset[begin + b : end + b + 1]
        return self.vertex[b], self.weight[b], self.neighbor, self.entry[b], offset, begin


def build(features: np.ndarray) -> LatticeArrays:
    """Build the lattice around `features` (B N D)."""
    features = np.ascontiguousarray(features)
    batch, n, d = features.shape
    # Arrays with entries per point have known sizes and are filled in place. The number of vertices
    # is not known, so the core allocates the arrays that depend on it.
    vertex = empty((batch, n, d + 1), np.int32)
    weight = empty((batch, n, d + 1), features.dtype)
    entry = empty((batch, n * (d + 1)), np.int32)
    neighbors, offsets, sizes = [], [], [0]
    for b in range(batch):
        try:
            neighbor, offset = core().build(features[b], vertex[b], weight[b], entry[b], threads())
        except ValueError:  # the core checks the range too, but its message has no remedy
            refuse_far(float(np.abs(features).max()), features.dtype.name)
            raise
        neighbors.append(neighbor)
        offsets.append(offset)
        sizes.append(neighbor.shape[1])
    neighbor = neighbors[0] if batch == 1 else np.concatenate(neighbors, axis=1)
    offset = offsets[0] if batch == 1 else np.concatenate(offsets)
    return LatticeArrays(vertex, weight, neighbor, entry, offset, np.cumsum(sizes, dtype=np.int64))


def filter(values: np.ndarray, lattice: LatticeArrays, reverse: bool) -> np.ndarray:
    """Splat, blur and slice `values` (B N C); `reverse` blurs backwards: the adjoint."""
    values = np.ascontiguousarray(values)
    out = empty(values.shape, values.dtype)
    for b in range(len(values)):
        core().filter(values[b], *lattice.item(b), reverse, out[b], threads())
    return out


def filter_to_weight(
    values: np.ndarray, gradient: np.ndarray, lattice: LatticeArrays, reverse: bool
) -> np.ndarray:
    """From dL/dout (B N C) of `filter` to dL/dweight (B N D+1); the vertices are constants."""
    values, gradient = np.ascontiguousarray(values), np.ascontiguousarray(gradient)
    out = empty(lattice.weight.shape, values.dtype)
    for b in range(len(values)):
        item = lattice.item(b)
        core().filter_to_weight(values[b], gradient[b], *item, reverse, out[b], threads())
    return out


def exact(
    values: np.ndarray,
    features: np.ndarray,
    targets: np.ndarray | None = None,
    tolerance: float | None = None,
) -> np.ndarray:
    """Sum the Gaussian around `features` (B N D), for `values` (B N C), at `targets` (B M D).

    By default the targets are the features.
    """
    values = np.ascontiguousarray(values)
    count = 0 if targets is None else targets.shape[1]
    points = features if targets is None else np.concatenate([features, targets], 1)
    points = np.ascontiguousarray(points)
    if tolerance is None:
        tolerance = EXACT_TOLERANCE[features.dtype.name]
    out = empty((len(values), count or values.shape[1], values.shape[2]), values.dtype)
    for b in range(len(values)):
        core().exact(values[b], points[b], count, tolerance, out[b], threads())
    return out


def empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Return an uninitialized array. A large one uses memory that the core keeps for reuse."""
    # The system zeroes fresh memory page by page, at first touch. For a photograph, that takes as
    # long as one or two steps. The core asks for large pages and keeps freed blocks,
    # so only the first call pays.
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _LARGE:
        return np.empty(shape, dtype)
    block: np.ndarray = core().memory(size).view(dtype).reshape(shape)
    return block
