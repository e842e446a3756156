"""Splat: each vertex gathers the values of its own points, in CSR order and without atomics."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from crfrnn.ops.arrays import LatticeArrays

from .launch import channel_block, item_of, item_rows, pieces, row_block

#: A vertex with more entries than this is splatted by whole programs, a part each.
_LIGHT = 32

#: Entries of one part of a heavy vertex. Flat regions put tens of thousands on one vertex.
_PART = 128

#: Programs that share the heavy parts, however many those are: the host need not know.
_PROGRAMS = 1024


class Splat(NamedTuple):
    """What splatting onto a lattice needs, beside the lattice: made once for all steps.

    Everything stays on the device and has a size that the host knows, so that making it waits for
    nothing and a CUDA graph can hold it.
    """

    share: Tensor  # B N*(D+1): weights in CSR order, times the scale of the input
    part: Tensor  # P 3, int64: item, and begin and end of its entries, for each heavy part
    heavy: Tensor  # H 3, int64: vertex, and begin and end of its parts
    counts: Tensor  # 2, int64: of the parts, and of the heavy vertices
    partial: Tensor  # P C: sums of the heavy parts


def plan(lattice: LatticeArrays, scale: Tensor | None, width: int) -> Splat:
    """Prepare splats of `width` channels, of values times `scale` (B N) where it is given."""
    batch, n, corners = lattice.vertex.shape
    each = n * corners
    entry = lattice.entry.long()
    share = lattice.weight.detach().reshape(batch, each).gather(1, entry)
    if scale is not None:
        share = share * scale.gather(1, torch.div(entry, corners, rounding_mode="floor"))

    vertices = lattice.neighbor.shape[1]
    vertex = torch.arange(vertices, device=entry.device)
    item = torch.searchsorted(lattice.starts[1:], vertex, right=True)
    begin = lattice.offset[vertex + item] + item * each
    end = lattice.offset[vertex + item + 1] + item * each
    is_heavy = end - begin > _LIGHT
    needed = torch.div(end - begin + _PART - 1, _PART, rounding_mode="floor")
    parts = torch.where(is_heavy, needed, 0)
    ends, heavy_ends = parts.cumsum(0), is_heavy.cumsum(0)
    most_heavy = batch * each // _LIGHT + 1
    most_parts = batch * each // _PART + most_heavy

    owner = _owners(ends, most_parts)
    number = torch.arange(most_parts, device=entry.device) - (ends - parts)[owner]
    first = begin[owner] + number * _PART
    part = torch.stack([item[owner], first, torch.minimum(first + _PART, end[owner])], dim=1)
    owner = _owners(heavy_ends, most_heavy)
    heavy = torch.stack([owner, (ends - parts)[owner], ends[owner]], dim=1)
    count = torch.stack([ends[-1], heavy_ends[-1]])
    return Splat(share, part, heavy, count, share.new_empty(most_parts, width))


def splat(
    values: Tensor, channels: int, lattice: LatticeArrays, plan: Splat, table: Tensor
) -> None:
    """Fill `table` (M C) from values (B N >=C), of which only the batch may be strided."""
    batch, n, corners = lattice.vertex.shape
    vertices, width = table.shape
    columns = channel_block(width)
    rows = row_block(columns)
    shared = min(_PROGRAMS, len(plan.part))
    splat_kernel[(shared + pieces(vertices, rows), pieces(width, columns))](
        values,
        table,
        lattice.entry,
        plan.share,
        lattice.offset,
        lattice.starts,
        plan.part,
        plan.counts,
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
        ENTRIES=64,
        COLUMNS=columns,
    )
    shared = min(_PROGRAMS, len(plan.heavy))
    combine_kernel[(shared, pieces(width, columns))](
        plan.partial,
        plan.heavy,
        plan.counts,
        table,
        shared,
        WIDTH=width,
        PARTS=16,
        COLUMNS=columns,
    )


def _owners(ends: Tensor, most: int) -> Tensor:
    """Which run each of `most` places falls into, the runs ending at `ends`; the last beyond."""
    place = torch.arange(most, device=ends.device)
    return torch.searchsorted(ends, place, right=True).clamp_max(len(ends) - 1)


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
    count,
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
    """The first programs sum parts of heavy vertices; the others, light vertices by the block."""
    program = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    given = (column < CHANNELS)[None, :]
    if program < shared:
        for p in range(program, tl.load(count), shared):
            item = tl.load(part + p * 3)
            begin = tl.load(part + p * 3 + 1)
            end = tl.load(part + p * 3 + 2)
            # Summed over entries only at the end: one reduction a part.
            sums = tl.zeros([ENTRIES, COLUMNS], share.dtype.element_ty)
            for first in range(begin, end, ENTRIES):
                place = first + tl.arange(0, ENTRIES)
                active = place < end
                sums += entry_values(
                    values, entry, share, place, active, item * rows_each, column, given, STRIDE,
                    CORNERS,
                )  # fmt: skip
            tl.store(partial + p * WIDTH + column, tl.sum(sums, axis=0), mask=column < WIDTH)
    else:
        vertex = (program - shared) * ROWS + tl.arange(0, ROWS)
        inside = vertex < vertices
        item = item_of(vertex, starts, batch)
        begin = tl.load(offset + vertex + item, mask=inside, other=0)
        length = tl.load(offset + vertex + item + 1, mask=inside, other=0) - begin
        light = inside & (length <= LIGHT)
        length = tl.where(light, length, 0)
        first = item * each + begin
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


@triton.jit(do_not_specialize=["shared"])
def combine_kernel(
    partial,
    heavy,
    count,
    table,
    shared,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add up the parts of each heavy vertex, always in the same order."""
    program = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    real = column < WIDTH
    for h in range(program, tl.load(count + 1), shared):
        vertex = tl.load(heavy + h * 3)
        end = tl.load(heavy + h * 3 + 2)
        sums = tl.zeros([PARTS, COLUMNS], partial.dtype.element_ty)
        for first in range(tl.load(heavy + h * 3 + 1), end, PARTS):
            row = first + tl.arange(0, PARTS)
            source = partial + row[:, None] * WIDTH + column[None, :]
            sums += tl.load(source, mask=(row < end)[:, None] & real[None, :], other=0.0)
        tl.store(table + vertex * WIDTH + column, tl.sum(sums, axis=0), mask=real)
