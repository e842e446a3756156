"""Launches, block sizes, and functions that several Triton kernels share."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def item_of(vertex, starts, batch):
    """The batch item of each vertex (int64): the number of later items that start before it."""
    item = tl.zeros_like(vertex)
    for b in range(1, batch):
        item += (vertex >= tl.load(starts + b)).to(tl.int64)
    return item


@triton.jit
def program_points(points, ROWS: tl.constexpr):
    """The batch item and the points of a program, whether they exist, and their batch positions."""
    # Program ids are widened before they are multiplied: products exceed 32 bits.
    item = tl.program_id(1).to(tl.int64)
    point = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return item, point, point < points, item * points + point


#: Whether Triton kernels run in Triton's interpreter, on CPU tensors.
INTERPRETED = not isinstance(item_of, triton.JITFunction)

#: Compiled Triton kernels with the values of their constants, for each kind of launch.
_compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Tensor | int, **options: Any) -> None:
    """Launch a Triton kernel with tensors, then integers, then constants, at little host time."""
    # A call makes about a hundred launches. Triton's own lookup of a compiled Triton kernel takes
    # the host longer than many of these take the device. So they are kept here. A kept one is valid
    # for the same types and constants: no Triton kernel here specializes on the value of an
    # integer. It also assumes aligned tensors and 32-bit integers; Triton itself handles all other
    # launches.
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    numbers = arguments[len(tensors) :]
    # Triton accepts addresses, and for a tensor it would query the driver.
    addresses = [tensor.data_ptr() for tensor in tensors]
    plain = all(n < 2**31 for n in numbers) and not any(a % 16 for a in addresses)
    if INTERPRETED or not plain:
        kernel[grid](*arguments, **options)
        return
    types = [tensor.dtype for tensor in tensors]
    key = (kernel.fn, tensors[0].get_device(), *types, *options.values())
    kept = _compiled.get(key)
    if kept is None:
        compiled = kernel[grid](*arguments, **options)
        names = kernel.arg_names[len(arguments) :]
        _compiled[key] = compiled, tuple(options[name] for name in names)
        return
    compiled, constants = kept
    compiled[(*grid, 1, 1)[:3]](*addresses, *numbers, *constants)


#: Elements of a program's accumulator: 8 per thread with 4 warps of 32. The time of the interpreter
#: depends on the number of programs, not of elements.
TILE = 4096 if INTERPRETED else 1024


def padded_width(channels: int) -> int:
    """Width of a row with `channels` values, padded to sectors of 32 bytes in float32."""
    # A gather loads whole sectors; rows that start inside one would load another for nothing.
    return -(-channels // 8) * 8 if channels > 4 else _power_of_two(channels)


def channel_block(width: int) -> int:
    """Channels per program, at most 64, for Triton kernels that treat channels independently."""
    return min(64, _power_of_two(width))


def row_block(channels: int, warps: int = 4) -> int:
    """Rows per program, a power of two, for `channels` values per row and this many warps."""
    return max(1, min(64, TILE // 4 // channels) * warps)


def whole_rows(width: int, least: int = 1) -> tuple[int, int, int]:
    """Rows, channels and warps of a program that needs whole rows, for example for a softmax."""
    channels = max(least, _power_of_two(width))
    warps = 1 if channels <= 64 and least == 1 else 4 if channels <= 256 else 8
    return max(least, row_block(channels, warps)), channels, warps


def pieces(length: int, block: int) -> int:
    """Number of blocks that cover a length."""
    return -(-length // block)


def item_rows(values: Tensor) -> int:
    """Rows from one batch item of values (B N C) to the next; only the batch may be strided."""
    # Triton kernels take this number instead of the stride. They multiply it by the width of a row,
    # a compile-time constant, so the compiler knows the alignment of rows and loads 16 bytes at
    # once.
    return values.stride(0) // values.shape[2]


def pad_channels(values: Tensor, width: int) -> Tensor:
    """A contiguous copy of values (B N C) with zeros up to `width` channels."""
    padded = values.new_zeros((*values.shape[:2], width))
    padded[..., : values.shape[2]] = values
    return padded


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()
