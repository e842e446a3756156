"""A large image, its scores and its division into tiles: all that is settled before the work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn.io.array_files import split_member, state_of
from crfrnn.io.files import IMAGE_SUFFIXES
from crfrnn.io.memory import physical_memory
from crfrnn.io.options import ReadOptions
from crfrnn.offline.options import RefineOptions

from .clamp_map import ClampMap
from .plain import Photograph
from .rasters import RASTER_SUFFIXES, Raster
from .scaling import Range, Scaling, find_scaling
from .source import Source, Stack, template_of
from .tile_scores import TileScores
from .tiling import (
    BASE_BYTES,
    Plan,
    bytes_per_pixel,
    overlap_of,
    pixels_within,
    plan_memory,
    plan_side,
    sample_windows,
)


@dataclass(frozen=True)
class TileOptions:
    """How an image is divided, and how a raster is read and written.

    Attributes:
        memory: resident memory in bytes that the process may take; default: half of the machine's.
        tile: most pixels along a side of a tile's core; None to go by the memory.
        overlap: overlap of the tiles, in pixels; default: 4 times the largest bandwidth.
        ranges: the values of the image that become 0..255, one range or one per band. Default:
            bytes as they are; otherwise the percentiles 1 and 99 of samples, per band.
        cloud_optimized: write a cloud-optimized GeoTIFF.
    """

    memory: int | None = None
    tile: int | None = None
    overlap: int | None = None
    ranges: tuple[Range, ...] = ()
    cloud_optimized: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("memory", "tile"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        if self.overlap is not None and self.overlap < 0:
            raise ValueError(f"overlap must not be negative; got {self.overlap}")


@dataclass(frozen=True)
class TileJob:
    """What `refine_tiles` is about to do.

    Attributes:
        source: the image, open.
        given: its scores, open.
        clamp: the map of clamped pixels, open; None without one.
        scaling: brings the image to 0..255.
        reading: how scores are read.
        refining: how they are refined, with the number of classes of labels.
        classes: number of classes.
        plan: the tiles.
        memory: an estimate, on the high side, of the bytes that the process will take.
    """

    source: Source
    given: TileScores
    clamp: ClampMap | None
    scaling: Scaling
    reading: ReadOptions
    refining: RefineOptions
    classes: int
    plan: Plan
    memory: int

    @property
    def label_type(self) -> np.dtype:
        """The type of the labels; its largest value is left for pixels without data."""
        return np.dtype(np.uint8 if self.classes < 256 else np.uint16)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed, for the user to confirm."""
        return (*self.given.notes, f"image {self.scaling}")

    def has_holes(self) -> bool:
        """Whether pixels of the image or the scores may have no data."""
        return any(_may_have_holes(part) for part in (self.source, self.given.source))

    def origin(self, probs: Path | None) -> dict[str, Any]:
        """Return all that stored tiles depend on but the division into tiles, as JSON values."""
        clamped = [] if self.clamp is None else self.clamp.files()
        paths = [*self.source.files(), *self.given.source.files(), *clamped]
        files = [[str(path.resolve()), *state_of(path)] for path in paths if path.exists()]
        origin = {
            "files": files,
            "ranges": self.scaling.ranges,
            "kind": self.given.kind,
            "member": split_member(self.given.path)[1],
            "clamped": None if self.clamp is None else str(self.clamp.path),
            "reading": asdict(self.reading),
            "parameters": self.refining.parameters(),
            "probs": probs is not None,
        }
        return dict(json.loads(json.dumps(origin, default=str)))


def open_tiles(
    image: str | Path | Sequence[str | Path],
    scores: str | Path,
    *,
    clamp: str | Path | None,
    refining: RefineOptions,
    reading: ReadOptions,
    options: TileOptions,
) -> TileJob:
    """Open the files, and divide the image. The arguments are those of `refine_tiles`.

    Raises:
        ImportError: rasterio is not installed.
        ValueError: a file is damaged, the files do not fit, or the memory does not suffice.
    """
    source = _open([image] if isinstance(image, (str, Path)) else image, reading)
    given = TileScores(Path(scores), source, reading, ignore_index=refining.ignore_index)
    scaling = _scaling(source, options.ranges)
    if given.kind == "labels" and refining.num_classes is None:
        refining = replace(refining, num_classes=given.classes)
    classes = refining.num_classes or given.classes
    held = None
    if clamp is not None:
        held = ClampMap(Path(clamp), source, classes)
        held.check()
    plan, memory = _plan(source, given, held, scaling, refining, classes, options)
    if len(plan) > 1 and (refining.guard or refining.tol is not None):
        raise ValueError(
            "guard and tol look at an image as a whole, and this one is refined in "
            f"{len(plan)} tiles; leave them out, or give more memory"
        )
    return TileJob(source, given, held, scaling, reading, refining, classes, plan, memory)


def default_memory() -> int:
    """Return the bytes that a process may take where nothing is said: half of the machine's."""
    return (physical_memory() or 8 << 30) // 2


def _open(paths: Sequence[str | Path], reading: ReadOptions) -> Source:
    sources: list[Source] = []
    for path in map(Path, paths):
        if path.suffix.lower() in RASTER_SUFFIXES:
            sources.append(Raster(path, colors=True))
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            sources.append(Photograph(path, reading))
        else:
            raise ValueError(
                f"{path}: expected a photograph or a raster "
                f"({', '.join(sorted(IMAGE_SUFFIXES | RASTER_SUFFIXES))})"
            )
    return sources[0] if len(sources) == 1 else Stack(sources)


def _scaling(source: Source, ranges: Sequence[Range]) -> Scaling:
    parts: list[list[np.ndarray]] = [[] for _ in range(source.channels)]
    for window in sample_windows(source.size, 256, 5):
        values, valid = source.read(window), source.valid(window)
        for part, channel in zip(parts, values, strict=True):
            part.append(channel.reshape(-1) if valid is None else channel[valid])
    sample = [np.concatenate(part) for part in parts]
    if not all(part.size for part in sample):
        raise ValueError(f"{source.path}: no valid pixel was found at 25 even places")
    return find_scaling(sample, source.dtype, ranges, "sampled pixels")


def _plan(
    source: Source,
    given: TileScores,
    clamp: ClampMap | None,
    scaling: Scaling,
    refining: RefineOptions,
    classes: int,
    options: TileOptions,
) -> tuple[Plan, int]:
    """Return the tiles, and the memory that the largest takes."""
    kernels = refining.numbers.kernels
    overlap = overlap_of(kernels) if options.overlap is None else options.overlap
    raw = source.channels * source.dtype.itemsize + given.source.channels * (
        given.source.dtype.itemsize
    )
    raw += 16 * (clamp is not None)  # the map as read, and as integers
    per_pixel = bytes_per_pixel(kernels, source, scaling, classes, raw)
    # Photographs, some arrays, and a picture of clamped pixels are held as a whole, and so is the
    # label map of a photograph, when it is written.
    resident = sum(part.resident for part in (source, given.source, clamp) if part is not None)
    if isinstance(template_of(source), Photograph):
        resident += 2 * source.size[0] * source.size[1]
    if options.tile is not None:
        plan = plan_side(source.size, options.tile, overlap)
    else:
        try:
            pixels = pixels_within(options.memory or default_memory(), resident, per_pixel)
            plan = plan_memory(source.size, pixels, overlap)
        except ValueError as error:
            raise ValueError(
                f"{source.path}: {error}; a pixel takes about {per_pixel:.0f} bytes. Give more "
                "--memory, a smaller --overlap, or smaller bandwidths"
            ) from error
    return plan, BASE_BYTES + resident + round(per_pixel * plan.most_pixels())


def _may_have_holes(source: Source) -> bool:
    parts = source.sources if isinstance(source, Stack) else (source,)
    return any(
        isinstance(part, Raster) and (part.has_holes() or part.dtype.kind == "f") for part in parts
    )
