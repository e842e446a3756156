"""The exact Gaussian sum, in tiles like attention, without pairs of tiles that are far apart."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import item_rows, launch, pieces
from .ordering import Tiles, arrange

#: Points per tile. Small tiles leave out more pairs; large tiles keep the tensor cores busy.
TILE = {torch.float32: 64, torch.float64: 32}

#: Largest number of channels per program; more overflow a thread's registers. Each block of
#: channels computes the kernel values again.
_CHANNELS = 64


def exact(
    values: Tensor, features: Tensor, tolerance: float, targets: Tensor | None = None
) -> Tensor:
    """Sum the Gaussian over all pairs of points but those below `tolerance`; see `reference`."""
    if targets is not None:
        # Tiles know one set of points: targets send zeros, and the features' results are dropped.
        sends = torch.nn.functional.pad(values, (0, 0, 0, targets.shape[1]))
        return exact(sends, torch.cat([features, targets], 1), tolerance)[:, values.shape[1] :]
    values, features = values.detach().contiguous(), features.detach().contiguous()
    if values.numel() == 0:
        return torch.empty_like(values)
    return run(
        values, arrange(features, tolerance, TILE[features.dtype]), None, torch.empty_like(values)
    )


def run(values: Tensor, tiles: Tiles, before: Tensor | None, out: Tensor) -> Tensor:
    """Fill `out` (B N C) with the sums of values (B N C) times `before` (B N).

    Only the batch axis of the values may be strided.
    """
    batch, n, channels = out.shape
    # Tensor cores multiply blocks of at least 16 columns. A single channel is summed without them.
    columns = 1 if channels == 1 else min(_CHANNELS, max(16, triton.next_power_of_2(channels)))
    tile = TILE[values.dtype]
    launch(
        exact_kernel,
        (pieces(n, tile), batch, pieces(channels, columns)),
        values,
        tiles.features,
        tiles.order,
        out if before is None else before,
        out,
        tiles.begin,
        tiles.near,
        n,
        item_rows(values),
        D=tiles.features.shape[1],
        CHANNELS=channels,
        SCALED=before is not None,
        PRECISION="ieee" if torch.version.hip or values.dtype == torch.float64 else "tf32x3",
        TILE=tile,
        COLUMNS=columns,
        num_warps=4,
        num_stages=2,
    )
    return out


@triton.jit
def kernel_tile(
    features, row, other, points, D: tl.constexpr, TILE: tl.constexpr, kind: tl.constexpr
):
    """exp(-½ |f_i - f_j|²) for two tiles of points."""
    # Distances are sums of squared differences, axis by axis. The form |f_i|² + |f_j|² - 2 f_i·f_j
    # would run on the tensor cores, but features reach a hundred bandwidths. There it cancels all
    # digits of TF32 and half of those of float32, even with centered features. A difference and a
    # fused multiply-add per axis are cheap for few axes.
    # Absent points of the second tile are infinitely far: their kernel value is exp(-∞) = 0.
    squared = tl.zeros([TILE, TILE], kind)
    if D <= 8:
        for axis in tl.static_range(D):
            line = features + axis * points
            a = tl.load(line + row, mask=row < points, other=0.0)
            b = tl.load(line + other, mask=other < points, other=float("inf"))
            gap = a[:, None] - b[None, :]
            squared += gap * gap
    else:
        for axis in range(D):
            line = features + axis * points
            a = tl.load(line + row, mask=row < points, other=0.0)
            b = tl.load(line + other, mask=other < points, other=float("inf"))
            gap = a[:, None] - b[None, :]
            squared += gap * gap
    return tl.exp2(squared * -0.7213475204444817)  # -log2(e) / 2


@triton.jit(do_not_specialize=["points", "rows_each"])
def exact_kernel(
    values,
    features,
    order,
    before,
    out,
    begin,
    near,
    points,
    rows_each,
    D: tl.constexpr,
    CHANNELS: tl.constexpr,
    SCALED: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sum over the near tiles for one tile of points and a block of channels."""
    item = tl.program_id(1).to(tl.int64)
    tile = item * tl.num_programs(0) + tl.program_id(0)
    kind = out.dtype.element_ty
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    real = column < CHANNELS
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    item_features = features + item * D * points
    sums = tl.zeros([TILE, COLUMNS], kind)
    # A program owns its rows of the result and visits their near tiles in the order of the list. So
    # the sum needs no atomics and has the same rounding in every call.
    for p in range(tl.load(begin + tile), tl.load(begin + tile + 1)):
        other = tl.load(near + p).to(tl.int64) * TILE + tl.arange(0, TILE)
        valid = other < points
        weight = kernel_tile(item_features, row, other, points.to(tl.int64), D, TILE, kind)
        point = tl.load(order + item * points + other, mask=valid, other=0).to(tl.int64)
        value = tl.load(
            values + (item * rows_each + point)[:, None] * CHANNELS + column[None, :],
            mask=valid[:, None] & real[None, :],
            other=0.0,
        )
        if SCALED:
            value *= tl.load(before + item * points + point, mask=valid, other=0.0)[:, None]
        if COLUMNS == 1:
            sums += tl.sum(weight[:, :, None] * value[None, :, :], axis=1)
        else:
            # Three products in TF32 ("tf32x3") have together about the accuracy of float32.
            sums += tl.dot(weight, value, input_precision=PRECISION, out_dtype=kind)
    point = tl.load(order + item * points + row, mask=row < points, other=0).to(tl.int64)
    target = out + (item * points + point)[:, None] * CHANNELS + column[None, :]
    tl.store(target, sums, mask=(row < points)[:, None] & real[None, :])
