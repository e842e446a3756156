"""What comes in through a public argument: an array of real numbers, or one clear error.

Every function that takes arrays from a user calls `admit` first, so that no engine, and no library
below, meets a kind of array that it was not written for.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from ._arrays import Array, is_tensor, traced

#: The types of numbers that the library computes with, or converts without loss of range.
_TYPES = {
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *("float16", "bfloat16", "float32", "float64"),
}


def admit(name: str, value: Any) -> Array:
    """Return a strided torch tensor as it is, and anything else as a plain NumPy array.

    A subclass of `Tensor` with further attributes, such as MONAI's `MetaTensor`, becomes the tensor
    that it holds; gradients still reach it. A tensor that torch traces is returned unread.

    Args:
        name: of the argument, for the error.
        value: what the user gave: an array, a tensor, nested lists, anything that NumPy reads.

    Raises:
        TypeError: the value does not hold real numbers, or torch or NumPy stores them in a form
            that has to be undone first.
        ValueError: nested sequences whose lengths differ.
    """
    return _tensor(name, value) if is_tensor(value) else _array(name, value)


def admit_tensor(name: str, value: Any, hint: str = "") -> Array:
    """`admit` for what takes torch tensors only; `hint` completes the error for anything else."""
    if not is_tensor(value):
        raise TypeError(f"{name} must be a torch tensor{hint}; got {type(value).__name__}")
    return _tensor(name, value)


def _tensor(name: str, tensor: Array) -> Array:
    torch = sys.modules["torch"]
    if traced():
        return tensor
    if tensor.is_nested or str(tensor.layout) != "torch.strided":
        form = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        remedy = "to_padded_tensor(0)" if tensor.is_nested else "to_dense()"
        raise TypeError(f"{name} must be a dense tensor; got a {form} one. Give {name}.{remedy}.")
    if tensor.is_quantized:
        raise TypeError(
            f"{name} must hold real numbers; got the quantized {tensor.dtype}. "
            f"Give {name}.dequantize()."
        )
    if str(tensor.dtype).removeprefix("torch.") not in _TYPES:
        remedy = f"{name}.float()"
        if tensor.is_complex():
            remedy = f"{name}.abs() or {name}.real"
        raise TypeError(
            f"{name} must hold real numbers in 8-bit to 64-bit integers or float16 to float64; got "
            f"{tensor.dtype}. Give {remedy}."
        )
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        tensor = _held(name, tensor)
    if tensor.device.type == "meta":
        raise TypeError(f"{name} must have values; got a tensor on the device meta. Move it first.")
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def _held(name: str, tensor: Array) -> Array:
    """The plain tensor that a subclass adds something to."""
    torch = sys.modules["torch"]
    kind = type(tensor)
    if kind.__module__.startswith("torch._subclasses"):  # traced, with no values
        return tensor
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        # The values lie elsewhere: on other processes, behind a mask, in another format.
        remedy = "full_tensor()" if hasattr(tensor, "full_tensor") else "to_tensor(0)"
        raise TypeError(
            f"{name} must be a plain tensor; got {kind.__module__}.{kind.__qualname__}. Convert it "
            f"first, for example with {name}.{remedy}."
        )
    return tensor.as_subclass(torch.Tensor)


def _array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must be a plain array; got a masked one, whose mask would be lost. Give "
            f"{name}.filled(...), and what takes part as mask= where there is one."
        )
    if isinstance(value, (str, os.PathLike)):
        raise TypeError(
            f"{_expected(name, type(value).__name__)}. Read the file first: "
            "np.asarray(PIL.Image.open(path)) for an image, np.load(path) for scores"
        )
    if value is None or isinstance(value, (bytes, dict, set, frozenset)):
        raise TypeError(_expected(name, type(value).__name__))
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array, with rows of equal length; {error}") from None
    except (TypeError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{_expected(name, type(value).__name__)} ({error})") from None
    if array.dtype.kind not in "biuf":
        got = array.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(_expected(name, got))
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # infinity, which the checks of values find
            array = array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _expected(name: str, got: object) -> str:
    return f"{name} must be a NumPy array or a torch tensor of real numbers; got {got}"
