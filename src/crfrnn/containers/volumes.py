"""Volumes: NIfTI files through nibabel, and scores of nnU-Net on their grid."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn._extras import load
from crfrnn.io.files import describe, replacing
from crfrnn.io.memory import require_memory

from .source import PLAIN, Source, Style, Window, Write, all_channels

VOLUME_SUFFIXES = (".nii", ".nii.gz")

#: gzip and zlib reach at most this ratio.
_MOST_COMPRESSED = 1032
#: Bytes after the voxels that are read for the checksum behind them.
_MOST_AFTER = 1 << 20
_MILLIMETERS = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def is_volume(path: Path) -> bool:
    """Whether the name of a file is that of a volume."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


class Volume(Source):
    """A NIfTI file: three axes, and a fourth for channels.

    nibabel's arrays are (X, Y, Z, channels). Here they are (channels, Z, Y, X), which is the order
    in memory, and the order of nnU-Net's arrays.

    Args:
        path: the file.

    Raises:
        ImportError: nibabel is not installed.
        FileNotFoundError, ValueError: it cannot be read; its header contradicts the file.
    """

    def __init__(self, path: Path) -> None:
        nibabel = load("nibabel", "volume", path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: expected a volume, but there is no such file")
        try:
            self._image = nibabel.load(path)
            shape = tuple(int(length) for length in self._image.shape)
            self.dtype = np.dtype(self._image.get_data_dtype())
            self.affine = np.asarray(self._image.affine, np.float64)
        except Exception as error:  # a broken header makes nibabel raise almost anything
            raise ValueError(f"{path}: not a readable volume ({describe(error)})") from error
        self.path = path
        self.size, self.channels = _grid(path, shape)
        if self.dtype.kind not in "biuf":
            raise ValueError(f"{path}: expected a volume of real numbers; got {self.dtype}")
        self._check_length(shape)
        self.spacing = self._spacing()
        self._values: np.ndarray | None = None

    def read(self, window: Window) -> np.ndarray:
        """Return the values (channels, *window), with the header's slope and intercept applied.

        The first call reads the whole file: a gzip file cannot be entered in the middle.
        """
        if self._values is None:
            try:
                values = np.asanyarray(self._image.dataobj)
                self._check_sum()
            except Exception as error:  # a truncated file, mostly
                raise ValueError(
                    f"{self.path}: the volume cannot be read ({describe(error)}); the file may be "
                    "truncated or its header wrong"
                ) from error
            self._values = values.reshape(*self.size[::-1], self.channels).T
        return self._values[all_channels(window)]

    def valid(self, window: Window) -> np.ndarray | None:
        """Return where all channels are finite."""
        values = self.read(window)
        if values.dtype.kind != "f":
            return None
        finite: np.ndarray = np.isfinite(values).all(axis=0)
        return None if finite.all() else finite

    @contextmanager
    def create(
        self, path: Path, channels: int, dtype: np.dtype, style: Style = PLAIN
    ) -> Iterator[Write]:
        """Create a volume with the affine and header of this one; gzipped if its name says so.

        Of the header, only the number of channels, the type, and the range to display change.
        """
        values = np.zeros((channels, *self.size), dtype)

        def write(window: Window, part: np.ndarray) -> None:
            values[all_channels(window)] = part

        yield write
        image = self._like(values)
        with replacing(path) as file:
            if path.name.lower().endswith(".gz"):
                # Without a time stamp, the same labels give the same file.
                with gzip.GzipFile("", "wb", 6, file, mtime=0) as stream:
                    image.to_stream(stream)
            else:
                image.to_stream(file)

    def _like(self, values: np.ndarray) -> Any:
        header = self._image.header.copy()
        header.set_data_dtype(values.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        if len(self._image.shape) == 5:
            header.set_intent("none")  # it was that of vectors
        shaped = values.T if len(values) > 1 else values[0].T
        return type(self._image)(shaped, None, header)

    def _spacing(self) -> tuple[float, ...]:
        assert self.affine is not None
        columns = self.affine[:3, :3]
        lengths = np.linalg.norm(columns, axis=0)
        if not np.isfinite(self.affine).all() or lengths.min() <= 0:
            raise ValueError(
                f"{self.path}: its affine gives no spacing; got {self.affine.tolist()}. Repair the "
                "header, for example with nibabel"
            )
        unit = self._image.header.get_xyzt_units()[0]
        return tuple((lengths * _MILLIMETERS.get(unit, 1.0))[::-1].tolist())

    def _check_length(self, shape: tuple[int, ...]) -> None:
        """Raise if the header asks for more than the file can hold, before memory is taken."""
        count = 1
        for length in shape:
            count *= length
        asked = count * self.dtype.itemsize
        stored = self.path.stat().st_size
        compressed = self.path.name.lower().endswith(".gz")
        if asked > stored * (_MOST_COMPRESSED if compressed else 1):
            raise ValueError(
                f"{self.path}: its header describes {' x '.join(map(str, shape))} values of "
                f"{self.dtype}, {asked} bytes, but the file has only {stored}; it is truncated or "
                "its header is wrong"
            )
        require_memory(self.path, asked)

    def _check_sum(self) -> None:
        """Read a gzip file to its end, where its checksum is; nibabel stops at the last voxel."""
        if not self.path.name.lower().endswith(".gz"):
            return
        values = self._image.dataobj
        left = values.offset + int(np.prod(values.shape)) * self.dtype.itemsize + _MOST_AFTER
        with gzip.open(self.path) as stream:
            while left > 0 and (block := stream.read(min(left, 1 << 20))):
                left -= len(block)


def _grid(path: Path, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Return the size (Z, Y, X) and the number of channels of nibabel's shape."""
    if len(shape) == 5 and shape[3] == 1:  # vectors, by the standard
        shape = (*shape[:3], shape[4])
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(
            f"{path}: expected a volume (X, Y, Z) or (X, Y, Z, channels); got shape {shape}"
        )
    return shape[2::-1], shape[3] if len(shape) == 4 else 1
