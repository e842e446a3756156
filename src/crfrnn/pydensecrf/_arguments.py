"""Reading of arguments, in every form that the original accepts; errors for all others."""

from __future__ import annotations

import math
import warnings
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from crfrnn import _checks
from crfrnn._arrays import is_tensor, to_numpy
from crfrnn._door import admit

Floats = NDArray[np.float32]

_Member = TypeVar("_Member", bound=IntEnum)


def whole(name: str, value: Any, *, least: int = 0) -> int:
    """Read a count. A fraction is truncated as in the original, but with a warning."""
    # The original truncates a fraction silently, and a negative count may end its process.
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise TypeError(f"{name} must be a whole number; got {value!r}")
    if not least <= number < 2**53:
        raise ValueError(f"{name} must be at least {least}; got {value!r}")
    if number != int(number):
        warnings.warn(
            f"{name}={value!r} is not a whole number; {int(number)} is used, as in pydensecrf",
            UserWarning,
            stacklevel=3,
        )
    return int(number)


def member(name: str, value: Any, kind: type[_Member]) -> _Member:
    """Read a constant of the original, given as such or as a number."""
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(kind.__members__)
        raise ValueError(f"{name} must be one of {names}; got {value!r}") from None


def as_array(name: str, value: Any) -> NDArray[Any]:
    """Read an array of real numbers of any type and order, writable or not."""
    if is_tensor(value) and value.requires_grad:
        raise TypeError(f"{name} requires a gradient, which ends here; give {name}.detach()")
    array: NDArray[Any] = to_numpy(admit(name, value))
    return array


def as_floats(name: str, value: Any, axes: int, *, copy: bool = False) -> Floats:
    """Read an array of `axes` axes as C-ordered, writable float32, without a copy if possible."""
    array = as_array(name, value)
    if array.ndim != axes:
        raise ValueError(
            f"{name} must have {axes} {'axis' if axes == 1 else 'axes'}; got shape {array.shape}"
            + f". Put the pixels in one row: {name}.reshape({array.shape[0]}, -1)"
            * (axes == 2 and array.ndim > 2 and len(array) > 1)
        )
    with np.errstate(
        over="ignore"
    ):  # a value beyond float32 becomes infinite, and is refused later
        if copy:
            return np.array(array, dtype=np.float32, order="C")
        return np.require(array, np.float32, ["C", "W"])


def refuse_nan(name: str, array: NDArray[Any], *, allows_infinity: bool = False) -> None:
    """Refuse NaN, and infinity unless it is allowed; the error says where."""
    with np.errstate(over="ignore", invalid="ignore"):
        if array.dtype.kind != "f" or np.isfinite(array.sum()):
            return  # one NaN or infinity would have spoilt the sum
    bad = np.isnan(array) if allows_infinity else ~np.isfinite(array)
    if not bad.any():
        return
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    what = "NaN" if allows_infinity else "NaN or infinity"
    raise ValueError(
        f"{name} must be free of {what}; got {int(bad.sum())}, the first at index {first}. "
        f"Look for a logarithm of zero, an overflow in half precision, or an unreadable input."
    )


def numbers(value: Any) -> Any:
    """Convert a NumPy scalar or array to plain Python numbers; return anything else unchanged."""
    return value.tolist() if hasattr(value, "tolist") else value


def bandwidths(name: str, value: Any, length: int, what: str) -> tuple[float, ...]:
    """Read a bandwidth for each of `length` axes or channels; a single number serves all.

    Surplus ones are ignored as in the original, but with a warning.
    """
    given = _checks.positive(name, numbers(value))
    if len(given) == 1 and not hasattr(value, "__len__"):
        return given * length
    if len(given) < length:
        raise ValueError(
            f"{name} must be one number or {length}, one for each {what}; got {value!r}"
        )
    if len(given) > length:
        warnings.warn(
            f"{name} lists {len(given)} numbers, but there are {length}; the last are ignored, as "
            f"in pydensecrf. Give one number, or {length}, one for each {what}",
            UserWarning,
            stacklevel=3,
        )
    return given[:length]


def read_image(rgbim: Any, h: int, w: int) -> NDArray[Any]:
    """Read the image of a bilateral term as (h, w, channels), of any type."""
    array = as_array("rgbim", rgbim)
    if array.ndim not in (2, 3) or array.shape[:2] != (h, w) or array.size == 0:
        hint = ""
        if array.shape[:2] == (w, h):
            hint = " Height and width look swapped: DenseCRF2D takes (w, h, labels)."
        elif array.shape[1:] == (h, w):
            hint = " Put the channels last: rgbim.transpose(1, 2, 0)."
        raise ValueError(
            f"rgbim must be (H, W, channels) of a model with h={h} and w={w}; got "
            f"{array.shape}.{hint}"
        )
    refuse_nan("rgbim", array)
    return array.reshape(h, w, -1)
