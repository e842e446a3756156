"""Builds lattices by sorting the keys of all corners; finds neighbors by binary search."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from crfrnn.ops.arrays import LatticeArrays

from .launch import item_of, launch, pieces, row_block
from .packing import Packing, pack

#: Adding and subtracting 1.5 · 2^(bits of the mantissa) rounds to the nearest integer, halves to
#: even, like torch. The interpreter lacks Triton's rounding function.
_ROUNDING = {torch.float32: 1.5 * 2.0**23, torch.float64: 1.5 * 2.0**52}


def build(features: Tensor) -> LatticeArrays:
    """Build the lattices around `features` (B N D), all items in one set of launches."""
    # A sort instead of a hash table needs no atomics, and numbers vertices alike in every call.
    # Vertices are numbered in the order of their keys. A key's top digits are the batch item and
    # then the remainder. A step along an axis adds the same number to all keys of one remainder, so
    # it keeps their order: the neighbors of consecutive vertices are consecutive but for gaps, and
    # a blur reads its two neighbor rows almost in sequence.
    features = features.detach().contiguous()
    batch, n, d = features.shape
    each = n * (d + 1)
    if each >= 2**31:
        raise ValueError(
            f"a lattice takes fewer than 2^31 corners per image; got {n} points with {d + 1} each. "
            f"Split the image into tiles."
        )
    packing = pack(features)
    keys, weight = embed(features, packing)
    ordered, order = _sorted(keys)
    total, block = batch * each, row_block(1)
    number = torch.empty_like(order)
    grid = (pieces(total, block),)
    launch(first_kernel, grid, ordered, number, total, WORDS=packing.words, BLOCK=block)
    # Marks of first corners, summed up, number the vertices from 1.
    torch.cumsum(number, 0, out=number)
    vertices = int(number[-1])  # waits for the device, as `pack` does

    vertex = torch.empty_like(order, dtype=torch.int32)
    entry = torch.empty_like(vertex)
    offset = vertex.new_empty(vertices + batch)
    starts = order.new_empty(batch + 1)
    distinct = ordered.new_empty(packing.words, vertices)
    launch(
        number_kernel,
        grid,
        ordered,
        order,
        number,
        vertex,
        entry,
        offset,
        starts,
        distinct,
        each,
        total,
        vertices,
        WORDS=packing.words,
        BLOCK=block,
    )
    neighbor = _neighbors(distinct, packing, starts, d)
    shape = (batch, n, d + 1)
    return LatticeArrays(
        vertex.view(shape), weight, neighbor, entry.view(batch, each), offset, starts
    )


def embed(features: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """The packed keys (W, B*N*(D+1)) of the corners around each point, and their weights."""
    batch, n, d = features.shape
    weight = features.new_empty((batch, n, d + 1))
    keys = weight.new_empty((packing.words, weight.numel()), dtype=packing.type)
    axes = triton.next_power_of_2(d + 1)
    block = row_block(axes)
    launch(
        embed_kernel,
        (pieces(batch * n, block),),
        features,
        packing.scale,
        packing.low,
        packing.stride,
        weight,
        keys,
        n,
        batch * n,
        D=d,
        WORDS=packing.words,
        AXES=axes,
        ROUNDING=_ROUNDING[features.dtype],
        BLOCK=block,
        # A fused multiply-add rounds once instead of twice. All engines must round alike, or a
        # point near a face falls into different simplices.
        enable_fp_fusion=False,
    )
    return keys, weight


def _sorted(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Keys (W L) in ascending order, word 0 first, and the place each came from."""
    # A radix sort by words, the last word first: each sort is stable, so it keeps the order of the
    # words after it.
    order: Tensor | None = None
    for word in reversed(keys.unbind(0)):
        if order is None:
            values, order = word.sort(stable=True)
        else:
            order = order[word[order].argsort(stable=True)]
    assert order is not None
    return (values[None] if len(keys) == 1 else keys[:, order]), order


def _neighbors(keys: Tensor, packing: Packing, starts: Tensor, d: int) -> Tensor:
    """Neighbors (D+1 M 2) of the vertices with the ascending keys (W M); 0 if absent."""
    words, vertices = keys.shape
    neighbor = torch.zeros((d + 1, vertices, 2), dtype=torch.int32, device=keys.device)
    block = 256
    launch(
        neighbor_kernel,
        (pieces(vertices, block), d + 1),
        keys,
        packing.step,
        starts,
        neighbor,
        vertices,
        len(starts) - 1,
        packing.radix,
        vertices.bit_length(),
        D=d,
        WORDS=words,
        BLOCK=block,
    )
    return neighbor


@triton.jit(do_not_specialize=["points", "total"])
def embed_kernel(
    features,
    scale,
    low,
    stride,
    weight,
    keys,
    points,
    total,
    D: tl.constexpr,
    WORDS: tl.constexpr,
    AXES: tl.constexpr,
    ROUNDING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One point per row, one coordinate per column; rounds like `reference_lattice.embed`."""
    # The steps and their derivations are those of the reference. A tile keeps all coordinates of
    # its points in registers. A register tile cannot be indexed, so the coordinate of a given
    # column or rank is read as the sum of a masked tile.
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < total
    column = tl.arange(0, AXES)[None, :]
    elevated = tl.zeros([BLOCK, AXES], features.dtype.element_ty)
    sum_above = tl.zeros([BLOCK], features.dtype.element_ty)
    for step in tl.static_range(D):
        feature = tl.load(features + row * D + (D - 1 - step), mask=inside, other=0.0)
        scaled = feature * tl.load(scale + D - step)
        here = sum_above - scaled * (D - step)
        elevated = tl.where(column == D - step, here[:, None], elevated)
        sum_above = sum_above + scaled
    elevated = tl.where(column == 0, sum_above[:, None], elevated)

    inverse = tl.load(scale)
    quotient = (elevated * inverse + ROUNDING) - ROUNDING
    residue = elevated - quotient * (D + 1)
    rank = tl.zeros([BLOCK, AXES], tl.int32)
    for other in tl.static_range(D + 1):
        other_residue = tl.sum(tl.where(column == other, residue, 0.0), axis=1)[:, None]
        below = ((residue < other_residue) & (column < other)) | (
            (residue <= other_residue) & (column > other)
        )
        rank += below.to(tl.int32)
    whole = quotient.to(tl.int32)
    rank += tl.sum(whole, axis=1)[:, None]
    shift = (rank < 0).to(tl.int32) - (rank > D).to(tl.int32)
    rank += shift * (D + 1)
    whole += shift
    base = quotient * (D + 1) + (shift * (D + 1)).to(elevated.dtype)
    delta = (elevated - base) * inverse

    item = row // points
    lowest = tl.load(low + column, mask=column < D, other=0)
    for corner in tl.static_range(D + 1):
        upper = (column <= D) & (rank == D - corner)
        lower = (column <= D) & (rank == (D + 1 - corner) % (D + 1))
        share = tl.sum(tl.where(upper, delta, 0.0), axis=1)
        left = tl.sum(tl.where(lower, delta, 0.0), axis=1)
        # For corner 0 the ranks are D and 0, and the weight is δ_D + (1 - δ_0).
        share = share + (1.0 - left) if corner == 0 else share - left
        place = row * (D + 1) + corner
        tl.store(weight + place, share, mask=inside)
        # A coordinate is (D+1) times its quotient plus the remainder, which is the corner's number.
        digit = (whole - (rank > D - corner).to(tl.int32)).to(tl.int64) - lowest
        for word in tl.static_range(WORDS):
            place_value = stride + word * (D + 2)
            key = tl.sum(digit * tl.load(place_value + column, mask=column < D, other=0), axis=1)
            key += tl.load(place_value + D) * corner + tl.load(place_value + D + 1) * item
            target = keys + word * (total.to(tl.int64) * (D + 1)) + place
            tl.store(target, key.to(keys.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["total"])
def first_kernel(keys, first, total, WORDS: tl.constexpr, BLOCK: tl.constexpr):
    """Mark the first of equal keys with 1 and the others with 0."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < total
    differs = place == 0
    for word in tl.static_range(WORDS):
        row = keys + word * total.to(tl.int64) + place
        before = tl.load(row - 1, mask=inside & (place > 0), other=0)
        differs = differs | (tl.load(row, mask=inside, other=0) != before)
    tl.store(first + place, differs.to(tl.int64), mask=inside)


@triton.jit(do_not_specialize=["each", "total", "vertices"])
def number_kernel(
    keys,
    order,
    number,
    vertex,
    entry,
    offset,
    starts,
    distinct,
    each,
    total,
    vertices,
    WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Fill the arrays of the lattice from the sorted corners and the `number` of their vertices."""
    # The item is the top digit of a key, so the corners of an item are consecutive. `number` counts
    # through the batch; the vertices of an item are numbered from 1, because 0 stands for "no such
    # vertex". Each place writes what only it knows, so no two programs write to one address.
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < total
    item = place // each
    begin = item * each
    current = tl.load(number + place, mask=inside, other=0)
    before = tl.load(number + place - 1, mask=inside & (place > 0), other=0)
    origin = tl.load(number + begin, mask=inside, other=0)
    source = tl.load(order + place, mask=inside, other=0)
    tl.store(vertex + source, (current - origin + 1).to(tl.int32), mask=inside)
    tl.store(entry + place, (source - begin).to(tl.int32), mask=inside)
    first = inside & (current != before)
    last = inside & (place + 1 == begin + each)
    tl.store(offset + current - 1 + item, (place - begin).to(tl.int32), mask=first)
    tl.store(offset + current + item, tl.zeros_like(place).to(tl.int32) + each, mask=last)
    tl.store(starts + item, current - 1, mask=inside & (place == begin))
    tl.store(starts + item + 1, current, mask=last & (place + 1 == total))
    for word in tl.static_range(WORDS):
        key = tl.load(keys + word * total.to(tl.int64) + place, mask=first, other=0)
        tl.store(distinct + word * vertices.to(tl.int64) + current - 1, key, mask=first)


@triton.jit(do_not_specialize=["vertices", "batch", "radix", "bits"])
def neighbor_kernel(
    keys,
    step,
    starts,
    neighbor,
    vertices,
    batch,
    radix,
    bits,
    D: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Find the vertex one step forth from each along an axis, and record both as neighbors."""
    # A step back from w to v is a step forth from v to w, so one search finds both entries, and
    # each entry has one writer. Absent neighbors keep the zero that the table was filled with.
    axis = tl.program_id(1)
    vertex = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = vertex < vertices
    remainder = (tl.load(keys + vertex, mask=inside, other=0) // radix) % (D + 1)
    # From remainder D a step leads to remainder 0, so its digits change by other amounts.
    steps = step + (tl.where(remainder == D, D + 1, 0) + axis) * WORDS

    low = tl.zeros([BLOCK], tl.int64)
    high = tl.zeros([BLOCK], tl.int64) + vertices
    for _ in range(bits):
        middle = (low + high) // 2
        smaller = tl.zeros([BLOCK], tl.int1)
        equal = low < high
        for word in tl.static_range(WORDS):
            row = keys + word * vertices.to(tl.int64)
            sought = tl.load(row + vertex, mask=inside, other=0) + tl.load(steps + word)
            seen = tl.load(row + middle, mask=inside & (low < high), other=0)
            smaller = smaller | (equal & (seen < sought))
            equal = equal & (seen == sought)
        upward = smaller & (low < high)
        high = tl.where(upward, high, middle)
        low = tl.where(upward, middle + 1, low)
    exists = inside & (low < vertices)
    for word in tl.static_range(WORDS):
        row = keys + word * vertices.to(tl.int64)
        sought = tl.load(row + vertex, mask=inside, other=0) + tl.load(steps + word)
        exists = exists & (tl.load(row + low, mask=exists, other=0) == sought)

    begin = tl.load(starts + item_of(vertex, starts, batch), mask=inside, other=0)
    table = neighbor + axis.to(tl.int64) * vertices * 2
    tl.store(table + vertex * 2 + 1, (low - begin + 1).to(tl.int32), mask=exists)
    tl.store(table + low * 2, (vertex - begin + 1).to(tl.int32), mask=exists)
