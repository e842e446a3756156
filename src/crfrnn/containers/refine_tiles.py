"""Refining a large image tile by tile: bounded memory, no seams, resumed after an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crfrnn.io.files import require_writable, write_array
from crfrnn.io.locks import claimed
from crfrnn.io.options import DEFAULTS, ReadOptions
from crfrnn.offline.clamp import free_value
from crfrnn.offline.inputs import Inputs
from crfrnn.offline.options import RefineOptions
from crfrnn.offline.refine import refine_inputs
from crfrnn.offline.refined import Refined

from .overview import Overview
from .rasters import Raster
from .source import Source, Style, Window, all_channels, template_of
from .tile_job import TileJob, TileOptions, open_tiles
from .tile_store import copy_tiles, prepare, remove, tile_path, tiles_folder
from .tiling import Plan, Tile

__all__ = ["RefinedTiles", "TileOptions", "refine_tiles"]


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


def refine_tiles(
    image: str | Path | Sequence[str | Path],
    scores: str | Path,
    output: str | Path,
    *,
    probs: str | Path | None = None,
    overlay: str | Path | None = None,
    clamp: str | Path | None = None,
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
        overlay: also draw the labels over the image: a `.png` or `.jpg`, of at most 2048 pixels a
            side.
        clamp: a map of clamped pixels of the image's size, as `refine` takes it: a raster of one
            band, an array or a picture. Pixels of a raster without data are free.
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
    output = Path(output)
    probs, overlay = (None if path is None else Path(path) for path in (probs, overlay))
    options = options or TileOptions()
    job = open_tiles(
        image,
        scores,
        clamp=clamp,
        refining=refining or RefineOptions(),
        reading=reading,
        options=options,
    )
    _check_outputs(job.source, _Results(output, probs, overlay))
    folder = tiles_folder(output)
    pixels = relabeled = 0
    engine = ""
    with claimed(output, "refine"):
        plan, done = prepare(folder, job.plan, job.origin(probs))
        resumed = len(done)
        for number, tile in enumerate(plan.tiles()):
            if number in done:
                continue
            counted = _refine_tile(job, tile, folder, number, with_probs=probs is not None)
            engine, pixels, relabeled = counted[0], pixels + counted[1], relabeled + counted[2]
            done.add(number)
            if advance is not None:
                advance(len(done), len(plan))
        _assemble(job, plan, folder, _Results(output, probs, overlay), options)
    return RefinedTiles(
        size=job.source.size,
        plan=plan,
        resumed=resumed,
        pixels=pixels,
        relabeled=relabeled,
        kind=job.given.kind,
        classes=job.classes,
        engine=engine,
        notes=job.notes,
        seconds=round(time.perf_counter() - start, 3),
    )


class _Results(NamedTuple):
    """The files to write."""

    labels: Path
    probs: Path | None
    overlay: Path | None


def tile_suffixes(*, raster: bool) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The suffixes that labels, probabilities and overlay of a raster or a photograph may have."""
    tiffs = (".tif", ".tiff")
    overlay = (".png", ".jpg", ".jpeg")
    return (tiffs, tiffs, overlay) if raster else ((".png",), (".npy",), overlay)


def _check_outputs(source: Source, outputs: _Results) -> None:
    """Raise if an output cannot be written, or its suffix does not fit its format."""
    suffixes = tile_suffixes(raster=isinstance(template_of(source), Raster))
    for path, wanted, what in zip(outputs, suffixes, _Results._fields, strict=True):
        if path is None:
            continue
        if path.suffix.lower() not in wanted:
            raise ValueError(
                f"{path}: expected a {' or '.join(wanted)} file for the {what} of {source.path}; "
                f"got {path.suffix or 'no suffix'}"
            )
        require_writable(path)


def _refine_tile(
    job: TileJob, tile: Tile, folder: Path, number: int, *, with_probs: bool
) -> tuple[str, int, int]:
    """Refine a tile and store its core; nothing of it stays in memory.

    Returns the engine, the number of pixels with data, and how many of them were relabeled.
    """
    refined, valid, before = _refine(job, tile)
    inner = tile.inner()
    labels = refined.labels[inner].astype(job.label_type)
    if valid is not None:
        valid = valid[inner]
        labels[~valid] = np.iinfo(job.label_type).max
    old = before[inner]
    counted = np.ones(labels.shape, np.bool_) if valid is None else valid
    if job.given.kind == "labels":
        counted = counted & (old != job.refining.ignore_index)
    relabeled = int(((labels != old) & counted).sum())
    if with_probs:
        values = refined.probs[all_channels(inner)].astype(np.float32)
        if valid is not None:
            values[:, ~valid] = np.nan
        write_array(tile_path(folder, number, "probs"), values)
    write_array(tile_path(folder, number, "labels"), labels)  # last: it says "done"
    return refined.engine, int(counted.sum()), relabeled


def _refine(job: TileJob, tile: Tile) -> tuple[Refined[np.ndarray], np.ndarray | None, np.ndarray]:
    """Refine a tile with its overlap.

    Returns the result, where there are data, and the labels before, seeds included.
    """
    window = tile.outer
    values, scores = job.source.read(window), job.given.read(window)
    masks = [part.valid(window) for part in (job.source, job.given.source)]
    known = [mask for mask in masks if mask is not None]
    valid = np.logical_and.reduce(known) if known else None
    guide = job.scaling(values)
    if valid is not None:
        guide = np.where(valid, guide, 0).astype(guide.dtype)
    before, clamp = scores.labels(), None
    if job.clamp is not None:
        clamp = job.clamp.read(window)
        if clamp.dtype != np.bool_:
            before = np.where(clamp == free_value(job.classes), before, clamp)
    inputs = Inputs(
        guide,
        scores.kind,
        scores.values,
        valid,
        clamp,
        channels_last=False,
        origin=tuple(part.start for part in window),
        ids=job.given.ids or None,
    )
    return refine_inputs(inputs, job.refining), valid, before


def _assemble(
    job: TileJob, plan: Plan, folder: Path, outputs: _Results, options: TileOptions
) -> None:
    """Write the results from the stored tiles, labels last, and remove the tiles."""
    source, dtype = job.source, job.label_type
    nodata = float(np.iinfo(dtype).max) if job.has_holes() else None
    style = Style(nodata, job.given.palette, options.cloud_optimized)
    if outputs.probs is not None:
        of_probs = replace(style, nodata=None if nodata is None else float("nan"), palette=None)
        with source.create(outputs.probs, job.classes, np.dtype(np.float32), of_probs) as write:
            copy_tiles(plan, folder, "probs", write)
    with source.create(outputs.labels, 1, dtype, style) as write:
        if outputs.overlay is None:
            copy_tiles(plan, folder, "labels", write)
        else:
            view = Overview(source.size)

            def write_both(window: Window, labels: np.ndarray) -> None:
                write(window, labels)
                view.add(window, labels)

            copy_tiles(plan, folder, "labels", write_both)
            view.write(outputs.overlay, source, job.scaling, job.given.palette)
    remove(folder)
