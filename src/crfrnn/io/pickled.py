"""Pickled dictionaries of arrays, as weakly supervised programs save them; no code in them runs."""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from crfrnn._extras import require_torch

from .files import describe

#: The arrays that class activation maps become; see `class_maps`.
CAM, KEYS = "cam", "keys"

#: A key decides the number of maps; more memory than this is a mistake.
_MOST_BYTES = 1 << 32


class PickleError(ValueError):
    """A pickle that is damaged, or asks for what is not admitted; the message names the file."""


def read_pickled(path: Path) -> dict[str, np.ndarray]:
    """Read the dictionary of arrays that `np.save(path, dictionary)` pickled, or a pickle of one.

    A pickle is a program, which may run any other. This reader lets it build arrays, tensors,
    numbers, strings, dictionaries, lists and tuples, and refuses the file if it asks for more.

    Returns:
        Arrays by name. Maps by class, `{class: (h, w)}`, or `{"keys": ..., "cam": ...}` with
        `high_res` preferred to `cam`, become `cam` (K, h, w) and `keys` (K,).

    Raises:
        PickleError: it asks for anything else, is damaged, or holds no dictionary of arrays.
    """
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                file.seek(0)
                _skip_header(file)
            else:
                file.seek(0)
            value = _Reader(file).load()
    except _Refused as error:
        raise PickleError(
            f"{path}: its pickled Python objects ask for {error}, which is refused because it can "
            "run code. Save plain arrays: np.savez('scores.npz', logits=array)"
        ) from None
    except ImportError:
        raise
    except Exception as error:  # a damaged pickle makes the reader raise almost anything
        raise PickleError(f"{path}: not a readable pickle ({describe(error)})") from error
    try:
        return _arrays(value)
    except (ValueError, TypeError) as error:
        raise PickleError(f"{path}: {error}") from error


def class_maps(maps: np.ndarray, keys: np.ndarray, background: float) -> np.ndarray:
    """Return probabilities (C, h, w) from class activation maps on 0..1.

    The score of the background is (1 - the largest map) ** background, as in AffinityNet (Ahn &
    Kwak, 2018), and the class of key k has the label k + 1. All scores are divided by their sum.
    Classes without a map have probability 0.

    Args:
        maps: (K, h, w) on 0..1.
        keys: (K,) classes from 0 on, without the background.
        background: the exponent. With 0, the background has its own map, under key 0, and key k
            is label k.
    """
    if maps.ndim != 3 or maps.shape[0] != keys.size or keys.size == 0:
        raise ValueError(
            f"class activation maps must be (K, h, w) with K keys; got {maps.shape} and "
            f"{keys.size} keys"
        )
    if maps.dtype.kind not in "uif" or not np.isfinite(maps).all():
        raise ValueError("class activation maps must be finite numbers")
    low, high = float(maps.min()), float(maps.max())
    if low < -1e-3 or high > 1.02:
        raise ValueError(
            f"class activation maps must lie in 0..1; got {low:.4g} to {high:.4g}. Divide each map "
            "by its maximum"
        )
    labels = keys.reshape(-1).astype(np.int64) + (background > 0)
    if labels.min() < 0 or labels.max() > 65534 or len(set(labels.tolist())) != labels.size:
        raise ValueError(f"keys must be different classes from 0 on; got {keys.tolist()}")
    if (int(labels.max()) + 1) * maps[0].size * 4 > _MOST_BYTES:
        raise ValueError(
            f"the largest key, {int(keys.max())}, would need as many maps; number the classes from "
            "0 on"
        )
    clipped = maps.astype(np.float32).clip(0, 1)
    probs = np.zeros((max(int(labels.max()) + 1, 2), *maps.shape[1:]), np.float32)
    probs[labels] = clipped
    if background > 0:
        probs[0] = (1 - clipped.max(axis=0)) ** background
    total = probs.sum(axis=0)
    probs[0] += total == 0  # no class has any score
    probs /= probs.sum(axis=0)
    return probs


class _Refused(Exception):
    """The name of what a pickle asked for in vain."""


class _Type:
    """The type of a pickled array or scalar.

    A pickle may give NumPy's own `dtype` any fields and flags, so that NumPy takes bytes for
    addresses of objects. Here it may choose among plain types, and the order of their bytes.
    """

    def __init__(self, code: Any, *_flags: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufcSUO]\d{0,9}", code):
            raise _Refused(f"the type {code!r:.40}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order, *structure = state[1:5]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in structure):
            raise _Refused("an array of structures")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose state is a shape, a plain type and as many bytes."""

    def __setstate__(self, state: Any) -> None:
        *version, shape, kind, in_columns, data = state
        super().__setstate__((*version, shape, _plain(kind), in_columns, data))


def _plain(kind: Any) -> np.dtype[Any]:
    if not isinstance(kind, _Type):
        raise _Refused(f"the type {kind!r:.40}")
    return kind.dtype


def _ndarray(*_arguments: Any) -> None:
    """Stand for the class, which pickles name in `_reconstruct` and need not call."""
    raise _Refused("numpy.ndarray as a function")


def _reconstruct(kind: Any, _shape: Any, _code: Any) -> np.ndarray:
    """Make the empty array that a pickled array begins with; its state brings the rest."""
    if kind is not _ndarray:
        raise _Refused(f"an array of type {kind!r:.60}")
    empty: np.ndarray = np.empty(0, np.int8).view(_Array)
    return empty


def _scalar(kind: Any, data: Any = None) -> Any:
    dtype = _plain(kind)
    if dtype.hasobject or not isinstance(data, bytes):
        raise _Refused("a scalar that is no number")
    return np.frombuffer(data, dtype, count=1)[0]


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    array: np.ndarray = np.frombuffer(data, _plain(kind)).reshape(shape, order=order)
    return array


def _storage(data: bytes) -> Any:
    """Read the numbers of a tensor with torch's reader of weights, which runs no code either."""
    require_torch("a pickle with tensors")
    import torch

    storage: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return storage


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_more: Any) -> np.ndarray:
    import torch

    if not isinstance(storage, torch.storage.TypedStorage):
        raise _Refused("a tensor without its numbers")
    reach = sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    empty, held = torch.empty(0, dtype=storage.dtype), storage._untyped_storage
    if min(size, default=1) > 0 and offset + reach >= held.nbytes() // empty.element_size():
        raise _Refused("more numbers than a tensor has")  # torch would add what memory holds
    tensor: Any = empty.set_(held, offset, tuple(size), tuple(stride))
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array: np.ndarray = tensor.numpy().copy()
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Do what pickles of Python 2 need to hold bytes."""
    if encoding != "latin1":
        raise _Refused(f"the encoding {encoding!r:.40}")
    return text.encode("latin1")


#: All that a pickle may call, by the names under which it is asked for.
_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _ADMITTED[f"{_core}.multiarray", "scalar"] = _scalar
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _from_buffer


class _Reader(pickle.Unpickler):
    """An unpickler that knows nothing but `_ADMITTED`."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what the pickle may call under this name."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        """Refuse objects that are not in the file."""
        raise _Refused("an object outside of the file")


def _skip_header(file: IO[bytes]) -> None:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"version {version} of the format")
    read[version](file)


def _arrays(value: Any) -> dict[str, np.ndarray]:
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0:
        value = value.item()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {"array": np.asarray(value)}
    if not isinstance(value, dict) or not value:
        got = "an array of objects" if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(
            f"expected a pickled dictionary of arrays; got {got}. Save a single array of numbers"
        )
    if KEYS in value and (CAM in value or "high_res" in value):
        maps = value.get("high_res", value.get(CAM))
        return {CAM: _array(maps), KEYS: _array(value[KEYS]).reshape(-1)}
    classes = [_as_class(key) for key in value]
    if None not in classes:
        stacked = [_array(part) for part in value.values()]
        if any(part.ndim != 2 or part.shape != stacked[0].shape for part in stacked):
            raise ValueError(
                "maps by class must all have the same shape (h, w); got "
                f"{sorted({part.shape for part in stacked})[:3]}"
            )
        return {CAM: np.stack(stacked), KEYS: np.array(classes, np.int64)}
    return {str(name): _array(part) for name, part in value.items()}


def _as_class(key: Any) -> int | None:
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return int(key)
    return int(key) if isinstance(key, str) and key.isdecimal() else None


def _array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"expected arrays of numbers in the dictionary; got {array.dtype}")
    return array
