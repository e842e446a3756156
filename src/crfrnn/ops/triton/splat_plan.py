"""The plan of a splat: the entries of the lattice that each program sums."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from crfrnn.ops.arrays import LatticeArrays

from .launch import item_of, launch, pieces, row_block

#: A vertex with more entries than this is heavy: it is splatted in parts, which programs share.
LIGHT = 8

#: Entries per part of a heavy vertex. In flat regions a vertex has tens of thousands of entries.
PART = 128


class Splat(NamedTuple):
    """The arrays of a splat beside the lattice, computed once for all steps.

    They stay on the device and have sizes that the host knows. So planning never waits for the
    device, and a CUDA graph can record it.
    """

    share: Tensor  # B N*(D+1): weights in CSR order, times the scale of the input
    ends: Tensor  # M, int64: the number of parts up to a vertex + 2^32 · that of split vertices
    # P 4, int64: item, begin and end of the part's entries, and its vertex, or -1 if that is split
    part: Tensor
    split: Tensor  # H 3, int64: a vertex of several parts, and begin and end of these
    partial: Tensor  # P C: sums of the parts of split vertices


def plan(lattice: LatticeArrays, scale: Tensor | None, width: int) -> Splat:
    """Prepare splats of values with `width` channels, times `scale` (B N) if given."""
    batch, n, corners = lattice.vertex.shape
    each, vertices = n * corners, lattice.neighbor.shape[1]
    weight = lattice.weight.detach()
    share = weight.new_empty(batch, each)
    block = row_block(1)
    launch(
        share_kernel,
        (pieces(each, block), batch),
        weight,
        weight if scale is None else scale,
        lattice.entry,
        share,
        n,
        CORNERS=corners,
        SCALED=scale is not None,
        BLOCK=block,
    )
    # The host allocates for the worst case. A split vertex has more than PART entries and a heavy
    # vertex more than LIGHT; a heavy vertex of x entries has fewer than x / PART + 1 parts.
    most_split = batch * each // (PART + 1) + 1
    most_parts = batch * each // (LIGHT + 1) + batch * each // PART + 1
    ends = torch.empty(vertices, dtype=torch.int64, device=share.device)
    part, split = ends.new_empty(most_parts, 4), ends.new_empty(most_split, 3)
    arrays = (lattice.offset, lattice.starts, ends, part, split, vertices, batch, each)
    for listing in (False, True):
        launch(
            part_kernel,
            (pieces(vertices, block),),
            *arrays,
            LIST=listing,
            LIGHT=LIGHT,
            PART=PART,
            BLOCK=block,
        )
        # Sums of the counts give every part its place in the list. One sum serves both counts.
        if not listing:
            torch.cumsum(ends, 0, out=ends)
    return Splat(share, ends, part, split, share.new_empty(most_parts, width))


@triton.jit
def entries_of(vertex, inside, offset, starts, batch, each):
    """The batch item of vertices (int64), their first entry in the batch and number of entries."""
    item = item_of(vertex, starts, batch)
    begin = tl.load(offset + vertex + item, mask=inside, other=0)
    length = tl.load(offset + vertex + item + 1, mask=inside, other=0) - begin
    return item, item * each + begin, length


@triton.jit(do_not_specialize=["points"])
def share_kernel(
    weight,
    scale,
    entry,
    share,
    points,
    CORNERS: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Weights in CSR order, times the scale of their points."""
    item = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    each = points.to(tl.int64) * CORNERS
    inside = place < each
    corner = tl.load(entry + item * each + place, mask=inside, other=0)
    value = tl.load(weight + item * each + corner, mask=inside, other=0.0)
    if SCALED:
        value *= tl.load(scale + item * points + corner // CORNERS, mask=inside, other=0.0)
    tl.store(share + item * each + place, value, mask=inside)


@triton.jit(do_not_specialize=["vertices", "batch", "each"])
def part_kernel(
    offset,
    starts,
    ends,
    part,
    split,
    vertices,
    batch,
    each,
    LIST: tl.constexpr,
    LIGHT: tl.constexpr,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Count the parts of each vertex; with LIST, when `ends` holds the sums, list them."""
    vertex = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = vertex < vertices
    item, begin, length = entries_of(vertex, inside, offset, starts, batch, each)
    parts = tl.where(length > LIGHT, (length + PART - 1) // PART, 0).to(tl.int64)
    several = (parts > 1).to(tl.int64)
    if LIST:
        end = tl.load(ends + vertex, mask=inside, other=0)
        first = (end & 0xFFFFFFFF) - parts
        for k in range(tl.max(parts, axis=0)):
            active = k < parts
            place = part + (first + k) * 4
            tl.store(place, item, mask=active)
            tl.store(place + 1, begin + k * PART, mask=active)
            tl.store(place + 2, begin + tl.minimum((k + 1) * PART, length), mask=active)
            tl.store(place + 3, tl.where(several > 0, -1, vertex), mask=active)
        place = split + ((end >> 32) - several) * 3
        tl.store(place, vertex, mask=several > 0)
        tl.store(place + 1, first, mask=several > 0)
        tl.store(place + 2, first + parts, mask=several > 0)
    else:
        tl.store(ends + vertex, parts + (several << 32), mask=inside)
