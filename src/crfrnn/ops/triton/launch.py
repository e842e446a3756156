"""Sizes of blocks, and what several kernels share."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def item_of(vertex, starts, batch):
    """Batch items that vertices (int64) belong to: how many later items have begun."""
    item = tl.zeros_like(vertex)
    for b in range(1, batch):
        item += (vertex >= tl.load(starts + b)).to(tl.int64)
    return item


@triton.jit
def own_points(points, ROWS: tl.constexpr):
    """A program's batch item, points of it, whether those exist, and their places in the batch."""
    item = tl.program_id(1).to(tl.int64)
    point = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return item, point, point < points, item * points + point


#: Whether kernels run in Triton's interpreter, on CPU tensors, instead of being compiled.
INTERPRETED = not isinstance(item_of, triton.JITFunction)

#: What Triton compiled, with the values of its constants, for each kind of launch; see `launch`.
_compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Tensor | int, **options: Any) -> None:
    """Launch a kernel with tensors, then integers, then constants; the host pays little for it.

    A call makes a hundred launches, and Triton's own search for what it compiled takes the host
    longer than many a kernel takes the device. No kernel here specializes on the value of an
    integer, so that what was compiled for the same types and constants fits, as long as tensors are
    aligned and integers have 32 bits; Triton looks after the rest.
    """
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    numbers = arguments[len(tensors) :]
    # Addresses, because about a tensor Triton would ask the driver.
    addresses = [tensor.data_ptr() for tensor in tensors]
    plain = all(n < 2**31 for n in numbers) and not any(a % 16 for a in addresses)
    if INTERPRETED or not plain:
        kernel[grid](*arguments, **options)
        return
    types = [tensor.dtype for tensor in tensors]
    key = (kernel.fn, tensors[0].get_device(), *types, *options.values())
    found = _compiled.get(key)
    if found is None:
        made = kernel[grid](*arguments, **options)
        _compiled[key] = made, tuple(options[name] for name in kernel.arg_names[len(arguments) :])
        return
    made, constants = found
    made[(*grid, 1, 1)[:3]](*addresses, *numbers, *constants)


#: Elements of a program's accumulator: 8 a thread with 4 warps of 32. The interpreter pays for each
#: program, not for each element.
TILE = 4096 if INTERPRETED else 1024


def padded_width(channels: int) -> int:
    """Values of a row of `channels`: whole sectors of 32 bytes, so that gathers waste none."""
    return -(-channels // 8) * 8 if channels > 4 else _power_of_two(channels)


def channel_block(width: int) -> int:
    """Channels that one program handles where channels do not meet: at most 64."""
    return min(64, _power_of_two(width))


def row_block(channels: int, warps: int = 4) -> int:
    """Rows that one program of so many warps handles beside `channels` of each, a power of two."""
    return max(1, min(64, TILE // 4 // channels) * warps)


def whole_rows(width: int, least: int = 1) -> tuple[int, int, int]:
    """Rows, channels and warps of a program that sees all channels of a row, as a softmax does."""
    channels = max(least, _power_of_two(width))
    warps = 1 if channels <= 64 and least == 1 else 4 if channels <= 256 else 8
    return max(least, row_block(channels, warps)), channels, warps


def pieces(length: int, block: int) -> int:
    """Blocks that cover a length."""
    return -(-length // block)


def item_rows(values: Tensor) -> int:
    """Rows from one batch item of values (B N C) to the next, where only the batch is strided.

    Kernels take this and not the stride itself: times the row's width, which they know when they
    are compiled, it says how the rows are aligned, and loads become 16 bytes wide.
    """
    return values.stride(0) // values.shape[2]


def pad_channels(values: Tensor, width: int) -> Tensor:
    """A contiguous copy of values (B N C) with zeros up to `width` channels."""
    padded = values.new_zeros((*values.shape[:2], width))
    padded[..., : values.shape[2]] = values
    return padded


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()
