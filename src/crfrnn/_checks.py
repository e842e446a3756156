"""The error messages: expected, got, and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def one_of(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse an option string that is not among the choices."""
    if value not in tuple(choices):
        raise ValueError(f"unknown {name} {value!r}; expected one of: {', '.join(choices)}")


def positive(name: str, values: object, what: str = "a standard deviation") -> tuple[float, ...]:
    """Return a bandwidth or a sequence of them as floats in 1e-30..1e30, or say what is wrong."""
    numbers = _numbers(name, values, "a number or a sequence of numbers")
    if not numbers or not all(math.isfinite(v) and v > 0 for v in numbers):
        raise ValueError(f"{name} is {what} and must be positive and finite; got {values!r}")
    if not all(1e-30 <= v <= 1e30 for v in numbers):  # float32 would lose it
        raise ValueError(f"{name} must lie between 1e-30 and 1e30; got {values!r}")
    return numbers


def finite_numbers(name: str, values: object) -> None:
    """Refuse kernel weights that are not finite numbers."""
    numbers = _numbers(name, values, "a number or one number a class")
    if not all(math.isfinite(v) for v in numbers):
        raise ValueError(f"{name} must be finite; got {values!r}")


def count(name: str, value: object, least: int = 0) -> int:
    """Return a number of iterations or classes as an int >= `least`, which is 0 or 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer; got {value!r}")
    number = value.__index__()
    if number < least:
        expected = "be at least 1" if least else "not be negative"
        raise ValueError(f"{name} must {expected}; got {number}")
    return int(number)


def floating(name: str, tensor: Tensor) -> None:
    """Refuse integer tensors where scores or features are expected."""
    if not tensor.dtype.is_floating_point:
        raise TypeError(
            f"{name} must be floating point; got {tensor.dtype}. "
            f"Convert with {name}.float(), or undo a quantisation with (x - zero) * scale."
        )


def finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity in a CPU tensor, saying where; a device tensor is not looked at."""
    if not is_finite(tensor):
        bad = ~torch.isfinite(tensor)
        first = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{name} must be finite; got {int(bad.sum())} NaN or infinite value(s), "
            f"the first at index {first}. Look for overflow in the network (half precision?) or an "
            f"unreadable input."
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; True of what cannot be looked at for free."""
    if not readable(tensor):
        return True
    try:
        with np.errstate(all="ignore"):
            total = float(plain(tensor).sum())  # one cheap pass; only overflow needs the other
    except RuntimeError:  # under vmap a tensor has no value
        return True
    return math.isfinite(total) or bool(torch.isfinite(tensor).all())


def plain(tensor: Tensor) -> Tensor | np.ndarray:
    """A CPU tensor as NumPy sees it, where it can.

    A reduction by torch wakes its idle threads, which then spin for milliseconds on the processors
    that the C++ core is about to use.
    """
    tensor = tensor.detach()
    numeric = tensor.dtype in (torch.float32, torch.float64)
    return tensor.numpy() if numeric and type(tensor) is Tensor else tensor


def readable(tensor: Tensor) -> bool:
    """Whether values can be looked at without waiting for a device, or breaking a trace."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def number(tensor: Tensor) -> float | None:
    """The value of a tensor of one element; None where it is on a device, traced or mapped."""
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
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {expected}; got {values!r}") from None


def shape_text(tensor: Tensor) -> str:
    """A shape as people write it."""
    return str(tuple(tensor.shape))
