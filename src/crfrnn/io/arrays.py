"""Reading files of arrays that may be hostile: no code in them runs, and headers are checked."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .array_files import STORE_SUFFIXES, read_store, split_member
from .files import absence, describe
from .pickled import PickleError, read_pickled

#: An archive that unpacks to more than this, and to this many times its size, is a bomb.
_LARGE_BYTES, _BOMB_RATIO = 1 << 30, 200

_PICKLED = (
    "holds pickled Python objects, which are not read, because loading them can run code from the "
    "file. Save plain arrays: np.savez('scores.npz', logits=array) (or probs=, labels=, masks=). "
    "If it is a dictionary from a program that you trust, load it with "
    "np.load(FILE, allow_pickle=True).item(), and save the array that you need with np.savez"
)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz` by name, or the array of a `.npy` by the name "array".

    Also those of HDF5, zarr and safetensors files, see `opened_arrays`, and of a pickled dictionary
    in a `.npy`, see `read_pickled`. `FILE:NAME` chooses an array of a file that has several.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, holds other pickled objects, claims more data than it has,
            or unpacks to far more than its size.
    """
    path, member = (path, None) if path.is_file() else split_member(path)
    if path.suffix.lower() in STORE_SUFFIXES:
        return read_store(path if member is None else Path(f"{path}:{member}"))
    if member is not None:
        arrays = read_arrays(path)
        if member not in arrays:
            raise ValueError(
                f"{path}: expected an array {member!r}; it has {', '.join(arrays) or 'none'}"
            )
        return {member: arrays[member]}
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a NumPy file, but it is {absence(path)}; check the path"
        )
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(0)
            if head.startswith(b"PK"):
                return _read_archive(file, path)
            if head.startswith(b"\x80"):
                return read_pickled(path)
            try:
                _check_header(file, path.stat().st_size)
            except _Pickled:
                return read_pickled(path)
            file.seek(0)
            return {"array": np.load(file, allow_pickle=False)}
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except (ImportError, PickleError):
        raise
    except Exception as error:  # a broken file makes NumPy and zipfile raise almost anything
        raise ValueError(f"{path}: not a readable NumPy file ({describe(error)})") from error


def names_of(path: Path) -> list[str]:
    """Return the names of the arrays in an `.npz`, without reading them; none if it is broken."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, ValueError, zipfile.BadZipFile):
        return []


class _Refused(Exception):
    """A file that could be read, but is not."""


class _Pickled(_Refused):
    """An array of pickled objects."""


def _read_archive(file: Any, path: Path) -> dict[str, np.ndarray]:
    size = path.stat().st_size
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > _LARGE_BYTES and total > _BOMB_RATIO * size:
            raise _Refused(
                f"{size / 1e6:.3g} MB that unpack to {total / 1e9:.3g} GB, like a decompression "
                "bomb; it is not read. If it is yours, save it with np.savez, uncompressed"
            )
        arrays = {}
        for member in members:
            with archive.open(member) as part:
                _check_header(part, member.file_size)
            with archive.open(member) as part:
                arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(
                    part, allow_pickle=False
                )
    return arrays


def _check_header(file: Any, size: int) -> None:
    """Raise if a `.npy` of `size` bytes holds objects, or less data than its header claims.

    NumPy would first allocate what the header claims.
    """
    version = np.lib.format.read_magic(file)
    length = (
        struct.unpack("<H", file.read(2))
        if version == (1, 0)
        else struct.unpack("<I", file.read(4))
    )
    start = 8 + (2 if version == (1, 0) else 4) + length[0]
    if start > size:
        raise _Refused(f"its header claims {length[0]} bytes, more than the file has")
    shape, dtype = _header(file.read(length[0]))
    if dtype.hasobject:
        raise _Pickled(_PICKLED)
    claimed = dtype.itemsize
    for count in shape:
        claimed *= count  # Python's integers do not overflow
    if claimed > size - start:
        raise _Refused(
            f"not a readable NumPy file (the header claims {claimed} bytes of data, shape {shape} "
            f"of {dtype}, but the file has {size - start}: it is truncated, or its header is wrong)"
        )


def _header(text: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    import ast

    head = ast.literal_eval(text.decode("latin1").strip())
    shape = tuple(int(count) for count in head["shape"])
    if min(shape, default=0) < 0:
        raise ValueError(f"a negative shape, {shape}")
    return shape, np.lib.format.descr_to_dtype(head["descr"])
