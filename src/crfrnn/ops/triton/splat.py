"""Splat: each vertex gathers the values of its own points, in CSR order and without atomics."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from crfrnn.ops.arrays import LatticeArrays

from .launch import channel_block, item_of, item_rows, launch, pieces, row_block

#: A vertex with more entries than this is splatted in parts, which programs share.
_LIGHT = 8

#: Entries of one part of a heavy vertex. Flat regions put tens of thousands on one vertex.
_PART = 128

#: Programs that share the parts, however many those are: the host need not know.
_PROGRAMS = 4096

#: Warps of a program: with one, no vertex waits for a longer one of another warp.
_WARPS = 1


class Splat(NamedTuple):
    """What splatting onto a lattice needs, beside the lattice: made once for all steps.

    Everything stays on the device and has a size that the host knows, so that making it waits for
    nothing and a CUDA graph can hold it.
    """

    share: Tensor  # B N*(D+1): weights in CSR order, times the scale of the input
    ends: Tensor  # M, int64: parts up to a vertex, and split vertices up to it times 2^32
    part: Tensor  # P 4, int64: item, begin and end of its entries, its vertex or -1 if it has more
    split: Tensor  # H 3, int64: a vertex of several parts, and begin and end of these
    partial: Tensor  # P C: sums of the parts of split vertices


def plan(lattice: LatticeArrays, scale: Tensor | None, width: int) -> Splat:
    """Prepare splats of `width` channels, of values times `scale` (B N) where it is given."""
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
    most_split = batch * each // (_PART + 1) + 1
    most_parts = batch * each // (_LIGHT + 1) + batch * each // _PART + 1
    ends = torch.empty(vertices, dtype=torch.int64, device=share.device)
    part, split = ends.new_empty(most_parts, 4), ends.new_empty(most_split, 3)
    given = (lattice.offset, lattice.starts, ends, part, split, vertices, batch, each)
    for listing in (False, True):
        launch(
            part_kernel,
            (pieces(vertices, block),),
            *given,
            LIST=listing,
            LIGHT=_LIGHT,
            PART=_PART,
            BLOCK=block,
        )
        if not listing:
            torch.cumsum(ends, 0, out=ends)
    return Splat(share, ends, part, split, share.new_empty(most_parts, width))


def splat(
    values: Tensor, channels: int, lattice: LatticeArrays, plan: Splat, table: Tensor
) -> None:
    """Fill `table` (M C) from values (B N >=C), of which only the batch may be strided."""
    batch, n, corners = lattice.vertex.shape
    vertices, width = table.shape
    columns = channel_block(width)
    rows = 2 * row_block(columns, _WARPS)
    shared = min(_PROGRAMS, len(plan.part))
    launch(
        splat_kernel,
        (shared + pieces(vertices, rows), pieces(width, columns)),
        values,
        table,
        lattice.entry,
        plan.share,
        lattice.offset,
        lattice.starts,
        plan.part,
        plan.ends,
        plan.partial,
        vertices,
        batch,
        n * corners,
        item_rows(values),
        shared,
        CORNERS=corners,
        CHANNELS=channels,
        STRIDE=values.shape[2],
        WIDTH=width,
        LIGHT=_LIGHT,
        ROWS=rows,
        ENTRIES=16 * _WARPS,
        COLUMNS=columns,
        num_warps=_WARPS,
    )
    shared = min(_PROGRAMS, len(plan.split))
    launch(
        combine_kernel,
        (shared, pieces(width, columns)),
        plan.partial,
        plan.split,
        plan.ends,
        table,
        vertices,
        shared,
        WIDTH=width,
        PARTS=16,
        COLUMNS=columns,
        num_warps=1,
    )


@triton.jit
def entries_of(vertex, inside, offset, starts, batch, each):
    """Batch item of vertices (int64), and where their entries begin in the batch and how many."""
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
    own = tl.load(entry + item * each + place, mask=inside, other=0)
    value = tl.load(weight + item * each + own, mask=inside, other=0.0)
    if SCALED:
        value *= tl.load(scale + item * points + own // CORNERS, mask=inside, other=0.0)
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
    """Count the parts of each vertex; once `ends` holds their sums, LIST them."""
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


@triton.jit
def entry_values(
    values,
    entry,
    share,
    place,
    active,
    before,
    column,
    given,
    STRIDE: tl.constexpr,
    CORNERS: tl.constexpr,
):
    """What the entries at `place` add to their vertices; `before` rows come first."""
    point = (tl.load(entry + place, mask=active, other=0) // CORNERS).to(tl.int64)
    weight = tl.load(share + place, mask=active, other=0.0)
    row = values + (before + point) * STRIDE
    value = tl.load(row[:, None] + column[None, :], mask=active[:, None] & given, other=0.0)
    return weight[:, None] * value


@triton.jit(do_not_specialize=["vertices", "batch", "each", "rows_each", "shared"])
def splat_kernel(
    values,
    table,
    entry,
    share,
    offset,
    starts,
    part,
    ends,
    partial,
    vertices,
    batch,
    each,
    rows_each,
    shared,
    CORNERS: tl.constexpr,
    CHANNELS: tl.constexpr,
    STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    LIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    ENTRIES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The first programs sum parts of heavy vertices; the others, light vertices by the block.

    A part that is all of its vertex goes to the table at once, the others to `partial`.
    """
    program = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    given = (column < CHANNELS)[None, :]
    if program < shared:
        parts = tl.load(ends + vertices - 1) & 0xFFFFFFFF
        for p in range(program, parts, shared):
            item = tl.load(part + p * 4)
            begin = tl.load(part + p * 4 + 1)
            end = tl.load(part + p * 4 + 2)
            alone = tl.load(part + p * 4 + 3)
            # Summed over entries only at the end: one reduction a part.
            sums = tl.zeros([ENTRIES, COLUMNS], share.dtype.element_ty)
            for first in range(begin, end, ENTRIES):
                place = first + tl.arange(0, ENTRIES)
                active = place < end
                sums += entry_values(
                    values, entry, share, place, active, item * rows_each, column, given, STRIDE,
                    CORNERS,
                )  # fmt: skip
            total, real = tl.sum(sums, axis=0), column < WIDTH
            tl.store(partial + p * WIDTH + column, total, mask=real & (alone < 0))
            tl.store(table + alone * WIDTH + column, total, mask=real & (alone >= 0))
    else:
        vertex = (program - shared) * ROWS + tl.arange(0, ROWS)
        inside = vertex < vertices
        item, first, length = entries_of(vertex, inside, offset, starts, batch, each)
        light = inside & (length <= LIGHT)
        length = tl.where(light, length, 0)
        sums = tl.zeros([ROWS, COLUMNS], share.dtype.element_ty)
        for step in range(0, tl.max(length, axis=0), 4):
            for k in tl.static_range(4):  # four gathers in flight
                active = step + k < length
                place = first + step + k
                sums += entry_values(
                    values, entry, share, place, active, item * rows_each, column, given, STRIDE,
                    CORNERS,
                )  # fmt: skip
        target = table + vertex[:, None] * WIDTH + column[None, :]
        tl.store(target, sums, mask=light[:, None] & (column < WIDTH)[None, :])


@triton.jit(do_not_specialize=["vertices", "shared"])
def combine_kernel(
    partial,
    split,
    ends,
    table,
    vertices,
    shared,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add up the parts of each split vertex, always in the same order."""
    program = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    real = column < WIDTH
    for h in range(program, tl.load(ends + vertices - 1) >> 32, shared):
        vertex = tl.load(split + h * 3)
        end = tl.load(split + h * 3 + 2)
        sums = tl.zeros([PARTS, COLUMNS], partial.dtype.element_ty)
        for first in range(tl.load(split + h * 3 + 1), end, PARTS):
            row = first + tl.arange(0, PARTS)
            source = partial + row[:, None] * WIDTH + column[None, :]
            sums += tl.load(source, mask=(row < end)[:, None] & real[None, :], other=0.0)
        tl.store(table + vertex * WIDTH + column, tl.sum(sums, axis=0), mask=real)
