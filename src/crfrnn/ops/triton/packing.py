"""Packs the key of a lattice vertex into 32- or 64-bit words."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from crfrnn.ops.arrays import refuse_far

#: Largest distance, in quotients, of a key from the bounds of the elevated points: 2 inside the
#: simplex, 1 for a neighbor and 1 for rounding.
_MARGIN = 4

#: Bound of the values of a word; the sum of a key and a step then fits int64.
_CAPACITY = 2**62


class Packing(NamedTuple):
    """Vertex keys as mixed-radix numbers in one or more integer words, sorted word by word.

    The D+1 coordinates of a vertex are equal modulo D+1 and sum to zero. The common remainder and D
    quotients determine them. The digits, from the top: batch item, remainder, quotients 0..D-1.
    Every digit has room for a step to a neighbor, so a step is one addition per word.
    """

    scale: Tensor  # D+1, in the type of the features: 1 / (D+1), then the factor of each feature
    low: Tensor  # D: the smallest quotient of each axis
    stride: Tensor  # W D+2: place value, in each word, of the quotients, the remainder and the item
    step: Tensor  # 2 D+1 W: a step forth along each axis, from remainders below D and from D
    radix: int  # place value of the remainder in word 0
    type: torch.dtype  # of a word: int32 if it holds a key, which halves the work of the sort

    @property
    def words(self) -> int:
        """Number of words per key."""
        return self.stride.shape[0]


def pack(features: Tensor) -> Packing:
    """Lay out the keys for features (B N D); waits for the device to read their ranges."""
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
    # A step forth along an axis adds (1, ..., 1) - (D+1) e_axis. From a remainder below D, the
    # remainder grows by 1 and the quotient of the axis falls by 1. From remainder D, it returns to
    # 0 (-D) and every quotient grows by 1, but that of the axis by 0. Axis D has no digit, hence
    # the appended 0.
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
    """1 / (D+1), then the factors of the D features in `reference_lattice._elevate`."""
    factors = [(d + 1) * math.sqrt(2 / 3) / math.sqrt(j * (j + 1)) for j in range(1, d + 1)]
    return [1.0 / (d + 1), *factors]


def _quotients(low: list[float], high: list[float], axis: int) -> tuple[int, int]:
    """Bounds of quotient `axis` of every vertex, by interval arithmetic on the elevation."""
    # y_axis = Σ_{k > axis} s_k - axis · s_axis, with each s_k between its minimum and maximum.
    d = len(low)
    factors = _scales(d)
    first = sum(factors[k] * low[k - 1] for k in range(axis + 1, d + 1))
    last = sum(factors[k] * high[k - 1] for k in range(axis + 1, d + 1))
    if axis:
        first -= axis * factors[axis] * high[axis - 1]
        last -= axis * factors[axis] * low[axis - 1]
    return math.floor(first / (d + 1)) - _MARGIN, math.ceil(last / (d + 1)) + _MARGIN


def _strides(digits: list[int]) -> list[list[int]]:
    """Place value of each digit in each word; words are filled in order, first digit at the top."""
    words: list[list[int]] = [[]]
    for position, radix in enumerate(digits):
        if math.prod(digits[p] for p in words[-1]) * radix > _CAPACITY:
            words.append([])
        words[-1].append(position)
    table = []
    for word in words:
        row, value = [0] * len(digits), 1
        for position in reversed(word):
            row[position] = value
            value *= digits[position]
        table.append(row)
    return table
