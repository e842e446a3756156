"""Separable convolution on a grid, one pass per axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import item_rows, launch, pieces

#: Rows and columns of a program's tile of the result, length of the sum that it adds at a time, and
#: number of its warps.
_ROWS, _COLUMNS, _DEPTH, _WARPS = 16, 128, 16, 4


def separable(values: Tensor, bands: Sequence[Tensor]) -> Tensor:
    """Multiply `values` (B *S C) along each axis of S by the band matrix of that axis."""
    values = values.detach().contiguous()
    # Channels are one more axis here, because the kernel is compiled anew for each number of them.
    # `separable_to_bands` merges the axes after the filtered one into the channels.
    flat = values.reshape(len(values), -1, 1)
    grid = Grid(tuple(values.shape[1:]), [band.detach().contiguous() for band in bands])
    return grid.run(flat, torch.empty_like(flat)).view(values.shape)


class Grid:
    """Band matrices for a grid of `size`, and the buffers between passes."""

    def __init__(self, size: tuple[int, ...], bands: Sequence[Tensor]) -> None:
        """Take one contiguous band matrix for each of the first axes."""
        self.size = size
        self.bands = bands
        self.between: list[Tensor] = []

    def run(
        self,
        values: Tensor,
        out: Tensor,
        *,
        after: Tensor | None = None,
        weights: Tensor | None = None,
        add: bool = False,
    ) -> Tensor:
        """Filter values (B N C) into `out`; only the batch axis of the values may be strided.

        The last pass also multiplies by `after` (B N) and `weights` (C), and with `add` adds to
        `out`. This weights the message while it is in registers.
        """
        while len(self.between) < min(len(self.bands) - 1, 2):
            self.between.append(torch.empty_like(out))
        source = values
        for axis, band in enumerate(self.bands):
            last = axis == len(self.bands) - 1
            # Two buffers in turn: a pass cannot write where other programs still read.
            target = out if last else self.between[axis % 2]
            _pass(
                source,
                band,
                target,
                self.size,
                axis,
                after if last else None,
                weights if last else None,
                add and last,
            )
            source = target
        return out


def _pass(
    source: Tensor,
    band: Tensor,
    target: Tensor,
    size: tuple[int, ...],
    axis: int,
    after: Tensor | None,
    weights: Tensor | None,
    add: bool,
) -> None:
    batch, n, width = target.shape
    length, inner = size[axis], math.prod(size[axis + 1 :])
    lines = batch * n // (length * inner)
    rows = min(_ROWS, max(16, triton.next_power_of_2(length)))
    columns = min(_COLUMNS, max(16, triton.next_power_of_2(lines * inner * width)))
    across = pieces(length, rows)
    launch(
        separable_kernel,
        (across * pieces(lines * inner * width, columns),),
        source,
        band,
        target,
        target if after is None else after,
        target if weights is None else weights,
        length,
        inner,
        n,
        item_rows(source),
        across,
        lines,
        TAPS=band.shape[1],
        CHANNELS=0 if weights is None else len(weights),
        WIDTH=width,
        SCALED=after is not None,
        WEIGHTED=weights is not None,
        ADD=add,
        PRECISION="ieee" if torch.version.hip or band.dtype == torch.float64 else "tf32x3",
        ROWS=rows,
        COLUMNS=columns,
        DEPTH=_DEPTH,
        num_warps=_WARPS,
    )


@triton.jit(do_not_specialize=["length", "inner", "points", "rows_each", "across", "lines"])
def separable_kernel(
    source,
    band,
    target,
    after,
    weights,
    length,
    inner,
    points,
    rows_each,
    across,
    lines,
    TAPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    SCALED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ADD: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Convolve along one axis: a tile of the band matrix times a tile of values.

    Rows are positions on the axis. Columns are all other positions and channels.
    """
    # A row of the band holds TAPS weights, so ROWS rows together reach ROWS + TAPS - 1 values.
    # Written as a matrix product, most of a tile of the band is zero, but each value is loaded once
    # for all rows instead of once per tap, which outweighs the products with zeros.
    program = tl.program_id(0)
    begin = (program % across) * ROWS
    row = begin + tl.arange(0, ROWS)
    span = inner.to(tl.int64) * WIDTH
    column = (program // across).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    real = (column < lines * span)[None, :]
    line = column // span * length * inner  # first pixel of the column's line, in the batch
    item = line // points
    rest = column % span
    origin = source + (item * rows_each + line - item * points) * WIDTH + rest
    sums = tl.zeros([ROWS, COLUMNS], band.dtype.element_ty)
    for first in range(0, ROWS + TAPS - 1, DEPTH):
        place = begin - TAPS // 2 + first + tl.arange(0, DEPTH)
        tap = place[None, :] - row[:, None] + TAPS // 2
        matrix = tl.load(
            band + row[:, None] * TAPS + tap,
            mask=(tap >= 0) & (tap < TAPS) & (row < length)[:, None],
            other=0.0,
        )
        value = tl.load(
            origin[None, :] + place[:, None] * span,
            mask=((place >= 0) & (place < length))[:, None] & real,
            other=0.0,
        )
        # Three products in TF32 ("tf32x3") have together about the accuracy of float32.
        sums += tl.dot(matrix, value, input_precision=PRECISION, out_dtype=sums.dtype)
    valid = (row < length)[:, None] & real
    if SCALED:  # only in the pass along the innermost axis, where consecutive rows are pixels
        scale = after + line[None, :] + row[:, None]
        sums *= tl.load(scale, mask=valid, other=0.0)
    if WEIGHTED:
        channel = rest % WIDTH
        sums *= tl.load(weights + channel, mask=channel < CHANNELS, other=0.0)[None, :]
    place = target + line[None, :] * WIDTH + row[:, None] * span + rest[None, :]
    if ADD:
        sums += tl.load(place, mask=valid, other=0.0)
    tl.store(place, sums, mask=valid)
