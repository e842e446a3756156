"""Photographs and arrays as sources of windows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from crfrnn.io.array_files import STORE_SUFFIXES, opened_arrays, split_member
from crfrnn.io.arrays import read_arrays
from crfrnn.io.files import describe, read_image, replacing, write_labels
from crfrnn.io.options import DEFAULTS, ReadOptions
from crfrnn.io.scores import (
    ARRAY_SUFFIXES,
    are_class_maps,
    are_quantized,
    dequantize,
    from_class_maps,
)

from .source import PLAIN, Source, Style, Window, Write, all_channels


class Photograph(Source):
    """A photograph, decoded as a whole: three bytes a pixel, as `read_image` gives them."""

    def __init__(self, path: Path, reading: ReadOptions) -> None:
        pixels = read_image(path, apply_exif=reading.apply_exif, max_pixels=reading.max_pixels)
        self._pixels = np.moveaxis(pixels, -1, 0)
        self.path, self.dtype = path, pixels.dtype
        self.size, self.channels, self.spacing = pixels.shape[:2], pixels.shape[2], (1.0, 1.0)

    @property
    def resident(self) -> int:
        """The bytes of the decoded photograph."""
        return int(self._pixels.nbytes)

    def read(self, window: Window) -> np.ndarray:
        """Return the pixels (3, *window)."""
        return self._pixels[all_channels(window)]

    @contextmanager
    def create(
        self, path: Path, channels: int, dtype: np.dtype, style: Style = PLAIN
    ) -> Iterator[Write]:
        """Create a label map, a PNG, or an array (channels, H, W), a `.npy`.

        Label maps are held in memory as a whole; arrays are written window by window.
        """
        if path.suffix.lower() == ".npy":
            with replacing(path) as file:
                yield _array_writer(file, (channels, *self.size), dtype)
            return
        values = np.zeros(self.size, dtype)

        def write(window: Window, part: np.ndarray) -> None:
            values[window] = part[0]

        yield write
        classes = 256 if dtype == np.uint8 else 65536
        write_labels(path, values, classes=classes, palette=style.palette)


def _array_writer(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> Write:
    """Begin a `.npy` of this shape; return a function that writes windows, row by row.

    A memory map would do it in a line, but a full disk kills a process that writes to one.
    """
    head = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)
    begin = file.tell()

    def write(window: Window, part: np.ndarray) -> None:
        rows, columns = window
        for channel, plane in enumerate(part.astype(dtype, copy=False)):
            for row, line in enumerate(plane, rows.start):
                place = (channel * shape[1] + row) * shape[2] + columns.start
                file.seek(begin + place * dtype.itemsize)
                file.write(line.tobytes())

    return write


class ArraySource(Source):
    """An array (channels, H, W), (H, W, channels) or (H, W) in a file.

    `.npy`, HDF5 and zarr are read window by window, `.npz` and dictionaries in a `.npy` as a whole.
    Quantized logits become floats window by window.

    Args:
        path: the file; `FILE:NAME` chooses an array.
        names: arrays that are taken, in this order, if the file has several.
        size: height and width of the image, which tell where the channels are.
        reading: where the classes are, and how a dictionary of class maps becomes probabilities.

    Attributes:
        name: of the array.
        note: what was made of it, if it was no array as it is.
    """

    def __init__(
        self,
        path: Path,
        names: tuple[str, ...],
        size: tuple[int, ...],
        reading: ReadOptions = DEFAULTS,
    ) -> None:
        self.path, self.spacing, self.note = path, (1.0, 1.0), ""
        self._open = ExitStack()
        arrays = self._arrays()
        if are_class_maps(arrays, reading.kind):
            arrays["probs"], self.note = from_class_maps(arrays, reading.background)
        chosen = [name for name in names if name in arrays] or list(arrays)
        if len(chosen) != 1:
            raise ValueError(
                f"{path}: expected a single array, or one called {', '.join(names)}; got "
                f"{', '.join(arrays) or 'none'}"
            )
        self.name = chosen[0]
        self._array = arrays[self.name]
        self._quantized = self.name == "logits" and are_quantized(arrays, reading.kind)
        if self._quantized:
            self._steps = {name: np.asarray(arrays[name][...]) for name in ("scale", "zero")}
        shape = tuple(int(length) for length in self._array.shape)
        self.dtype = np.dtype(self._array.dtype)
        if len(shape) not in (2, 3) or 0 in shape or self.dtype.kind not in "biuf":
            raise ValueError(
                f"{path}: expected numbers (C, H, W), (H, W, C) or (H, W); got {self.dtype} of "
                f"shape {shape}"
            )
        if self._quantized:
            self.dtype = np.dtype(np.float32)
        class_axis = reading.class_axis
        self._last = len(shape) == 3 and (
            class_axis == "last" or (class_axis == "auto" and shape[:2] == size != shape[1:])
        )
        self.size = shape[:2] if self._last or len(shape) == 2 else shape[1:]
        self.channels = 1 if len(shape) == 2 else shape[2 if self._last else 0]
        self._is_map = len(shape) == 2

    @property
    def resident(self) -> int:
        """The bytes of an array that was read as a whole."""
        whole = isinstance(self._array, np.ndarray) and not isinstance(self._array, np.memmap)
        return int(self._array.nbytes) if whole else 0

    def read(self, window: Window) -> np.ndarray:
        """Return the values (channels, *window)."""
        try:
            where = window if self._is_map or self._last else all_channels(window)
            values = np.asarray(self._array[where])
            if self._quantized:
                values = dequantize({"logits": values, **self._steps})
            if self._is_map:
                return values[None]
            return np.moveaxis(values, -1, 0) if self._last else values
        except Exception as error:  # a damaged file makes the libraries raise almost anything
            raise ValueError(f"{self.path}: not readable ({describe(error)})") from error

    @contextmanager
    def create(
        self, path: Path, channels: int, dtype: np.dtype, style: Style = PLAIN
    ) -> Iterator[Write]:
        """Refuse: results are written like the image, not like its scores."""
        raise NotImplementedError
        yield

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def _arrays(self) -> dict[str, Any]:
        file = split_member(self.path)[0]
        suffix = file.suffix.lower()
        if suffix in STORE_SUFFIXES:
            return self._open.enter_context(opened_arrays(self.path))
        if suffix == ".npy":
            with suppress(Exception):  # what is wrong with it, or a pickle, `read_arrays` says
                loaded = np.load(file, mmap_mode="r", allow_pickle=False)
                if isinstance(loaded, np.ndarray):
                    return {"array": loaded}
                loaded.close()  # an archive with the wrong name
        if suffix not in ARRAY_SUFFIXES:
            raise ValueError(
                f"{file}: the scores or labels of a raster or tiled image must be a raster "
                f"(.tif) or an array; got {suffix or 'no suffix'}. Save the array as .npy"
            )
        return dict(read_arrays(self.path))
