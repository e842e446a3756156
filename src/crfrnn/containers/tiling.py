"""Dividing an image into tiles that overlap, within a stated memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from crfrnn.crf.kernel import Kernel, Scene
from crfrnn.crf.lattice import Lattice
from crfrnn.io.memory import spell_bytes

from .scaling import Scaling
from .source import Source, Window

#: The overlap, in bandwidths of the widest kernel. The docs have what less of it costs.
OVERLAP = 4.0
#: What Python, NumPy, the packages and GDAL's cache take.
BASE_BYTES = 400 << 20
_SAMPLE_SIDE = 256
#: The share of the memory that is planned for: the estimate has a margin, and allocators waste.
_SHARE = 0.9


@dataclass(frozen=True)
class Tile:
    """A tile.

    Attributes:
        core: the window whose result is kept.
        outer: the window that is refined: the core and the overlap around it.
    """

    core: Window
    outer: Window

    def inner(self) -> Window:
        """Return the core as a window of the outer window."""
        return tuple(
            slice(core.start - outer.start, core.stop - outer.start)
            for core, outer in zip(self.core, self.outer, strict=True)
        )


@dataclass(frozen=True)
class Plan:
    """A division of an image into rows and columns of tiles, as even as pixels allow.

    Attributes:
        size: height and width of the image.
        counts: number of tiles along each axis.
        overlap: pixels by which a tile reaches beyond its core.
    """

    size: tuple[int, ...]
    counts: tuple[int, ...]
    overlap: int

    def tiles(self) -> Iterator[Tile]:
        """Yield the tiles, row by row."""
        for index in np.ndindex(*self.counts):
            core, outer = [], []
            for place, count, length in zip(index, self.counts, self.size, strict=True):
                start, stop = place * length // count, (place + 1) * length // count
                core.append(slice(start, stop))
                outer.append(slice(max(0, start - self.overlap), min(length, stop + self.overlap)))
            yield Tile(tuple(core), tuple(outer))

    def most_pixels(self) -> int:
        """Return the number of pixels of the largest tile, with its overlap."""
        pixels = 1
        for count, length in zip(self.counts, self.size, strict=True):
            pixels *= min(length, -(-length // count) + 2 * self.overlap)
        return pixels

    def __len__(self) -> int:
        """Return the number of tiles."""
        return int(np.prod(self.counts))


def overlap_of(kernels: Sequence[Kernel]) -> int:
    """Return the overlap in pixels that the bandwidths of some kernels ask for."""
    widest = 0.0
    for kernel in kernels:
        position = kernel.bandwidths().get("position", 0.0)
        numbers = position if isinstance(position, (tuple, list)) else (position,)
        widest = max(widest, *numbers)
    return int(np.ceil(OVERLAP * widest))


def plan_side(size: tuple[int, ...], side: int, overlap: int) -> Plan:
    """Divide an image into tiles whose cores have at most `side` pixels along each axis."""
    return Plan(size, tuple(-(-length // side) for length in size), overlap)


def plan_memory(size: tuple[int, ...], pixels: float, overlap: int) -> Plan:
    """Divide an image into tiles of at most so many pixels, with the least work in all.

    Raises:
        ValueError: the overlap alone has more pixels.
    """
    height, width = size
    best: tuple[float, tuple[int, int]] | None = None
    for rows in range(1, height + 1):
        tall = min(height, -(-height // rows) + 2 * overlap)
        widest = int(pixels // tall)
        if widest >= width:
            columns = 1
        elif widest > 2 * overlap:
            columns = -(-width // (widest - 2 * overlap))
        else:
            continue
        wide = min(width, -(-width // columns) + 2 * overlap)
        work = float(rows * columns * tall * wide)
        if best is None or work < best[0]:
            best = (work, (rows, columns))
        if columns == 1:
            break  # more rows only add overlap
    if best is None:
        raise ValueError(
            f"tiles that overlap by {overlap} pixels, {OVERLAP:g} bandwidths, do not fit"
        )
    return Plan(size, best[1], overlap)


def bytes_per_pixel(
    kernels: Sequence[Kernel], image: Source, scaling: Scaling, classes: int, raw: int
) -> float:
    """Estimate the memory that refining takes for each pixel of a tile, on the high side.

    The lattice's share depends on the image: its vertices are counted on samples, which have more
    of them for each pixel than a whole tile has.

    Args:
        kernels: the pairwise kernels.
        image: the guide.
        scaling: brings it to 0..255.
        classes: number of classes.
        raw: bytes of a pixel in the files.
    """
    # Fitted to the peak of `refine` for 1 to 12 bands, 2 to 20 classes and 0.01 to 15 vertices a
    # pixel, and then rounded up. Scores and guide are there as read, as converted, and in floats,
    # while the core keeps the memory of the tile before.
    total = raw + 8.0 * (classes + image.channels) + 52.0 * classes + 30.0
    for kernel in kernels:
        if kernel.is_separable():
            continue
        ratios = []
        for window in sample_windows(image.size, _SAMPLE_SIDE, 3):
            guide = scaling(image.read(window)).astype(np.float32)
            guide = np.where(np.isfinite(guide), guide, 0)
            scene = Scene(guide[None, :1], guide[None])
            points = kernel.points(scene)
            ratios.append(Lattice(points).vertices / points.shape[-2])
            dimension = points.shape[-1]
        vertices = max(ratios)
        total += 8.0 * (dimension + 1) + vertices * (20.0 * (dimension + 1) + 6.0 * classes)
    return total


def sample_windows(size: tuple[int, ...], side: int, count: int) -> list[Window]:
    """Return windows of this side at `count` even places along each axis, each once."""
    starts = [
        sorted({round(place * max(length - side, 0) / max(count - 1, 1)) for place in range(count)})
        for length in size
    ]
    return [
        (slice(top, min(top + side, size[0])), slice(left, min(left + side, size[1])))
        for top in starts[0]
        for left in starts[1]
    ]


def pixels_within(memory: int, resident: int, per_pixel: float) -> float:
    """Return how many pixels of a tile fit.

    Args:
        memory: the limit in bytes.
        resident: what stays in memory besides tiles, in bytes.
        per_pixel: see `bytes_per_pixel`.

    Raises:
        ValueError: nothing is left for tiles.
    """
    left = memory - resident - BASE_BYTES
    if left <= 0:
        raise ValueError(
            f"a memory of {spell_bytes(memory)} leaves nothing for tiles: the program and the "
            f"files held in memory take {spell_bytes(resident + BASE_BYTES)}"
        )
    return _SHARE * left / per_pixel


def parse_bytes(text: str) -> int:
    """Read a size such as "4G", "512M" or "3.5GiB"; a unit is a power of 1024.

    Example:
        >>> from crfrnn.containers.tiling import parse_bytes
        >>> parse_bytes("4G")
        4294967296
    """
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}.get(number[-1:], 1)
    try:
        count = float(number[:-1] if factor > 1 else number) * factor
    except ValueError:
        count = 0.0
    if not 1 <= count < 1 << 60:
        raise ValueError(f"expected a number of bytes such as 4G or 512M; got {text!r}")
    return int(count)
