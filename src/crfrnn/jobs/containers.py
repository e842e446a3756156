"""Folders of volumes or of rasters: one file refined after another, each with its metadata."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from crfrnn.containers.rasters import RASTER_SUFFIXES
from crfrnn.containers.refine_tiles import refine_tiles
from crfrnn.containers.refine_volume import refine_volume
from crfrnn.containers.scaling import Range
from crfrnn.containers.tile_job import TileOptions
from crfrnn.containers.volume_scores import VolumeOptions
from crfrnn.containers.volumes import VOLUME_SUFFIXES
from crfrnn.io.files import IMAGE_SUFFIXES, open_header
from crfrnn.io.notes import Note, Remark
from crfrnn.io.paths import AnyPath
from crfrnn.io.scores import ARRAY_SUFFIXES, SCORE_SUFFIXES

from .pairs import Matches, Outputs, Pair, by_stem
from .settings import Settings

ContainerKind = Literal["volume", "tiles"]

#: Rasters that no other reader takes.
ONLY_RASTERS = frozenset({".jp2", ".img", ".vrt"})
TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
#: A scan's modalities, as nnU-Net names their files: CASE_0000, CASE_0001 ...
_MODALITY = re.compile(r"(.+)_(\d{4})")
#: Tags of GeoTIFF: scale, tie points, transformation, keys.
_GEO_TAGS = frozenset({33550, 33922, 34264, 34735})
_VARYING = re.compile(r" from [^()]+ \(")


@dataclass(frozen=True)
class ContainerOptions:
    """How the files of a folder are refined, besides the settings.

    Attributes:
        kind: "volume", or "tiles" for rasters and large images.
        tiles: of rasters and large images.
        volume: of volumes.
        ranges: of volumes; those of rasters are in `tiles`.
    """

    kind: ContainerKind
    tiles: TileOptions = field(default_factory=TileOptions)
    volume: VolumeOptions = field(default_factory=VolumeOptions)
    ranges: tuple[Range, ...] = ()

    def decisive(self) -> dict[str, Any]:
        """Return what the results depend on, as JSON values."""
        if self.kind == "volume":
            return {**asdict(self.volume), "ranges": [asdict(span) for span in self.ranges]}
        divided = asdict(self.tiles)
        return {name: value for name, value in divided.items() if name != "memory"}


@dataclass(frozen=True)
class ContainerRefinement:
    """The result for one file."""

    image: AnyPath
    scores: AnyPath
    outputs: Outputs
    kind: str
    classes: int
    size: tuple[int, ...]
    pixels: int
    relabeled: int
    seconds: float
    engine: str
    notes: tuple[Note, ...]


def folder_kind(images: Path, scores: AnyPath) -> ContainerKind | None:
    """Return what a folder of images holds: volumes, rasters, or None for photographs.

    TIFFs are rasters if the first is georeferenced and the scores are TIFFs, too; scores in
    other files mostly have the network's resolution, and rasters are not resampled.
    """
    if by_stem(images, VOLUME_SUFFIXES):
        return "volume"
    if by_stem(images, ONLY_RASTERS):
        return "tiles"
    if not isinstance(scores, Path) or not scores.is_dir():
        return None
    left, right = by_stem(images, TIFF_SUFFIXES), by_stem(scores, TIFF_SUFFIXES)
    first = next((left[stem][0] for stem in sorted(left.keys() & right.keys())), None)
    return "tiles" if isinstance(first, Path) and _is_georeferenced(first) else None


def _is_georeferenced(path: Path) -> bool:
    try:
        with open_header(path) as image:
            return not _GEO_TAGS.isdisjoint(getattr(image, "tag_v2", {}).keys())
    except Exception:  # Pillow opens few of the types of rasters
        return True


def match_containers(kind: ContainerKind, images: Path, scores: Path, folders: Outputs) -> Matches:
    """Match the files of two folders by stem, without `.nii.gz`.

    Of volumes, CASE_0000, CASE_0001 ... are the modalities of the scores CASE. If a stem has an
    array and other files among the scores, the array is used, as `match` does.
    """
    of_images = VOLUME_SUFFIXES if kind == "volume" else RASTER_SUFFIXES | IMAGE_SUFFIXES
    of_scores = {*ARRAY_SUFFIXES, *(VOLUME_SUFFIXES if kind == "volume" else RASTER_SUFFIXES)}
    same = images.resolve() == scores.resolve()
    left = by_stem(images, longest_first(of_images))
    right = by_stem(scores, longest_first(ARRAY_SUFFIXES if same else of_scores))
    if kind == "volume":
        left = _join_modalities(left, right.keys())
    pairs, clashes = [], []
    for stem in sorted(left.keys() & right.keys()):
        arrays = [path for path in right[stem] if path.suffix.lower() in ARRAY_SUFFIXES]
        files = arrays or right[stem]
        more = left[stem][1:]
        if len(files) > 1 or (more and kind == "tiles"):
            names = ", ".join(path.name for path in (files if len(files) > 1 else left[stem]))
            clashes.append((stem, f"cannot tell which file to use: {names}; keep one of them"))
            continue
        image = left[stem][0]
        outputs = _results(kind, folders, stem, image)
        pairs.append(Pair(stem, image, files[0], outputs, more=tuple(more)))
    if not pairs and not clashes:
        raise ValueError(
            f"no file in {images} ({len(left)}) has the stem of a score file in {scores} "
            f"({len(right)}); name files that belong together alike, such as a.nii.gz and a.npz"
        )
    return Matches(
        pairs, sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys()), clashes
    )


def clamp_suffixes(kind: ContainerKind) -> list[str]:
    """Return the suffixes of maps of clamped pixels."""
    return longest_first(VOLUME_SUFFIXES if kind == "volume" else RASTER_SUFFIXES | SCORE_SUFFIXES)


def longest_first(suffixes: Iterable[str]) -> list[str]:
    """Sort suffixes so that the first that fits a name is the longest."""
    return sorted(suffixes, key=lambda suffix: (-len(suffix), suffix))


def _join_modalities(
    volumes: dict[str, list[AnyPath]], stems: Iterable[str]
) -> dict[str, list[AnyPath]]:
    """Put the modalities CASE_0000 ... of scores CASE together, in their order."""
    parts: dict[str, list[tuple[str, AnyPath]]] = defaultdict(list)
    for stem, paths in volumes.items():
        found = _MODALITY.fullmatch(stem)
        if found and stem not in stems:
            parts[found[1]] += [(found[2], path) for path in paths]
    joined = {stem: [path for _, path in sorted(p)] for stem, p in parts.items() if stem in stems}
    used = {path for paths in joined.values() for path in paths}
    rest = {stem: paths for stem, paths in volumes.items() if not used.intersection(paths)}
    return {**joined, **rest}


def _results(kind: ContainerKind, folders: Outputs, stem: str, image: AnyPath) -> Outputs:
    if kind == "volume":
        labels = probs = ".nii.gz"
    else:
        raster = image.suffix.lower() in RASTER_SUFFIXES
        labels, probs = (".tif", ".tif") if raster else (".png", ".npy")
    return Outputs(
        folders.labels / f"{stem}{labels}",
        folders.probs and folders.probs / f"{stem}{probs}",
        folders.overlay and folders.overlay / f"{stem}.png",
    )


def refine_container(
    pair: Pair, settings: Settings, options: ContainerOptions
) -> ContainerRefinement:
    """Refine one volume or raster, from files to files."""
    images: list[Any] = [pair.image, *pair.more]
    outputs: Any = pair.outputs
    given: dict[str, Any] = {
        "probs": outputs.probs,
        "clamp": pair.clamp,
        "refining": settings.refining,
        "reading": settings.reading,
    }
    scores: Any = pair.scores
    if options.kind == "volume":
        volume = refine_volume(
            images, scores, outputs.labels, options=options.volume, ranges=options.ranges, **given
        )
        pixels, relabeled = volume.changed.pixels, volume.changed.relabeled
        kind, classes, size = volume.kind, len(volume.probs), volume.labels.shape
        seconds, engine, notes = volume.seconds, volume.engine, volume.notes
    else:
        tiles = refine_tiles(
            images, scores, outputs.labels, options=options.tiles, overlay=outputs.overlay, **given
        )
        pixels, relabeled = tiles.pixels, tiles.relabeled
        kind, classes, size = tiles.kind, tiles.classes, tiles.size
        seconds, engine, notes = tiles.seconds, tiles.engine, tiles.notes
    return ContainerRefinement(
        image=pair.image,
        scores=pair.scores,
        outputs=pair.outputs,
        kind=kind,
        classes=classes,
        size=size,
        pixels=pixels,
        relabeled=relabeled,
        seconds=seconds,
        engine=engine,
        notes=tuple(_note(text, pair) for text in notes),
    )


def _note(text: str, pair: Pair) -> Note:
    """Return a note about one file; those that differ only in numbers are reported once for all."""
    text = text.removeprefix(f"{pair.scores.name} ")
    return Note(f"{pair.stem}:", Remark(text, _VARYING.sub(" from a range of its own (", text)))
