"""Sorts points into the leaves of a k-d tree, and lists the leaves that are near each other."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch, pieces


class Tiles(NamedTuple):
    """Points sorted into tiles of near points, and for each tile the list of tiles near it."""

    order: Tensor  # B N, int32: the point at each place
    features: Tensor  # B D N, in that order
    begin: Tensor  # B*tiles + 1, int64: where the list of each tile begins in `near`
    near: Tensor  # int32: the lists, of tiles of the same item


def arrange(features: Tensor, tolerance: float, tile: int) -> Tiles:
    """Sort points (B N D) into tiles of `tile` points, and list the tiles near each tile.

    A pair of tiles is near unless the kernel is below `tolerance` for all of its points. The host
    waits for the device once, to learn the length of the list.
    """
    batch, n, d = features.shape
    order = kd_order(features, tile)
    placed = features.gather(1, order[:, :, None].expand(batch, n, d)).transpose(1, 2).contiguous()
    tiles = pieces(n, tile)
    boxes = placed
    if tiles * tile != n:
        boxes = torch.nn.functional.pad(placed, (0, tiles * tile - n), mode="replicate")
    boxes = boxes.view(batch, d, tiles, tile)
    low, high = boxes.amin(3), boxes.amax(3)
    # exp(-½ d²) <= ε where d² >= -2 ln ε. Boxes at that distance hold only pairs below ε. The
    # margin covers rounding, so that no pair above the tolerance is lost.
    limit = -2 * math.log(tolerance) * (1 + 1e-5) if tolerance > 0 else math.inf
    count = torch.empty(batch * tiles, dtype=torch.int64, device=features.device)
    begin = count.new_zeros(batch * tiles + 1)
    block = min(256, triton.next_power_of_2(tiles))

    def launch_pairs(near: Tensor, fill: bool) -> None:
        launch(
            pair_kernel,
            (tiles, batch),
            low,
            high,
            begin,
            near,
            count,
            tiles,
            LIMIT=limit,
            D=d,
            FILL=fill,
            BLOCK=block,
        )

    # Twice: counting first gives every tile its place in the list, without atomics.
    launch_pairs(count, fill=False)
    begin[1:] = count.cumsum(0)
    near = torch.empty(int(begin[-1]), dtype=torch.int32, device=features.device)
    launch_pairs(near, fill=True)
    return Tiles(order.int(), placed, begin, near)


def kd_order(features: Tensor, tile: int) -> Tensor:
    """Orders (B N) of points (B N D): sets of points are halved along their widest axis.

    The last sets are tiles. All tiles but the last of an item are full.
    """
    # Each level of the tree is one sort of all points of the batch, by set and then by coordinate,
    # instead of a sort per set: the number of launches grows with the logarithm of the number of
    # tiles. The host knows the sizes of all sets without asking the device.
    batch, n, d = features.shape
    tiles = pieces(n, tile)
    total = batch * tiles
    device = features.device
    # Float32 is accurate enough for an order. Absent points are infinite, so they come last.
    points = features.new_full((batch, tiles * tile, d), math.inf, dtype=torch.float32)
    points[:, :n] = features
    points = points.view(-1, d)
    order = torch.arange(total * tile, device=device)
    bounds = np.arange(batch + 1) * tiles  # of the sets, in tiles
    while (np.diff(bounds) > 1).any():
        sizes = np.diff(bounds)
        owner = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(device)
        placed = points[order].view(total, tile, d)
        absent = placed.isinf()
        low = _reduced(placed.amin(1), owner, len(sizes), "amin")
        high = _reduced(placed.masked_fill(absent, -math.inf).amax(1), owner, len(sizes), "amax")
        axis = (high - low).argmax(1)[owner].repeat_interleave(tile)
        coordinate = placed.view(-1, d).gather(1, axis[:, None])[:, 0]
        key = (owner.repeat_interleave(tile) << 32) | _ascending(coordinate)
        order = order[key.argsort(stable=True)]
        halves = bounds[:-1] + (sizes + 1) // 2
        bounds = np.unique(np.concatenate([bounds, halves]))
    item = torch.arange(batch, device=device)[:, None] * (tiles * tile)
    return order.view(batch, tiles * tile)[:, :n] - item


def _reduced(values: Tensor, owner: Tensor, count: int, how: str) -> Tensor:
    """Smallest or largest values (T D) per owner."""
    start = values.new_full((count, values.shape[1]), math.inf if how == "amin" else -math.inf)
    return start.scatter_reduce_(0, owner[:, None].expand_as(values), values, how)


def _ascending(numbers: Tensor) -> Tensor:
    """Integers below 2^32 in the same order as float32 numbers."""
    # The bits of positive floats ascend like integers, and those of negative ones descend. Setting
    # the sign bit of the former and inverting all bits of the latter gives one ascending order.
    bits = numbers.view(torch.int32).long() & 0xFFFFFFFF
    return torch.where(bits >= 2**31, 0xFFFFFFFF - bits, bits + 2**31)


@triton.jit(do_not_specialize=["tiles"])
def pair_kernel(
    low,
    high,
    begin,
    near,
    count,
    tiles,
    LIMIT: tl.constexpr,
    D: tl.constexpr,
    FILL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Count or, with FILL, list the tiles whose boxes lie within √LIMIT of this tile's box."""
    # Boxes are [low, high] per axis. Their gap along an axis is the distance of the facing sides,
    # or zero if they overlap; the squared distance of two boxes is the sum of squared gaps.
    item = tl.program_id(1).to(tl.int64)
    tile = item * tiles + tl.program_id(0)
    listed = tl.load(begin + tile)
    for first in range(0, tiles, BLOCK):
        other = first + tl.arange(0, BLOCK)
        inside = other < tiles
        squared = tl.zeros([BLOCK], low.dtype.element_ty)
        for axis in range(D):
            row = (item * D + axis) * tiles
            here = tl.program_id(0)
            gap = tl.load(low + row + other, mask=inside, other=0.0) - tl.load(high + row + here)
            back = tl.load(low + row + here) - tl.load(high + row + other, mask=inside, other=0.0)
            gap = tl.maximum(tl.maximum(gap, back), 0.0)
            squared += gap * gap
        # "Not above" instead of "below": the distance to a tile with NaN is NaN, and it is kept.
        kept = (inside & ~(squared > LIMIT)).to(tl.int32)
        if FILL:
            place = listed + tl.cumsum(kept, axis=0) - 1
            tl.store(near + place, other, mask=kept > 0)
        listed += tl.sum(kept, axis=0)
    if not FILL:
        tl.store(count + tile, listed)
