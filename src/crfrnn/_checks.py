"""Checks whose errors say what was expected, what was given, and what to do."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from ._arrays import Array, is_floating, is_tensor, namespace, to_numpy, traced


def one_of(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise if an option string is not among the choices."""
    if value not in tuple(choices):
        raise ValueError(f"unknown {name} {value!r}; expected one of: {', '.join(choices)}")


def positive(name: str, values: Any, what: str = "a standard deviation") -> tuple[float, ...]:
    """Return a bandwidth, or a sequence of them, as floats; raise unless they are positive."""
    if traced():  # checked before: bandwidths are fields of the kernels
        return values if isinstance(values, tuple) else (values,)
    numbers = _numbers(name, values, "a number or a sequence of numbers")
    if not numbers or not all(math.isfinite(v) and v > 0 for v in numbers):
        raise ValueError(f"{name} is {what} and must be positive and finite; got {_short(values)}")
    if not all(1e-30 <= v <= 1e30 for v in numbers):  # float32 must hold it and its inverse
        raise ValueError(f"{name} must lie between 1e-30 and 1e30; got {values!r}")
    return numbers


def finite_numbers(name: str, values: object) -> None:
    """Raise if kernel weights are not finite numbers."""
    numbers = _numbers(name, values, "a number or one number per class")
    if not all(math.isfinite(v) for v in numbers):
        raise ValueError(f"{name} must be finite; got {_short(values)}")


def count(name: str, value: object, least: int = 0) -> int:
    """Return a number of iterations or classes as an int; raise if it is below `least`, 0 or 1.

    The engines count in 32 bits.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer; got {value!r}")
    number = value.__index__()
    if number < least:
        expected = "be at least 1" if least else "not be negative"
        raise ValueError(f"{name} must {expected}; got {number}")
    if number >= 2**31:
        raise ValueError(f"{name} must be below 2147483648; got {_short(number)}")
    return int(number)


def fits_memory(name: str, value: int, *shape: int) -> None:
    """Raise if a table of this shape, which follows from a user's number, exceeds the memory."""
    size = 4 * math.prod(shape)
    if size > (most := _memory()):
        raise ValueError(
            f"{name} = {value} asks for {size / 2**30:.3g} GiB; this machine has "
            f"{most / 2**30:.3g} GiB of memory. Is {name} right?"
        )


def floating(name: str, array: Array) -> None:
    """Raise if scores or features are integers."""
    if not is_floating(array):
        convert = f"{name}.float()" if is_tensor(array) else f"{name}.astype(np.float32)"
        raise TypeError(
            f"{name} must be floating point; got {array.dtype}. "
            f"Convert with {convert}, or undo a quantization with (x - zero) * scale."
        )


def finite(name: str, array: Array) -> None:
    """Raise if an array holds NaN or infinity; a tensor on a device is not read, as it would wait.

    Nor is a tensor that is traced or mapped.
    """
    if is_finite(array):
        return
    bad = ~namespace(array).isfinite(array)
    first = tuple(int(axis[0]) for axis in np.nonzero(np.asarray(bad)))
    raise ValueError(
        f"{name} must be finite; got {int(bad.sum())} NaN or infinite value(s), "
        f"the first at index {first}. Look for overflow in the network (half precision?) or an "
        f"unreadable input."
    )


def finite_result(owner: str, result: Array, **parts: Array | None) -> None:
    """Raise if a result overflowed; `parts` are what it was computed from, by the user's names.

    NaN in what went in may come out. A result on a device is not read.
    """
    if is_finite(result):
        return
    given = {name: part for name, part in parts.items() if part is not None and 0 not in part.shape}
    if not all(is_finite(part) for part in given.values()):
        return
    reach = {name: float(abs(to_numpy(part).astype(float)).max()) for name, part in given.items()}
    ranked = sorted(reach, key=lambda name: -reach[name])
    texts = [f"{name} up to {reach[name]:.3g}" for name in ranked]
    raise ValueError(
        f"{owner}: the result is not finite in {str(result.dtype).removeprefix('torch.')}, from "
        f"{', '.join(texts)} in magnitude. Scale {ranked[0]} down, or compute in a wider type."
    )


def is_finite(array: Array) -> bool:
    """Whether no value is NaN or infinite; True if reading the values would not be free."""
    if is_tensor(array) and not readable(array):
        return True
    try:
        with np.errstate(all="ignore"):
            total = float(plain(array).sum())  # one cheap pass; only overflow needs the other
    except RuntimeError:  # under vmap a tensor has no value
        return True
    return math.isfinite(total) or bool(namespace(array).isfinite(array).all())


#: A reduction over fewer numbers runs on one thread in torch (`at::internal::GRAIN_SIZE`).
_ONE_THREAD = 1 << 15


def plain(array: Array) -> Array:
    """View a large CPU tensor as a NumPy array, if its type allows that.

    A reduction by torch wakes its idle threads. They then spin for milliseconds on the processors
    that the C++ core is about to use.
    """
    if not is_tensor(array):
        return array
    torch = namespace(array)
    array = array.detach()
    numeric = array.dtype in (torch.float32, torch.float64)
    if not numeric or type(array) is not torch.Tensor or array.numel() < _ONE_THREAD:
        return array
    return np.from_dlpack(array)  # array.numpy() would fix the size of the caller's storage


def readable(tensor: Array) -> bool:
    """Whether a tensor can be read without waiting for a device or breaking a trace."""
    return tensor.device.type == "cpu" and not traced()


def number(tensor: Array) -> float | None:
    """Return the value of a tensor of one element; None if it is on a device, traced or mapped."""
    if not readable(tensor):
        return None
    try:
        return float(tensor.detach())
    except RuntimeError:  # under vmap a tensor has no value
        return None


def _numbers(name: str, values: object, expected: str) -> tuple[float, ...]:
    sequence = values if isinstance(values, (tuple, list)) else (values,)
    try:
        if any(isinstance(v, str) for v in sequence):
            raise TypeError
        return tuple(float(v) for v in sequence)
    except OverflowError:  # an integer beyond the floats
        return (math.inf,)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be {expected}; got {_short(values)}") from None


def shape_text(array: Array) -> str:
    """Write a shape as a tuple."""
    return str(tuple(array.shape))


def _short(value: object) -> str:
    """A user's value on one line of a message."""
    if isinstance(value, int) and abs(value) >= 10**18:  # its digits may fill a page
        return f"an integer of {value.bit_length()} bits"
    text = f"{value:.3g}" if isinstance(value, float) else " ".join(repr(value).split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def _memory() -> float:
    """The memory of this machine in bytes; infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf
