"""Arrays in HDF5, zarr and safetensors files, by name, whole or in parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn._extras import load

from .files import describe
from .memory import require_memory
from .trees import read_json

HDF5_SUFFIXES = frozenset({".h5", ".hdf5"})
ZARR_SUFFIX = ".zarr"
SAFETENSORS_SUFFIX = ".safetensors"
#: Files of arrays that need an optional package.
STORE_SUFFIXES = HDF5_SUFFIXES | {ZARR_SUFFIX, SAFETENSORS_SUFFIX}
#: Files in which an array may be named behind a colon.
MEMBER_SUFFIXES = STORE_SUFFIXES | {".npz"}


def split_member(path: Path) -> tuple[Path, str | None]:
    """Split "scores.h5:group/name" into the file and the name of the array; None without one.

    Example:
        >>> from pathlib import Path
        >>> from crfrnn.io.array_files import split_member
        >>> split_member(Path("a/b.h5:logits"))[1], split_member(Path("a:b.npy"))[1]
        ('logits', None)
    """
    text = str(path)
    for suffix in MEMBER_SUFFIXES:
        place = text.lower().rfind(f"{suffix}:")
        if place >= 0 and not path.exists():
            end = place + len(suffix)
            return Path(text[:end]), text[end + 1 :].strip("/") or None
    return path, None


def state_of(path: Path) -> tuple[int, int]:
    """Return the size and the time of the last change, in ns, of a file or of all in a folder.

    A folder of arrays, such as zarr's, does not change itself when one of its chunks does.
    """
    path = split_member(path)[0]
    parts = [path, *path.rglob("*")] if path.is_dir() else [path]
    states = [part.stat() for part in parts]
    return sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)


@contextmanager
def opened_arrays(path: Path) -> Iterator[dict[str, Any]]:
    """Open a file of arrays; yield them by name.

    They have `shape` and `dtype`, and give NumPy arrays for slices; nothing is read before that.
    A name behind a colon, `FILE:NAME`, chooses one array, or those of a group.

    Raises:
        ImportError: the package that reads this format is not installed.
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or has no array of that name.
    """
    file, member = split_member(path)
    suffix = file.suffix.lower()
    exists = file.exists() if suffix == ZARR_SUFFIX else file.is_file()
    if not exists:
        raise FileNotFoundError(f"{file}: expected a file of arrays, but it is missing")
    with ExitStack() as stack:
        try:
            if suffix in HDF5_SUFFIXES:
                module = load("h5py", "hdf5", file)
                store = stack.enter_context(module.File(file, "r"))
                arrays = _walk(store, module.Dataset, "id")
            elif suffix == ZARR_SUFFIX:
                module = load("zarr", "zarr", file)
                store = module.open(str(file), mode="r")
                arrays = (
                    {"array": store}
                    if isinstance(store, module.Array)
                    else _walk(store, module.Array, "path")
                )
            else:
                module = load("safetensors", "safetensors", file)
                store = stack.enter_context(module.safe_open(str(file), framework="np"))
                arrays = {name: _tensor(file, store, name) for name in store.keys()}  # noqa: SIM118
        except ImportError:
            raise
        except Exception as error:  # a damaged file makes the libraries raise almost anything
            raise ValueError(f"{file}: not readable ({describe(error)})") from error
        yield _choose(arrays, member, file)


def read_store(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a file that `opened_arrays` opens.

    Raises:
        ValueError: it is damaged, or asks for more memory than there is.
    """
    read = {}
    with opened_arrays(path) as arrays:
        for name, array in arrays.items():
            count = 1
            for length in array.shape:
                count *= int(length)
            require_memory(path, count * array.dtype.itemsize)
            try:
                read[name] = np.asarray(array[...])
            except Exception as error:  # as above
                raise ValueError(f"{path}: {name} is not readable ({describe(error)})") from error
    return read


def _tensor(file: Path, store: Any, name: str) -> Any:
    """A tensor of a safetensors file, with the names that arrays have."""
    part = store.get_slice(name)
    kind = part.get_dtype()
    if kind == "BF16":
        return _BrainFloats(file, name, tuple(part.get_shape()))
    if kind not in _TYPES:
        raise ValueError(f"its tensor {name!r} is {kind}; save it as F32, F16 or BF16")
    return _Tensor(part)


class _BrainFloats:
    """A tensor of bfloat16 as float32, which holds the same numbers: NumPy has no such type."""

    def __init__(self, file: Path, name: str, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype = shape, np.dtype("f4")
        with file.open("rb") as stream:  # the library has checked the header
            length = int.from_bytes(stream.read(8), "little")
            begin = read_json(stream.read(length))[name]["data_offsets"][0]
        self._bits = (
            np.memmap(file, "<u2", "r", 8 + length + begin, shape)
            if 0 not in shape
            else np.zeros(shape, "<u2")
        )

    def __getitem__(self, where: Any) -> np.ndarray:
        bits = np.asarray(self._bits[where])
        return np.asarray(bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


class _Tensor:
    """A tensor of a safetensors file, with the names that arrays have."""

    def __init__(self, part: Any) -> None:
        self._part = part
        self.shape = tuple(part.get_shape())
        self.dtype = np.dtype(_TYPES[part.get_dtype()])

    def __getitem__(self, where: Any) -> np.ndarray:
        array: np.ndarray = self._part[:] if where is Ellipsis else self._part[where]
        return array


_TYPES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def _walk(store: Any, kind: type, identity: str) -> dict[str, Any]:
    """Return the arrays of a group and its subgroups by their path.

    Links may lead in circles, so each group is entered once; the attribute `identity` tells them
    apart.
    """
    arrays: dict[str, Any] = {}
    waiting, entered = [("", store)], {getattr(store, identity)}
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            item = group[name]
            if isinstance(item, kind):
                arrays[f"{prefix}{name}"] = item
            elif hasattr(item, "keys") and getattr(item, identity) not in entered:
                entered.add(getattr(item, identity))
                waiting.append((f"{prefix}{name}/", item))
    return arrays


def _choose(arrays: dict[str, Any], member: str | None, file: Path) -> dict[str, Any]:
    """Return one array by its name, the arrays of a group by theirs, or all; none is an error."""
    if member is None:
        chosen = {name.rpartition("/")[2]: array for name, array in arrays.items()}
        chosen = chosen if len(chosen) == len(arrays) else arrays
    elif member in arrays:
        chosen = {member.rpartition("/")[2]: arrays[member]}
    else:
        start = f"{member}/"
        chosen = {
            name.removeprefix(start): array
            for name, array in arrays.items()
            if name.startswith(start)
        }
    if not chosen:
        names = ", ".join(sorted(arrays)[:5]) or "none"
        wanted = "an array" if member is None else f"an array {member!r}"
        raise ValueError(f"{file}: expected {wanted}; it has {names}")
    return chosen
