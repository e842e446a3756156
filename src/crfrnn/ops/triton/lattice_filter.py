"""Splat, blur and slice, for the whole batch in each launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from crfrnn.ops.arrays import LatticeArrays

from .launch import channel_block, item_of, launch, padded_width, pieces, program_points, row_block
from .splat import splat
from .splat_plan import Splat, plan


def filter(
    values: Tensor, lattice: LatticeArrays, reverse: bool, storage: torch.dtype | None = None
) -> Tensor:
    """Splat, blur and slice `values` (B N C); `reverse` blurs the axes backwards: the adjoint.

    `storage` is the float type of the values of vertices in memory; default, the type of `values`.
    Arithmetic is in float32 or float64.
    """
    values = values.detach().contiguous()
    channels = values.shape[2]
    blur = Blur(lattice, None, padded_width(channels), storage)
    table, gain = blur.run(values, channels, reverse)
    out = torch.empty_like(values)
    slice(table, lattice, gain, out)
    return out


def filter_to_weight(
    values: Tensor, gradient: Tensor, lattice: LatticeArrays, reverse: bool
) -> Tensor:
    """From dL/dout (B N C) of `filter` to dL/dweight (B N D+1); see `reference`."""
    values, gradient = values.detach().contiguous(), gradient.detach().contiguous()
    batch, n, channels = values.shape
    blur = Blur(lattice, None, padded_width(channels), None)
    table, gain = blur.run(values, channels, reverse)
    forward = table.clone()  # the next call of `run` overwrites the table
    adjoint, _ = blur.run(gradient, channels, not reverse)
    out = torch.empty_like(lattice.weight)
    columns = channel_block(channels)
    rows = row_block(columns)
    corners = lattice.vertex.shape[2]
    launch(
        weight_kernel,
        (pieces(n, rows), batch),
        values,
        gradient,
        forward,
        adjoint,
        lattice.vertex,
        lattice.starts,
        out,
        n,
        CORNERS=corners,
        GAIN=gain,
        CHANNELS=channels,
        WIDTH=table.shape[1],
        ROWS=rows,
        COLUMNS=columns,
    )
    return out


class Blur:
    """Splat and blur on one lattice, with buffers for all steps."""

    def __init__(
        self,
        lattice: LatticeArrays,
        scale: Tensor | None,
        width: int,
        storage: torch.dtype | None,
        tables: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Prepare for values times `scale` (B N), with `width` channels per vertex."""
        self.lattice = lattice
        self.plan: Splat = plan(lattice, scale, width)
        shape = (lattice.neighbor.shape[1], width)
        weight = lattice.weight
        dtype = weight.dtype if storage is None else storage
        if tables is None:
            tables = weight.new_empty(shape, dtype=dtype), weight.new_empty(shape, dtype=dtype)
        self.tables = tables

    def run(self, values: Tensor, channels: int, reverse: bool) -> tuple[Tensor, float]:
        """Splat and blur values (B N >=C); return the table (M C) and the factor for the slice."""
        splat(values, channels, self.lattice, self.plan, self.tables[0])
        return self.spread(reverse)

    def spread(self, reverse: bool) -> tuple[Tensor, float]:
        """Blur the splatted table along all axes; return the table and the factor for the slice."""
        source, target = self.tables
        vertices, width = source.shape
        columns = channel_block(width)
        rows = 2 * row_block(columns, 1)  # with one warp, more programs fit a multiprocessor
        axes = self.lattice.neighbor.shape[0]
        # Each blur can double a value. In float16 it is halved to stay in range, and the factor for
        # the slice undoes the powers of two.
        halved = source.dtype == torch.float16
        for axis in reversed(range(axes)) if reverse else range(axes):
            launch(
                blur_kernel,
                (pieces(vertices, rows), pieces(width, columns)),
                source,
                target,
                self.lattice.neighbor,
                self.lattice.starts,
                vertices,
                len(self.lattice.starts) - 1,
                axis,
                CENTER=0.5 if halved else 1.0,
                WIDTH=width,
                ROWS=rows,
                COLUMNS=columns,
                num_warps=1,
            )
            # In turn: other programs still read the source as a neighbor.
            source, target = target, source
        self.tables = source, target
        return source, gain(axes) * (2.0**axes if halved else 1.0)


def gain(corners: int) -> float:
    """1 / (1 + 2^-D) for D+1 corners; see `reference_lattice._gain`."""
    return 1 / (1 + 2.0 ** (1 - corners))


def slice(
    table: Tensor, lattice: LatticeArrays, gain: float, out: Tensor, after: Tensor | None = None
) -> None:
    """Fill `out` (B N C) from the table, times `after` (B N) if given.

    The table has at least as many channels as `out`.
    """
    batch, n, corners = lattice.vertex.shape
    channels = out.shape[2]
    columns = channel_block(channels)
    rows = row_block(columns)
    launch(
        slice_kernel,
        (pieces(n, rows), batch, pieces(channels, columns)),
        table,
        lattice.vertex,
        lattice.weight,
        lattice.starts,
        out if after is None else after,
        out,
        n,
        CORNERS=corners,
        GAIN=gain,
        SCALED=after is not None,
        CHANNELS=channels,
        WIDTH=table.shape[1],
        ROWS=rows,
        COLUMNS=columns,
    )


@triton.jit(do_not_specialize=["vertices", "batch", "axis"])
def blur_kernel(
    source,
    target,
    neighbor,
    starts,
    vertices,
    batch,
    axis,
    CENTER: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Blur along one axis with CENTER times (½, 1, ½)."""
    # Vertices are rows of channels, so the threads of a warp load consecutive addresses although
    # the rows of the neighbors are scattered. Reading one table and writing the other, each vertex
    # is independent of all others: no order of programs changes the result.
    vertex = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = vertex < vertices
    real = (column < WIDTH)[None, :]
    pair = neighbor + (axis * vertices.to(tl.int64) + vertex) * 2
    back = tl.load(pair, mask=inside, other=0)
    forth = tl.load(pair + 1, mask=inside, other=0)
    # Neighbors are numbered from 1 within their item. 0 stands for an absent one and is not read.
    begin = tl.load(starts + item_of(vertex, starts, batch), mask=inside, other=0) - 1
    kind = tl.float64 if target.dtype.element_ty == tl.float64 else tl.float32
    center = source + vertex[:, None] * WIDTH + column[None, :]
    left = source + (begin + back)[:, None] * WIDTH + column[None, :]
    right = source + (begin + forth)[:, None] * WIDTH + column[None, :]
    value = tl.load(center, mask=inside[:, None] & real, other=0.0).to(kind)
    sides = tl.load(left, mask=(back > 0)[:, None] & real, other=0.0).to(kind)
    sides += tl.load(right, mask=(forth > 0)[:, None] & real, other=0.0).to(kind)
    blurred = CENTER * value + (0.5 * CENTER) * sides
    place = target + vertex[:, None] * WIDTH + column[None, :]
    tl.store(place, blurred.to(target.dtype.element_ty), mask=inside[:, None] & real)


@triton.jit
def sliced(
    table,
    vertex,
    weight,
    starts,
    place,
    item,
    valid,
    column,
    CORNERS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sums of the rows of the corners, times their weights, for the points `place` of a batch."""
    begin = tl.load(starts + item) - 1  # vertices of an item are numbered from 1
    real = (column < WIDTH)[None, :]
    sums = tl.zeros([ROWS, COLUMNS], weight.dtype.element_ty)
    for corner in tl.static_range(CORNERS):
        row = begin + tl.load(vertex + place * CORNERS + corner, mask=valid, other=1)
        share = tl.load(weight + place * CORNERS + corner, mask=valid, other=0.0)
        source = table + row[:, None] * WIDTH + column[None, :]
        value = tl.load(source, mask=valid[:, None] & real, other=0.0)
        sums += share[:, None] * value.to(sums.dtype)
    return sums


@triton.jit(do_not_specialize=["points"])
def slice_kernel(
    table,
    vertex,
    weight,
    starts,
    after,
    out,
    points,
    CORNERS: tl.constexpr,
    GAIN: tl.constexpr,
    SCALED: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Slice: each point gathers the rows of the corners around it."""
    # The gain multiplies the sum, once per value. It also undoes the halved blurs of float16.
    item, _, valid, place = program_points(points, ROWS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    sums = sliced(
        table, vertex, weight, starts, place, item, valid, column, CORNERS, WIDTH, ROWS, COLUMNS
    )
    if SCALED:
        sums *= tl.load(after + place, mask=valid, other=0.0)[:, None]
    target = out + place[:, None] * CHANNELS + column[None, :]
    tl.store(target, sums * GAIN, mask=valid[:, None] & (column < CHANNELS)[None, :])


@triton.jit(do_not_specialize=["points"])
def weight_kernel(
    values,
    gradient,
    forward,
    adjoint,
    vertex,
    starts,
    out,
    points,
    CORNERS: tl.constexpr,
    GAIN: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradient of each weight of the lattice."""
    # It is GAIN (⟨g, X⟩ + ⟨v, Y⟩), with the blurred tables X of the values, `forward`, and Y of the
    # gradient, `adjoint`; derived in `reference_lattice.filter_to_weight`.
    item, _, valid, place = program_points(points, ROWS)
    begin = tl.load(starts + item) - 1
    for corner in tl.static_range(CORNERS):
        row = begin + tl.load(vertex + place * CORNERS + corner, mask=valid, other=1)
        sums = tl.zeros([ROWS], out.dtype.element_ty)
        for first in range(0, CHANNELS, COLUMNS):
            column = first + tl.arange(0, COLUMNS)
            real = valid[:, None] & (column < CHANNELS)[None, :]
            at_point = place[:, None] * CHANNELS + column[None, :]
            at_vertex = row[:, None] * WIDTH + column[None, :]
            by_slice = tl.load(gradient + at_point, mask=real, other=0.0)
            by_slice *= tl.load(forward + at_vertex, mask=real, other=0.0)
            by_splat = tl.load(values + at_point, mask=real, other=0.0)
            by_splat *= tl.load(adjoint + at_vertex, mask=real, other=0.0)
            sums += tl.sum(by_slice + by_splat, axis=1)
        tl.store(out + place * CORNERS + corner, sums * GAIN, mask=valid)
