"""Rasters, volumes, annotations and large images on the command line of `crfrnn refine`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from crfrnn.io.progress import Progress

from ._container_options import check_container_paths, inputs_of
from ._notes import say, tell

if TYPE_CHECKING:
    from crfrnn.jobs.containers import ContainerOptions
    from crfrnn.jobs.settings import Settings


def run_container(kind: str, args: argparse.Namespace, settings: Settings) -> int:
    """Refine volumes, annotations, or rasters and large images in tiles; returns the exit code."""
    if kind != "annotations" and args.image.is_dir():
        return _run_folder(kind, args, settings)
    check_container_paths(kind, args)
    if args.dry_run:
        from ._container_plans import tell_plan

        tell_plan(kind, args, settings, _options(kind, args))
        return 0
    if kind == "volume":
        return _run_volume(args, settings)
    if kind == "annotations":
        return _run_annotations(args, settings)
    return _run_tiles(args, settings)


def _run_folder(kind: str, args: argparse.Namespace, settings: Settings) -> int:
    from crfrnn.jobs.pairs import Pair

    from ._container_folder import run_container_folder
    from ._container_plans import tell_plan

    options = _options(kind, args)

    def show(pair: Pair, count: int) -> None:
        paths: dict[str, Any] = {
            "image": pair.image,
            "scores": pair.scores,
            "output": pair.outputs.labels,
            "probs": pair.outputs.probs,
            "overlay": pair.outputs.overlay,
            "clamp": pair.clamp,
            "more": list(pair.more),
        }
        of_first = argparse.Namespace(**{**vars(args), **paths})
        tell_plan(kind, of_first, settings, options, files=count)

    return run_container_folder(args, settings, options, show)


def _options(kind: str, args: argparse.Namespace) -> ContainerOptions:
    from crfrnn.containers.tile_job import TileOptions
    from crfrnn.containers.tiling import parse_bytes
    from crfrnn.containers.volume_scores import VolumeOptions
    from crfrnn.jobs.containers import ContainerOptions

    ranges = _ranges(args)
    if kind == "volume":
        volume = VolumeOptions(args.axes, args.offset, args.voxels)
        return ContainerOptions("volume", volume=volume, ranges=ranges)
    tiles = TileOptions(
        memory=None if args.memory is None else parse_bytes(args.memory),
        tile=args.tile,
        overlap=args.overlap,
        ranges=ranges,
        cloud_optimized=args.cog,
    )
    return ContainerOptions("tiles", tiles=tiles)


def _run_volume(args: argparse.Namespace, settings: Settings) -> int:
    from crfrnn.containers.refine_volume import refine_volume

    options = _options("volume", args)
    result = refine_volume(
        **inputs_of(args, settings),
        output=args.output,
        probs=args.probs,
        options=options.volume,
        ranges=options.ranges,
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
    from crfrnn.containers.refine_tiles import refine_tiles

    with _Bar("tiles") as bar:
        result = refine_tiles(
            **inputs_of(args, settings),
            output=args.output,
            probs=args.probs,
            options=_options("tiles", args).tiles,
            overlay=args.overlay,
            advance=bar.advance,
        )
    megapixels = result.size[0] * result.size[1] / 1e6
    tiles = "1 tile" if len(result.plan) == 1 else f"{len(result.plan)} tiles"
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
        f"({result.relabeled / max(result.pixels, 1):.1%}), {tiles} "
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
            overlay=args.overlay,
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
    missing = result.absent and args.image.is_dir()  # one photograph is chosen from many
    return 1 if result.failed or missing else 0


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
