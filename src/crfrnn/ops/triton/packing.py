"""How the key of a lattice vertex is packed into 64-bit words."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from crfrnn.ops.arrays import refuse_far

#: A key strays from the rounded point by 2 in its simplex, 1 as a neighbor, and 1 by rounding.
_MARGIN = 4

#: Values of a word stay below this, so that sums of a key and a step cannot overflow.
_CAPACITY = 2**62


class Packing(NamedTuple):
    """Vertex keys as mixed-radix numbers in one or more int64 words, sorted word by word.

    All D+1 coordinates of a vertex are equal modulo D+1, and they sum to zero: the remainder and D
    quotients tell them all. The digits, from the top: batch item, remainder, quotients 0..D-1.
    Every digit has room for a step to a neighbor, so that a step is one addition a word.
    """

    scale: Tensor  # D+1, in the type of the features: 1 / (D+1), then each feature's factor
    low: Tensor  # D: the smallest quotient of each axis
    stride: Tensor  # W D+2: worth of each quotient, the remainder and the item in each word
    step: Tensor  # 2 D+1 W: forth along an axis, for remainders below D and for D
    radix: int  # worth of the remainder in word 0
    type: torch.dtype  # of a word: int32 where that holds a key, which halves the sort

    @property
    def words(self) -> int:
        """Words of a key."""
        return self.stride.shape[0]


def pack(features: Tensor) -> Packing:
    """Lay out the keys for features (B N D); reads their ranges, which waits for the device."""
    batch, _, d = features.shape
    low, high = torch.stack(features.flatten(0, 1).aminmax(dim=0)).tolist()
    if not all(math.isfinite(value) for value in (*low, *high)):
        raise ValueError(
            "features must be finite; got NaN or infinite values. Look for overflow in the network "
            "(half precision?) or an unreadable input."
        )
    refuse_far(max(map(abs, (*low, *high))), features.dtype)
    ranges = [_quotients(low, high, axis) for axis in range(d)]
    digits = [batch, d + 1, *(last - first + 1 for first, last in ranges)]
    words = _strides(digits)
    lowest = [first for first, _ in ranges]
    stride = [[*axes, remainder, item] for item, remainder, *axes in words]
    # Adding one to all coordinates and taking D+1 from that of the axis; see `reference`.
    step = [
        [
            (sum(axes) - d * remainder if wraps else remainder) - (*axes, 0)[axis]
            for _, remainder, *axes in words
        ]
        for wraps in (False, True)
        for axis in range(d + 1)
    ]
    numbers = [number for row in (lowest, *stride, *step) for number in row]
    parts = (
        torch.tensor(numbers)
        .to(features.device)
        .split([d, len(words) * (d + 2), 2 * (d + 1) * len(words)])
    )
    return Packing(
        features.new_tensor(_scales(d)),
        parts[0],
        parts[1].view(len(words), d + 2),
        parts[2].view(2, d + 1, len(words)),
        words[0][1],
        torch.int32 if len(words) == 1 and math.prod(digits) < 2**31 else torch.int64,
    )


def _scales(d: int) -> list[float]:
    """The factor 1 / (D+1), and those of the D features; see `reference_lattice._elevate`."""
    factors = [(d + 1) * math.sqrt(2 / 3) / math.sqrt(j * (j + 1)) for j in range(1, d + 1)]
    return [1.0 / (d + 1), *factors]


def _quotients(low: list[float], high: list[float], axis: int) -> tuple[int, int]:
    """Bounds of quotient `axis` of every vertex, by interval arithmetic on the elevation."""
    d = len(low)
    factors = _scales(d)
    first = sum(factors[k] * low[k - 1] for k in range(axis + 1, d + 1))
    last = sum(factors[k] * high[k - 1] for k in range(axis + 1, d + 1))
    if axis:
        first -= axis * factors[axis] * high[axis - 1]
        last -= axis * factors[axis] * low[axis - 1]
    return math.floor(first / (d + 1)) - _MARGIN, math.ceil(last / (d + 1)) + _MARGIN


def _strides(digits: list[int]) -> list[list[int]]:
    """Worth of each digit in each word: as many digits to a word as fit, the first at the top."""
    words: list[list[int]] = [[]]
    for position, radix in enumerate(digits):
        if math.prod(digits[p] for p in words[-1]) * radix > _CAPACITY:
            words.append([])
        words[-1].append(position)
    table = []
    for word in words:
        row, worth = [0] * len(digits), 1
        for position in reversed(word):
            row[position] = worth
            worth *= digits[position]
        table.append(row)
    return table
