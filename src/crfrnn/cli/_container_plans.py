"""`--dry-run` for volumes, annotations, rasters and large images: what would be done."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from crfrnn.containers.source import Source
from crfrnn.io.memory import spell_bytes
from crfrnn.io.notes import spell_size
from crfrnn.jobs.containers import ContainerOptions
from crfrnn.jobs.settings import Settings

from ._container_options import inputs_of
from ._notes import tell


def tell_plan(
    kind: str,
    args: argparse.Namespace,
    settings: Settings,
    options: ContainerOptions,
    *,
    files: int = 1,
) -> None:
    """Print what would be read and written, and refine nothing.

    Args:
        kind: "volume", "annotations" or "tiles".
        args: of the command line, with the paths of one file.
        settings: how to read and refine.
        options: of the container.
        files: how many more there are like it, with it.
    """
    planned = {"volume": _plan_volume, "annotations": _plan_annotations, "tiles": _plan_tiles}
    plan, lines = planned[kind](args, settings, options)
    if files > 1:
        plan["files"] = files
        lines = [f"files: {files}, of which the first, {args.image.name}:", *lines]
    if args.json:
        tell(json.dumps({**plan, "parameters": settings.parameters()}, indent=2, default=str))
    else:
        tell(lines)


def _plan_tiles(
    args: argparse.Namespace, settings: Settings, options: ContainerOptions
) -> tuple[dict[str, Any], list[str]]:
    from crfrnn.containers.tile_job import open_tiles
    from crfrnn.containers.tile_store import finished, tiles_folder

    job = open_tiles(
        **inputs_of(args, settings),
        options=options.tiles,
    )
    earlier = finished(tiles_folder(args.output), job.plan, job.origin(args.probs))
    plan, done = (job.plan, set()) if earlier is None else earlier
    pixels = job.source.size[0] * job.source.size[1]
    outputs = {str(args.output): pixels * job.label_type.itemsize}
    if args.probs is not None:
        outputs[str(args.probs)] = pixels * job.classes * 4
    values = {
        "image": _describe(job.source),
        "scores": {**_describe(job.given.source), "kind": job.given.kind, "classes": job.classes},
        "clamp": args.clamp,
        "tiles": len(plan),
        "largest_tile": plan.most_pixels(),
        "overlap": plan.overlap,
        "finished": len(done),
        "memory": job.memory,
        "outputs": outputs,
        "notes": list(job.notes),
    }
    height, width = job.source.size
    lines = [
        f"image: {spell_size((height, width))} (height x width), {_channels(job.source)}",
        f"scores: {job.given.kind} of {job.classes} classes, {job.given.source.dtype}",
        *_clamped(args),
        *(f"note: {note}" for note in job.notes),
        f"tiles: {len(plan)}, of at most {plan.most_pixels() / 1e6:.2f} megapixels with an overlap "
        f"of {plan.overlap} pixels; {len(done)} already there",
        f"memory: about {spell_bytes(job.memory)} at most, for the whole process",
        *_written(outputs),
        *([f"writes: {args.overlay}, a picture"] if args.overlay is not None else []),
    ]
    return values, lines


def _plan_volume(
    args: argparse.Namespace, settings: Settings, options: ContainerOptions
) -> tuple[dict[str, Any], list[str]]:
    from crfrnn.containers.refine_volume import label_type, open_volume

    job = open_volume(
        **inputs_of(args, settings),
        options=options.volume,
        ranges=options.ranges,
    )
    depth, height, width = job.source.size
    voxels = depth * height * width
    outputs = {str(args.output): voxels * label_type(job.classes).itemsize}
    if args.probs is not None:
        outputs[str(args.probs)] = voxels * job.classes * 4
    kernels = [kernel.to_dict() for kernel in job.refining.numbers.kernels]
    values = {
        "image": _describe(job.source),
        "kind": job.given.scores.kind,
        "classes": job.classes,
        "box": [(part.start, part.stop) for part in job.given.box],
        "kernels_in_voxels": kernels,
        "clamp": args.clamp,
        "outputs": outputs,
        "notes": list(job.notes),
    }
    box = " x ".join(f"{part.start}..{part.stop}" for part in job.given.box[::-1])
    whole = job.given.box == job.source.everything()
    lines = [
        f"image: {width} x {height} x {depth} (x, y, z), {_channels(job.source)}",
        f"scores: {job.given.scores.kind} of {job.classes} classes, of "
        f"{'the whole volume' if whole else f'the box {box} (x, y, z)'}",
        *_clamped(args),
        *(f"note: {note}" for note in job.notes),
        *_written(outputs),
    ]
    return values, lines


def _plan_annotations(
    args: argparse.Namespace, settings: Settings, options: ContainerOptions
) -> tuple[dict[str, Any], list[str]]:
    from crfrnn.containers.refine_annotations import find_annotations

    found = find_annotations(args.image, args.scores)
    lines = [
        f"annotations: {found.annotations}, of which {found.masks} are refined if they are not "
        "empty; the others stay as they are",
        f"photographs: {found.photographs} with annotations",
    ]
    if found.absent:
        lines.append(
            f"note: {len(found.absent)} images have no photograph in {args.image}, such as "
            f"{found.absent[0]}"
        )
    lines.extend(f"note: {name}: {why}" for name, why in found.unclear.items())
    lines.append(f"writes: {args.output}")
    if args.overlay is not None:
        where = args.overlay if args.image.is_file() else f"{args.overlay}, a picture for each"
        lines.append(f"writes: {where}")
    return {**vars(found), "outputs": [str(args.output)]}, lines


def _describe(source: Source) -> dict[str, Any]:
    return {
        "files": [str(path) for path in source.files()],
        "size": source.size,
        "channels": source.channels,
        "dtype": str(source.dtype),
    }


def _channels(source: Source) -> str:
    return f"{source.channels} channel{'s' * (source.channels != 1)} of {source.dtype}"


def _clamped(args: argparse.Namespace) -> list[str]:
    return [] if args.clamp is None else [f"clamp: {args.clamp}"]


def _written(outputs: dict[str, int]) -> list[str]:
    """Name the results and their bytes; a file that is there will be replaced."""
    return [
        f"writes: {path}, {spell_bytes(count)} before compression"
        f"{', in place of the file that is there' * Path(path).exists()}"
        for path, count in outputs.items()
    ]
