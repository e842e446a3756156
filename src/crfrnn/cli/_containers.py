"""Rasters, volumes, annotations and large images on the command line of `crfrnn refine`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crfrnn.io.paths import Remote
from crfrnn.io.progress import Progress

from ._notes import say, tell

if TYPE_CHECKING:
    from crfrnn.jobs.settings import Settings

#: The options of this module with the value that stands for "not given", and where each counts.
_OPTIONS: dict[str, tuple[Any, frozenset[str]]] = {
    "more": (None, frozenset({"volume", "tiles"})),
    "range": (None, frozenset({"volume", "tiles"})),
    "memory": (None, frozenset({"tiles"})),
    "tile": (None, frozenset({"tiles"})),
    "overlap": (None, frozenset({"tiles"})),
    "cog": (False, frozenset({"tiles"})),
    "axes": (None, frozenset({"volume"})),
    "offset": (None, frozenset({"volume"})),
    "voxels": (False, frozenset({"volume"})),
}
#: Options of `crfrnn refine` that its other containers lack, with the value for "not given".
_ELSEWHERE = {"overlay": None, "clamp": None, "dry_run": False, "on": None}
_FLAGS = {"more": "--with", "dry_run": "--dry-run"}
#: Rasters that no other reader takes.
_ONLY_RASTERS = frozenset({".jp2", ".img", ".vrt"})
_TIFF = frozenset({".tif", ".tiff"})


def add_containers(parser: argparse.ArgumentParser) -> None:
    """Declare the options of rasters, volumes and large images."""
    group = parser.add_argument_group("rasters, volumes and large images")
    add = group.add_argument
    add(
        "--with",
        dest="more",
        metavar="FILE",
        type=Path,
        action="append",
        help="a further raster or volume on the grid of IMAGE, whose channels join those of IMAGE; "
        "repeat for more",
    )
    add(
        "--range",
        metavar="LOW..HIGH",
        help="values of IMAGE that become 0..255, or percentiles such as 2%%..98%%; one range, or "
        "one per channel with commas (default: bytes as they are; others 1%%..99%% of each)",
    )
    add(
        "--memory",
        metavar="SIZE",
        help="refine in tiles, so that the process takes no more memory than this, such as 4G "
        "(default for rasters: half of the machine's)",
    )
    add("--tile", metavar="N", type=int, help="refine in tiles of at most N pixels along each side")
    add(
        "--overlap",
        metavar="N",
        type=int,
        help="overlap of the tiles, in pixels (default: 4 times the largest bandwidth)",
    )
    add("--cog", action="store_true", help="write a cloud-optimized GeoTIFF")
    add(
        "--axes",
        choices=("xyz", "zyx"),
        help="order of the axes of an array of SCORES: nibabel's (xyz), or SimpleITK's and "
        "nnU-Net's (zyx) (default: what fits the size of IMAGE)",
    )
    add(
        "--offset",
        metavar="X,Y,Z",
        type=_triple,
        help="if SCORES cover only a part of IMAGE: the voxel, counted from 0, where the part "
        "begins (default: found for nnU-Net's)",
    )
    add(
        "--voxels",
        action="store_true",
        help="volumes: bandwidths of positions are in voxels, not in millimeters",
    )


def container_of(args: argparse.Namespace) -> str:
    """Return "volume", "annotations", "tiles", or "" for photographs as they are.

    Raises:
        ValueError: an option was given that does not go with it.
    """
    kind = _find(args)
    remote = [path for path in (args.image, args.scores, args.output) if isinstance(path, Remote)]
    if kind and remote:
        raise ValueError(
            f"{remote[0]}: {kind} are read from and written to local files; copy them first"
        )
    for name, (missing, where) in _OPTIONS.items():
        if getattr(args, name) != missing and kind not in where:
            flag = _FLAGS.get(name, f"--{name}")
            raise ValueError(
                f"{flag} is for {' and '.join(sorted(where))}; {args.image} with {args.scores} "
                f"is {kind or 'a folder or a photograph'}. Leave it out"
            )
    for name, missing in _ELSEWHERE.items() if kind else ():
        if getattr(args, name) != missing:
            raise ValueError(
                f"{_FLAGS.get(name, f'--{name}')} is for photographs and folders of them; "
                f"{args.image} with {args.scores} is refined as {kind}. Leave it out"
            )
    return kind


def check_no_container(args: argparse.Namespace) -> None:
    """Raise if an option was given that is for containers."""
    for name, (missing, _) in _OPTIONS.items():
        if getattr(args, name) != missing:
            flag = _FLAGS.get(name, f"--{name}")
            raise ValueError(f"{flag} does not go with --manifest, which names photographs")


def run_container(kind: str, args: argparse.Namespace, settings: Settings) -> int:
    """Refine a volume, annotations, or a raster or large image in tiles; returns the exit code."""
    _check_paths(kind, args)
    if kind == "volume":
        return _run_volume(args, settings)
    if kind == "annotations":
        return _run_annotations(args, settings)
    return _run_tiles(args, settings)


def _find(args: argparse.Namespace) -> str:
    image, scores, output = args.image, args.scores, args.output
    if image.name.lower().endswith((".nii", ".nii.gz")):
        return "volume"
    if scores.suffix.lower() == ".json":
        return "annotations"
    if isinstance(image, Path) and image.is_dir():
        return ""
    asked = any(getattr(args, name) is not None for name in ("memory", "tile"))
    suffix = image.suffix.lower()
    is_raster = suffix in _ONLY_RASTERS or (suffix in _TIFF and output.suffix.lower() in _TIFF)
    return "tiles" if asked or is_raster else ""


def _check_paths(kind: str, args: argparse.Namespace) -> None:
    """Raise if an output has a wrong suffix or would replace an input."""
    raster = kind == "tiles" and args.image.suffix.lower() in _ONLY_RASTERS | _TIFF
    results: dict[str, tuple[str, ...]] = {
        "volume": (".nii", ".nii.gz"),
        "annotations": (".json",),
        "tiles": (".tif", ".tiff") if raster else (".png",),
    }
    probs = {"volume": results["volume"], "annotations": ()}.get(
        kind, results["tiles"] if raster else (".npy",)
    )
    taken = {path.resolve(): "an input" for path in (args.image, args.scores, *(args.more or ()))}
    for flag, path, suffixes in (
        ("--output", args.output, results[kind]),
        ("--probs", args.probs, probs),
    ):
        if path is None:
            continue
        if not suffixes:
            raise ValueError(f"{flag} cannot be used with {kind}; leave it out")
        if not path.name.lower().endswith(suffixes):
            raise ValueError(f"{flag} must be a {' or '.join(suffixes)} file; got {path}")
        if path.resolve() in taken:
            raise ValueError(f"{path} is already {taken[path.resolve()]}; write elsewhere")
        taken[path.resolve()] = f"the result of {flag}"


def _run_volume(args: argparse.Namespace, settings: Settings) -> int:
    from crfrnn.containers.refine_volume import refine_volume
    from crfrnn.containers.volume_scores import VolumeOptions

    result = refine_volume(
        [args.image, *(args.more or ())],
        args.scores,
        args.output,
        probs=args.probs,
        refining=settings.refining,
        reading=settings.reading,
        options=VolumeOptions(args.axes, args.offset, args.voxels),
        ranges=_ranges(args),
    )
    changed = result.changed
    _report(
        args,
        settings,
        result.notes,
        {
            **vars(changed),
            "kind": result.kind,
            "classes": len(result.probs),
            "size": result.labels.shape,
            "box": [(part.start, part.stop) for part in result.box],
            "kernels_in_voxels": [kernel.to_dict() for kernel in result.kernels],
            "seconds": result.seconds,
            "engine": result.engine,
        },
        f"{changed.relabeled} of {changed.pixels} voxels relabeled "
        f"({changed.relabeled / max(changed.pixels, 1):.1%}), in {result.seconds:.2f} s, "
        f"{result.engine} engine",
    )
    return 0


def _run_tiles(args: argparse.Namespace, settings: Settings) -> int:
    from crfrnn.containers.refine_tiles import TileOptions, refine_tiles
    from crfrnn.containers.tiling import parse_bytes

    options = TileOptions(
        memory=None if args.memory is None else parse_bytes(args.memory),
        tile=args.tile,
        overlap=args.overlap,
        ranges=_ranges(args),
        cloud_optimized=args.cog,
    )
    with _Bar("tiles") as bar:
        result = refine_tiles(
            [args.image, *(args.more or ())],
            args.scores,
            args.output,
            probs=args.probs,
            refining=settings.refining,
            reading=settings.reading,
            options=options,
            advance=bar.advance,
        )
    megapixels = result.size[0] * result.size[1] / 1e6
    _report(
        args,
        settings,
        result.notes,
        {
            "pixels": result.pixels,
            "relabeled": result.relabeled,
            "kind": result.kind,
            "classes": result.classes,
            "size": result.size,
            "tiles": len(result.plan),
            "overlap": result.plan.overlap,
            "resumed": result.resumed,
            "seconds": result.seconds,
            "engine": result.engine,
        },
        f"{result.relabeled} of {result.pixels} pixels relabeled "
        f"({result.relabeled / max(result.pixels, 1):.1%}), {len(result.plan)} tiles "
        f"({result.resumed} already there), in {result.seconds:.2f} s for {megapixels:.1f} "
        "megapixels",
    )
    return 0


def _run_annotations(args: argparse.Namespace, settings: Settings) -> int:
    from crfrnn.containers.refine_annotations import refine_annotations

    with _Bar("images") as bar:
        result = refine_annotations(
            args.image,
            args.scores,
            args.output,
            refining=settings.refining,
            reading=settings.reading,
            workers=args.workers,
            advance=bar.advance,
        )
    notes = []
    if result.absent:
        notes.append(
            f"{len(result.absent)} images have no photograph in {args.image}, such as "
            f"{result.absent[0]}; their annotations stay as they were"
        )
    for name, why in result.failed.items():
        say(f"crfrnn refine: failed: {name}: {why}")
    _report(
        args,
        settings,
        notes,
        vars(result),
        f"{result.masks} masks of {result.images} photographs refined "
        f"({result.resumed} photographs already done, {len(result.failed)} failed), "
        f"{result.relabeled:.1%} of their area relabeled, in {result.seconds:.2f} s",
    )
    return 1 if result.failed else 0


def _report(
    args: argparse.Namespace,
    settings: Settings,
    notes: Any,
    values: dict[str, Any],
    line: str,
) -> None:
    for note in notes:
        say(f"crfrnn refine: note: {note}")
    if args.json:
        report = {**values, "notes": list(notes), "parameters": settings.parameters()}
        tell(json.dumps(report, indent=2, default=str))
    else:
        tell([f"{args.output}: {line}"])


class _Bar:
    """A progress bar whose length is known with the first step."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._progress: Progress | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._progress is not None:
            self._progress.__exit__(*error)

    def advance(self, done: int, total: int) -> None:
        """Show how many of all are done."""
        if self._progress is None:
            self._progress = Progress("refining", total, self.unit, done=done - 1)
            self._progress.__enter__()
        self._progress.update(done)


def _ranges(args: argparse.Namespace) -> Any:
    from crfrnn.containers.scaling import parse_ranges

    return () if args.range is None else parse_ranges(args.range)


def _triple(text: str) -> tuple[int, ...]:
    """Read "10,20,0"."""
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"expected X,Y,Z in voxels, such as 10,20,0; got {text!r}")
    return tuple(map(int, numbers))
