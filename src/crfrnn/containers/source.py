"""The interface of a container: open it, read its size and channels, read windows, write results.

A new format is one module with a subclass of `Source`, and a line in `opening.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from crfrnn.io.array_files import split_member

#: Rows of an image that are read at once, where all have to be seen.
_SLAB = 512

#: One slice with start and stop per axis of the grid.
Window = tuple[slice, ...]

#: Writes values (channels, *window) to a window of a result.
Write = Callable[[Window, np.ndarray], None]


@dataclass(frozen=True)
class Style:
    """What a result may have besides its values; a format ignores what it cannot hold.

    Attributes:
        nodata: the value of pixels without data.
        palette: RGB triples, the colors of labels.
        cloud_optimized: whether to lay a GeoTIFF out for partial reads over a network.
    """

    nodata: float | None = None
    palette: bytes | None = None
    cloud_optimized: bool = False


PLAIN = Style()


class Source(ABC):
    """An open file whose values lie on a grid.

    Attributes:
        path: the file.
        size: (H, W) of an image or raster, (Z, Y, X) of a volume.
        channels: number of channels.
        dtype: the type of its values, before any scaling.
        spacing: distance of neighbors along each axis, in the units of bandwidths: 1 in pixels, or
            millimeters.
        affine: what maps grid indices to places in the world, if the file says; see `same_grid`.
        epsg: the EPSG code of the coordinate system, if it has one.
    """

    path: Path
    size: tuple[int, ...]
    channels: int
    dtype: np.dtype
    spacing: tuple[float, ...]
    affine: np.ndarray | None = None
    epsg: int | None = None

    @property
    def resident(self) -> int:
        """The bytes that it holds in memory while it is open."""
        return 0

    @abstractmethod
    def read(self, window: Window) -> np.ndarray:
        """Return the values (channels, *window) with the type that the file has."""

    def valid(self, window: Window) -> np.ndarray | None:
        """Return where there are data, (*window) bool; None if there are everywhere."""
        return None

    @abstractmethod
    def create(
        self, path: Path, channels: int, dtype: np.dtype, style: Style = PLAIN
    ) -> AbstractContextManager[Write]:
        """Create a result on the same grid, with the metadata of this file.

        The file appears once the context ends without an error, complete, and not before.
        """

    def files(self) -> list[Path]:
        """Return the files and folders that hold the values."""
        return [split_member(self.path)[0]]

    def everything(self) -> Window:
        """Return the window of the whole grid."""
        return tuple(slice(0, length) for length in self.size)


class Stack(Source):
    """The channels of several files on the same grid, in their order; results are like the first.

    Raises:
        ValueError: their grids differ.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        first = self.sources[0]
        for other in self.sources[1:]:
            same_grid(first, other)
        self.path, self.size, self.spacing = first.path, first.size, first.spacing
        self.affine, self.epsg = first.affine, first.epsg
        self.channels = sum(source.channels for source in self.sources)
        self.dtype = np.result_type(*(source.dtype for source in self.sources))

    @property
    def resident(self) -> int:
        """The bytes that all files keep in memory."""
        return sum(source.resident for source in self.sources)

    def read(self, window: Window) -> np.ndarray:
        """Return the values (channels, *window) of all files."""
        return np.concatenate([source.read(window) for source in self.sources])

    def valid(self, window: Window) -> np.ndarray | None:
        """Return where all files have data."""
        masks = [source.valid(window) for source in self.sources]
        known = [mask for mask in masks if mask is not None]
        return np.logical_and.reduce(known) if known else None

    def files(self) -> list[Path]:
        """Return the files of all."""
        return [path for source in self.sources for path in source.files()]

    def create(
        self, path: Path, channels: int, dtype: np.dtype, style: Style = PLAIN
    ) -> AbstractContextManager[Write]:
        """Create a result with the metadata of the first file."""
        return template_of(self).create(path, channels, dtype, style)


def template_of(source: Source) -> Source:
    """Return the file whose metadata the results copy: the first of several."""
    return source.sources[0] if isinstance(source, Stack) else source


def same_grid(first: Source, second: Source) -> None:
    """Raise ValueError unless two files have the same grid: size, and place in the world."""
    if first.size != second.size:
        raise ValueError(
            f"{second.path} must have the grid of {first.path}, {_spell(first.size)}; got "
            f"{_spell(second.size)}. Resample one of them."
        )
    one, other = first.affine, second.affine
    if one is None or other is None:
        return
    if None not in (first.epsg, second.epsg) and first.epsg != second.epsg:
        raise ValueError(
            f"{second.path} lies elsewhere than {first.path}: its coordinate system is EPSG:"
            f"{second.epsg}, not EPSG:{first.epsg}. Reproject it to the grid of the other."
        )
    # Corners that lie within a hundredth of the smallest spacing are the same place.
    ends = ((0, length - 1) for length in reversed(first.size))
    corners = np.array(list(product(*ends, [1]))).T
    step = np.linalg.norm(one[:-1, :-1], axis=0).min()
    apart = np.abs((one - other) @ corners).max()
    if apart > 0.01 * step:
        raise ValueError(
            f"{second.path} lies elsewhere than {first.path}: their affines put the same voxel up "
            f"to {apart:.4g} units apart. Resample one of them to the grid of the other."
        )


def _spell(size: tuple[int, ...]) -> str:
    axes = "height x width" if len(size) == 2 else "x, y, z"
    shown = size if len(size) == 2 else size[::-1]
    return f"{' x '.join(map(str, shown))} ({axes})"


def slabs(size: tuple[int, ...]) -> Iterator[Window]:
    """Yield windows that cover the grid: whole rows of an image, whole slices of a volume."""
    for top in range(0, size[0], _SLAB):
        yield (slice(top, min(top + _SLAB, size[0])), *(slice(0, length) for length in size[1:]))


def all_channels(window: Window) -> Window:
    """Return the index of a window in values (channels, *size)."""
    return (slice(None), *window)


def window_size(window: Window) -> tuple[int, ...]:
    """Return the number of grid points of a window along each axis."""
    return tuple(part.stop - part.start for part in window)
