"""The arrays of a lattice, shared by all engines, and the numerical limits of the filters."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Kernel value, per float type, below which an exact filter may leave out a pair of points: less
#: than the rounding error of the value 1 at distance zero.
EXACT_TOLERANCE = {torch.float32: 1e-8, torch.float64: 1e-16}

#: Farthest feature of a lattice, in bandwidths. Up to here, rounding leaves useful weights, and the
#: coordinates of vertices fit 32 bits in any number of dimensions.
FARTHEST = {torch.float32: 2.0**17, torch.float64: 2.0**23}


def refuse_far(reach: float, dtype: torch.dtype) -> None:
    """Raise ValueError for features so large that vertex keys would overflow or lose precision."""
    if reach > FARTHEST[dtype]:
        raise ValueError(
            f"features reach {reach:.3g} bandwidths, beyond the {FARTHEST[dtype]:.0f} "
            f"that a lattice in {dtype} can tell apart. Is a bandwidth too small? Use a "
            f"larger bandwidth, or the exact filter."
        )


class LatticeArrays(NamedTuple):
    """One permutohedral lattice per batch item, in flat arrays that all engines share.

    The vertices of item `b` are rows 1..M_b of its own table; row 0 is always zero and stands for
    "no such vertex". M is the sum of all M_b.
    """

    vertex: Tensor  # B N D+1, int32: the corners of the simplex around each point
    weight: Tensor  # B N D+1: barycentric weights; those of a point sum to one
    neighbor: Tensor  # D+1 M 2, int32: the two blur neighbors along each axis
    # B N*(D+1), int32: the pairs (point, corner), as point*(D+1) + corner, sorted by vertex
    entry: Tensor
    # M+B, int32: vertex v of item b has the entries offset[v]..offset[v+1] of its item; each item
    # has M_b + 1 numbers
    offset: Tensor
    # B+1, int64, on the CPU ("triton": on the device): rows starts[b]..starts[b+1] of `neighbor`
    # belong to item b
    starts: Tensor
