"""Maps of clamped pixels on the grid of a large image or a volume, read window by window."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crfrnn.io.array_files import split_member
from crfrnn.io.clamp import read_clamp
from crfrnn.io.scores import ARRAY_SUFFIXES
from crfrnn.offline.clamp import check_seeds, free_value

from .plain import ArraySource
from .rasters import RASTER_SUFFIXES, Raster
from .source import Source, Window, same_grid, slabs
from .volumes import Volume, is_volume

_NAMES = ("clamp", "labels", "mask")


class ClampMap:
    """Pixels that keep their scores, or the class that is drawn there.

    Args:
        path: for a raster or a photograph a raster of one band, an array or a picture; for a volume
            a NIfTI file. Without data there (nodata, NaN), a pixel is free.
        image: the image, whose grid the map must have.
        classes: the number of classes.

    Raises:
        ValueError: it has another grid, or holds no map.
    """

    def __init__(self, path: Path, image: Source, classes: int) -> None:
        self.path, self.classes = path, classes
        self._source: Source | None = None
        self._held = np.empty(0)
        if len(image.size) == 3:
            if not is_volume(path):
                raise ValueError(f"{path}: the clamped voxels of a volume must be a NIfTI file")
            self._source = Volume(path)
        elif path.suffix.lower() in RASTER_SUFFIXES:
            self._source = Raster(path)
        elif split_member(path)[0].suffix.lower() in ARRAY_SUFFIXES:
            self._source = ArraySource(path, _NAMES, image.size)
        else:
            held = read_clamp(path, (image.size[0], image.size[1]))
            self._held = held if held.dtype == np.bool_ else held.astype(np.uint16)
        if self._source is not None:
            same_grid(image, self._source)
            if self._source.channels != 1:
                raise ValueError(
                    f"{path}: a map of clamped pixels must have one band or channel; got "
                    f"{self._source.channels}"
                )

    def read(self, window: Window) -> np.ndarray:
        """Return the map (*window): bool, or the classes of clamped pixels and `free_value`.

        Raises:
            ValueError: it holds fractions.
        """
        if self._source is None:
            held: np.ndarray = self._held[window]
            return held if held.dtype == np.bool_ else held.astype(np.int64)
        values: np.ndarray = self._source.read(window)[0]
        valid = self._source.valid(window)
        if values.dtype == np.bool_:
            return values
        free = free_value(self.classes)
        if values.dtype.kind != "f":  # a narrow type may not hold the value of free pixels
            values = values.astype(np.int64)
        if valid is not None:
            values = np.where(valid, values, free)
        with np.errstate(invalid="ignore"):  # what is no number differs from its integer
            labels = values.astype(np.int64)
        if (labels != values).any():
            raise ValueError(f"{self.path}: a map of clamped pixels holds classes; got fractions")
        return labels

    @property
    def resident(self) -> int:
        """The bytes that it keeps in memory: those of a picture, or of an array read as a whole."""
        return self._held.nbytes + (0 if self._source is None else self._source.resident)

    def check(self) -> None:
        """Raise unless the map leaves pixels free, and clamps the others to classes."""
        low, high, some_free = [], [], False
        size = self._held.shape if self._source is None else self._source.size
        for window in slabs(size):
            labels = self.read(window)
            if labels.dtype == np.bool_:
                return
            held = labels != free_value(self.classes)
            some_free = some_free or not held.all()
            if held.any():
                low.append(int(labels[held].min()))
                high.append(int(labels[held].max()))
        try:
            lowest, highest = min(low, default=None), max(high, default=None)
            check_seeds(lowest, highest, self.classes, some_free=some_free)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error

    def files(self) -> list[Path]:
        """Return the files that hold it."""
        return [split_member(self.path)[0]] if self._source is None else self._source.files()
