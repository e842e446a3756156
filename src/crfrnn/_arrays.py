"""NumPy arrays and torch tensors: telling them apart, and one from the other.

Nothing here imports torch, unless a tensor shows that torch has been imported anyway.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

#: A NumPy array or a torch tensor.
Array = Any

#: In a public signature: the one of the two that goes in, and so comes out.
if TYPE_CHECKING:
    Container = TypeVar("Container", np.ndarray, Tensor)
else:  # torch may be missing
    Container = TypeVar("Container")


def is_tensor(value: object) -> bool:
    """Whether a value is a torch tensor."""
    torch = sys.modules.get("torch")  # who holds a tensor has imported it
    return torch is not None and isinstance(value, torch.Tensor)


def namespace(array: Array) -> ModuleType:
    """The module with the functions for an array: `numpy` or `torch`.

    The functions that both have under one name, with positional arguments, serve both: `where`,
    `log`, `clip`, `isfinite`, `concatenate`, `moveaxis`, `zeros_like` and more.
    """
    return sys.modules["torch"] if is_tensor(array) else np


def is_floating(array: Array) -> bool:
    """Whether an array holds floating-point numbers."""
    if is_tensor(array):
        return bool(array.dtype.is_floating_point)
    return bool(array.dtype.kind == "f")


def traced() -> bool:
    """Whether torch.compile or torch.export is tracing, where numbers may have no values."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


def on_cpu(array: Array) -> bool:
    """Whether an array lies in the memory of the processor."""
    return not is_tensor(array) or array.device.type == "cpu"


def to_numpy(array: Array) -> np.ndarray:
    """View a CPU tensor as a NumPy array; copy a tensor from a device, or of a type NumPy lacks."""
    if not is_tensor(array):
        return np.asarray(array)
    torch, array = sys.modules["torch"], array.detach()
    if array.dtype == torch.bfloat16:
        array = array.float()
    if on_cpu(array) and array.is_floating_point() and type(array) is torch.Tensor:
        view = np.from_dlpack(array)  # array.numpy() would fix the size of the caller's storage
        if view.flags.writeable:  # NumPy 1 gives views that cannot be written to
            return view
    plain: np.ndarray = array.numpy(force=True)
    return plain


def to_torch(array: Array) -> Array:
    """View an array as a tensor; copy only what torch cannot view."""
    if is_tensor(array):
        return array
    import torch

    if array.dtype.kind == "u" and array.dtype.itemsize in (2, 4):
        array = array.astype(np.int64)  # older torch has no unsigned types beyond 8 bits
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def cast(array: Array, dtype: Any) -> Array:
    """An array in another type, of NumPy or torch as the array is; no copy if it has that type."""
    if is_tensor(array):
        return array.to(dtype)
    with np.errstate(over="ignore"):  # infinity, which the checks of values find
        return array.astype(dtype, copy=False)


def to_float(array: Array) -> Array:
    """An array in float64 if it is that, and else in float32."""
    space = namespace(array)
    return cast(array, space.float64 if array.dtype == space.float64 else space.float32)


def place(array: Array) -> str:
    """Where an array is, for a message: the device of a tensor, or NumPy."""
    return str(array.device) if is_tensor(array) else "NumPy"
