"""Splat: each vertex gathers the values of its points, in CSR order and without atomics."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from crfrnn.ops.arrays import LatticeArrays

from .launch import channel_block, item_rows, launch, pieces, row_block
from .splat_plan import LIGHT, Splat, entries_of

#: Largest number of programs that share the parts. The number of parts is known on the device only.
_PROGRAMS = 4096

#: Warps per program. With one, no vertex waits for a longer one in another warp.
_WARPS = 1


def splat(
    values: Tensor, channels: int, lattice: LatticeArrays, plan: Splat, table: Tensor
) -> None:
    """Fill `table` (M C) from values (B N >=C); only the batch axis of these may be strided."""
    # The obvious scatter, each point adding to its corners, needs atomics: vertices of flat regions
    # would serialize them, and the order of float additions would change from call to call. In a
    # gather each sum has one program and one order.
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
        LIGHT=LIGHT,
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
    """Values times weights of the entries at `place`; `before` is the first row of their item."""
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
    """Sum the parts of heavy vertices in the first programs, and light vertices in all others."""
    # Both in one launch, so that light vertices fill the device while long parts finish. A vertex
    # of a single part is written to the table; sums of several parts go to `partial`.
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
            # Entries stay apart until the end, for one reduction per part instead of one per block.
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
            for k in tl.static_range(4):  # unrolled, so that four loads are in flight
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
    """Add up the parts of each split vertex in a fixed order."""
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
