"""A lattice as the arrays that every engine shares, and how far and how near features may be."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Kernel values below this are nothing beside the one at distance zero, in each float type: an
#: engine's exact filter may leave such pairs out.
EXACT_TOLERANCE = {torch.float32: 1e-8, torch.float64: 1e-16}


#: Farthest feature, in bandwidths, for which the lattice's rounding still leaves useful weights,
#: and vertex coordinates fit 32 bits in any number of dimensions.
FARTHEST = {torch.float32: 2.0**17, torch.float64: 2.0**23}


def refuse_far(reach: float, dtype: torch.dtype) -> None:
    """Refuse features so large that vertex keys lose their meaning, instead of overflowing."""
    if reach > FARTHEST[dtype]:
        raise ValueError(
            f"features reach {reach:.3g} bandwidths, beyond the {FARTHEST[dtype]:.0f} "
            f"that a lattice in {dtype} can tell apart. Is a bandwidth too small? Use a "
            f"larger bandwidth, or the exact filter."
        )


class LatticeArrays(NamedTuple):
    """A permutohedral lattice per batch item, as flat arrays that every engine shares.

    The vertices of item `b` are rows 1..M_b of its own table; row 0 is always zero and stands for
    "no such vertex". M is the sum of all M_b.
    """

    vertex: Tensor  # B N D+1, int32: the corners of the simplex around each point
    weight: Tensor  # B N D+1: barycentric weights, they sum to one
    neighbor: Tensor  # D+1 M 2, int32: the two blur neighbours along each axis
    entry: (
        Tensor  # B N*(D+1), int32: the (point, corner) pairs sorted by vertex, point*(D+1)+corner
    )
    offset: Tensor  # M+B, int32: where each vertex's entries begin and end, M_b + 1 numbers an item
    # B+1, int64, on the CPU ("triton": on the device): item b owns rows starts[b]..starts[b+1] of
    # `neighbor`
    starts: Tensor
