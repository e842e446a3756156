"""Refining a large image tile by tile: bounded memory, no seams, resumed after an interruption."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn.io.array_files import split_member, state_of
from crfrnn.io.files import IMAGE_SUFFIXES, require_writable, write_array
from crfrnn.io.locks import claimed
from crfrnn.io.memory import physical_memory
from crfrnn.io.options import DEFAULTS, ReadOptions
from crfrnn.offline.inputs import Inputs
from crfrnn.offline.options import RefineOptions
from crfrnn.offline.refine import refine_inputs
from crfrnn.offline.refined import Refined

from .plain import Photograph
from .rasters import RASTER_SUFFIXES, Raster
from .scaling import Range, Scaling, find_scaling
from .source import Source, Stack, Style, all_channels
from .tile_scores import TileScores
from .tile_store import copy_tiles, prepare, remove, tile_path
from .tiling import (
    Plan,
    Tile,
    bytes_per_pixel,
    overlap_of,
    pixels_within,
    plan_memory,
    plan_side,
    sample_windows,
)


@dataclass(frozen=True)
class RefinedTiles:
    """What `refine_tiles` returns.

    Attributes:
        size: height and width.
        plan: the tiles.
        resumed: number of tiles that an interrupted run had refined.
        pixels: number of pixels with data, of the tiles refined now.
        relabeled: how many of these have another label than the scores gave them.
        kind: "logits", "probs" or "labels", what the scores were.
        classes: number of classes.
        engine: the engine that was used; "" if nothing was left to do.
        notes: what was assumed, for the user to confirm.
        seconds: time taken.
    """

    size: tuple[int, ...]
    plan: Plan
    resumed: int
    pixels: int
    relabeled: int
    kind: str
    classes: int
    engine: str
    notes: tuple[str, ...]
    seconds: float


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


def refine_tiles(
    image: str | Path | Sequence[str | Path],
    scores: str | Path,
    output: str | Path,
    *,
    probs: str | Path | None = None,
    refining: RefineOptions | None = None,
    reading: ReadOptions = DEFAULTS,
    options: TileOptions | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> RefinedTiles:
    """Refine a raster or a large photograph tile by tile, within a memory limit.

    A tile is refined together with an overlap around it, and only its core is kept. Each pixel has
    the same place in the lattice as in the whole image. So the labels are those of one large call,
    except for influences from beyond the overlap. Until the result is complete, the folder
    `.NAME.tiles` beside it holds the finished tiles, and the same call continues from there.

    Args:
        image: a GeoTIFF, JPEG 2000, Erdas or virtual raster, several of them whose bands are put
            together, or a photograph.
        scores: a raster whose bands are the classes, or an array (C, H, W), (H, W, C) or (H, W),
            of the image's size. `.npy`, HDF5 and zarr are read tile by tile. Labels have one band.
        output: for rasters a GeoTIFF, for photographs a PNG. Pixels without data in the image or
            the scores become nodata: 255, or 65535 where labels need 16 bits.
        probs: also write probabilities: a GeoTIFF with a band per class, or a `.npy`.
        refining: how to refine; bandwidths are in pixels. `guard` and `tol` look at an image as a
            whole, so they need a single tile. Default: the preset "deeplab".
        reading: how to read scores.
        options: tiles, memory and ranges.
        advance: called after each tile with the number done and the number of all.

    Raises:
        ImportError: rasterio is not installed.
        ValueError: a file is damaged, the files do not fit, the memory does not suffice, or another
            job is writing the same output.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from PIL import Image
        >>> from crfrnn.containers.refine_tiles import TileOptions, refine_tiles
        >>> folder = Path(tempfile.mkdtemp())
        >>> photo = np.zeros((40, 60, 3), np.uint8); photo[:, 30:] = 200
        >>> Image.fromarray(photo).save(folder / "a.png")
        >>> certain = np.where(np.arange(60) < 27, 0.1, 0.9) * np.ones((40, 1))
        >>> np.save(folder / "a.npy", np.stack([1 - certain, certain]))
        >>> result = refine_tiles(folder / "a.png", folder / "a.npy", folder / "labels.png",
        ...                       options=TileOptions(tile=30, overlap=20))
        >>> len(result.plan), result.relabeled
        (4, 120)
    """
    start = time.perf_counter()
    refining, options = refining or RefineOptions(), options or TileOptions()
    output, probs = Path(output), None if probs is None else Path(probs)
    source = _open([image] if isinstance(image, (str, Path)) else image, reading)
    given = TileScores(Path(scores), source, reading, ignore_index=refining.ignore_index)
    for path in (output, probs):
        if path is not None:
            require_writable(path)
    scaling = _scaling(source, options.ranges)
    plan = _plan(source, given, scaling, refining, options)
    if len(plan) > 1 and (refining.guard or refining.tol is not None):
        raise ValueError(
            "guard and tol look at an image as a whole, and this one is refined in "
            f"{len(plan)} tiles; leave them out, or give more memory"
        )
    if given.kind == "labels" and refining.num_classes is None:
        refining = replace(refining, num_classes=given.classes)
    classes = refining.num_classes or given.classes
    dtype = np.dtype(np.uint8 if classes < 256 else np.uint16)
    folder = output.with_name(f".{output.name}.tiles")
    origin = _origin(source, given, scaling, reading, refining, probs)
    pixels = relabeled = 0
    engine = ""
    with claimed(output, "refine"):
        plan, done = prepare(folder, plan, origin)
        resumed = len(done)
        for number, tile in enumerate(plan.tiles()):
            if number in done:
                continue
            counted = _refine_tile(
                source, given, scaling, refining, tile, folder, number, dtype, probs
            )
            engine, pixels, relabeled = counted[0], pixels + counted[1], relabeled + counted[2]
            done.add(number)
            if advance is not None:
                advance(len(done), len(plan))
        _assemble(source, given, plan, folder, output, probs, dtype, classes, options)
    return RefinedTiles(
        size=source.size,
        plan=plan,
        resumed=resumed,
        pixels=pixels,
        relabeled=relabeled,
        kind=given.kind,
        classes=classes,
        engine=engine,
        notes=(*given.notes, f"image {scaling}"),
        seconds=round(time.perf_counter() - start, 3),
    )


def _open(paths: Sequence[str | Path], reading: ReadOptions) -> Source:
    sources: list[Source] = []
    for path in map(Path, paths):
        if path.suffix.lower() in RASTER_SUFFIXES:
            sources.append(Raster(path))
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
    scaling: Scaling,
    refining: RefineOptions,
    options: TileOptions,
) -> Plan:
    kernels = refining.numbers.kernels
    overlap = overlap_of(kernels) if options.overlap is None else options.overlap
    if options.tile is not None:
        return plan_side(source.size, options.tile, overlap)
    memory = options.memory or (physical_memory() or 8 << 30) // 2
    raw = source.channels * source.dtype.itemsize + given.source.channels * (
        given.source.dtype.itemsize
    )
    per_pixel = bytes_per_pixel(kernels, source, scaling, given.classes, raw)
    # A photograph is held as a whole, and so is its label map when it is written.
    resident = 0
    if isinstance(source, Photograph):
        resident = source.size[0] * source.size[1] * (source.channels + 2)
    try:
        return plan_memory(source.size, pixels_within(memory, resident, per_pixel), overlap)
    except ValueError as error:
        raise ValueError(
            f"{source.path}: {error}; a pixel takes about {per_pixel:.0f} bytes. Give more "
            "--memory, a smaller --overlap, or smaller bandwidths"
        ) from error


def _refine_tile(
    source: Source,
    given: TileScores,
    scaling: Scaling,
    refining: RefineOptions,
    tile: Tile,
    folder: Path,
    number: int,
    dtype: np.dtype,
    probs: Path | None,
) -> tuple[str, int, int]:
    """Refine a tile and store its core; nothing of it stays in memory.

    Returns the engine, the number of pixels with data, and how many of them were relabeled.
    """
    refined, valid, before = _refine(source, given, scaling, refining, tile)
    inner = tile.inner()
    labels = refined.labels[inner].astype(dtype)
    if valid is not None:
        valid = valid[inner]
        labels[~valid] = np.iinfo(dtype).max
    old = before[inner]
    counted = np.ones(labels.shape, np.bool_) if valid is None else valid
    if given.kind == "labels":
        counted = counted & (old != refining.ignore_index)
    relabeled = int(((labels != old) & counted).sum())
    if probs is not None:
        values = refined.probs[all_channels(inner)].astype(np.float32)
        if valid is not None:
            values[:, ~valid] = np.nan
        write_array(tile_path(folder, number, "probs"), values)
    write_array(tile_path(folder, number, "labels"), labels)  # last: it says "done"
    return refined.engine, int(counted.sum()), relabeled


def _refine(
    source: Source, given: TileScores, scaling: Scaling, refining: RefineOptions, tile: Tile
) -> tuple[Refined[np.ndarray], np.ndarray | None, np.ndarray]:
    """Refine a tile with its overlap.

    Returns the result, where there are data, and the labels before.
    """
    window = tile.outer
    values, scores = source.read(window), given.read(window)
    masks = [part.valid(window) for part in (source, given.source)]
    known = [mask for mask in masks if mask is not None]
    valid = np.logical_and.reduce(known) if known else None
    guide = scaling(values)
    if valid is not None:
        guide = np.where(valid, guide, 0).astype(guide.dtype)
    origin, ids = tuple(part.start for part in window), given.ids or None
    inputs = Inputs(
        guide, scores.kind, scores.values, valid, channels_last=False, origin=origin, ids=ids
    )
    return refine_inputs(inputs, refining), valid, scores.labels()


def _origin(
    source: Source,
    given: TileScores,
    scaling: Scaling,
    reading: ReadOptions,
    refining: RefineOptions,
    probs: Path | None,
) -> dict[str, Any]:
    """Return everything but the division that stored tiles depend on."""
    paths = [*source.files(), *given.source.files()]
    files = [[str(path.resolve()), *state_of(path)] for path in paths if path.exists()]
    origin = {
        "files": files,
        "ranges": scaling.ranges,
        "kind": given.kind,
        "member": split_member(given.path)[1],
        "reading": asdict(reading),
        "parameters": refining.parameters(),
        "probs": probs is not None,
    }
    return dict(json.loads(json.dumps(origin, default=str)))


def _assemble(
    source: Source,
    given: TileScores,
    plan: Plan,
    folder: Path,
    output: Path,
    probs: Path | None,
    dtype: np.dtype,
    classes: int,
    options: TileOptions,
) -> None:
    """Write the results from the stored tiles, labels last, and remove the tiles."""
    holes = any(_may_have_holes(part) for part in (source, given.source))
    nodata = float(np.iinfo(dtype).max) if holes else None
    style = Style(nodata, given.palette, options.cloud_optimized)
    with ExitStack() as stack:
        if probs is not None:
            of_probs = Style(float("nan") if holes else None, None, options.cloud_optimized)
            write = stack.enter_context(
                source.create(probs, classes, np.dtype(np.float32), of_probs)
            )
            copy_tiles(plan, folder, "probs", write)
    with source.create(output, 1, dtype, style) as write:
        copy_tiles(plan, folder, "labels", write)
    remove(folder)


def _may_have_holes(source: Source) -> bool:
    parts = source.sources if isinstance(source, Stack) else (source,)
    return any(
        isinstance(part, Raster) and (part.has_holes() or part.dtype.kind == "f") for part in parts
    )
