"""Separable convolution on a grid, one pass an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import item_rows, pieces, row_block


def separable(values: Tensor, bands: Sequence[Tensor]) -> Tensor:
    """Multiply `values` (B *S C) along each axis of S by the band matrix of that axis."""
    values = values.detach().contiguous()
    batch, *size, channels = values.shape
    flat = values.reshape(batch, -1, channels)
    grid = Grid(tuple(size), [band.detach().contiguous() for band in bands])
    return grid.run(flat, torch.empty_like(flat)).view(values.shape)


class Grid:
    """Band matrices for a grid of `size`, and the buffers between passes."""

    def __init__(self, size: tuple[int, ...], bands: Sequence[Tensor]) -> None:
        """Take one contiguous band matrix an axis."""
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
        """Filter values (B N C), of which only the batch may be strided, into `out`.

        The last pass also multiplies by `after` (B N) and `weights` (C), and adds to `out` if
        asked: it weights a message while it has it in registers.
        """
        while len(self.between) < min(len(self.size) - 1, 2):
            self.between.append(torch.empty_like(out))
        source = values
        for axis, band in enumerate(self.bands):
            last = axis == len(self.bands) - 1
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
    columns = min(128, triton.next_power_of_2(inner * width))
    rows = row_block(columns, 128)
    across = pieces(length, rows)
    along = pieces(inner * width, columns)
    lines = batch * n // (length * inner)
    separable_kernel[(lines * across * along,)](
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
        along,
        TAPS=band.shape[1],
        CHANNELS=0 if weights is None else len(weights),
        WIDTH=width,
        SCALED=after is not None,
        WEIGHTED=weights is not None,
        ADD=add,
        ROWS=rows,
        COLUMNS=columns,
    )


@triton.jit(do_not_specialize=["length", "inner", "points", "rows_each", "across", "along"])
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
    along,
    TAPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    SCALED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Convolve along one axis; rows are places on it, columns all that lies further inside."""
    program = tl.program_id(0).to(tl.int64)
    span = inner.to(tl.int64) * WIDTH
    column = (program % along) * COLUMNS + tl.arange(0, COLUMNS)
    row = (program // along % across) * ROWS + tl.arange(0, ROWS)
    line = program // along // across * length * inner  # of the first pixel, in the batch
    item = line // points
    begin = (item * rows_each + line - item * points) * WIDTH
    real = (column < span)[None, :]
    sums = tl.zeros([ROWS, COLUMNS], band.dtype.element_ty)
    for tap in range(TAPS):
        place = row + tap - TAPS // 2
        tap_weight = tl.load(band + row * TAPS + tap, mask=row < length, other=0.0)
        value = tl.load(
            source + begin + place[:, None] * span + column[None, :],
            mask=((place >= 0) & (place < length))[:, None] & real,
            other=0.0,
        )
        sums += tap_weight[:, None] * value
    valid = (row < length)[:, None] & real
    if SCALED:  # the innermost axis: a row is a pixel, a column a channel
        sums *= tl.load(after + line + row, mask=row < length, other=0.0)[:, None]
    if WEIGHTED:
        sums *= tl.load(weights + column, mask=column < CHANNELS, other=0.0)[None, :]
    place = target + line * WIDTH + row[:, None] * span + column[None, :]
    if ADD:
        sums += tl.load(place, mask=valid, other=0.0)
    tl.store(place, sums, mask=valid)
