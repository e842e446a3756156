"""The options of rasters, volumes, annotations and large images, and which files ask for them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crfrnn.io.locks import Shard
from crfrnn.io.paths import Remote

from ._options import refuse_folder_options

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
#: Options of `crfrnn refine` that make no sense for some containers, and what to do instead.
_ELSEWHERE = {
    ("volume", "overlay"): "--overlay draws a picture, and {image} is a volume. Leave it out, and "
    "open {output} over {image} in a viewer of volumes",
    (
        "annotations",
        "clamp",
    ): "--clamp does not go with annotations, whose masks may overlap. Leave "
    "it out; for one photograph, refine(image, masks=..., clamp=...) in Python takes a map",
    ("annotations", "probs"): "--probs cannot be used with annotations; leave it out",
}
#: Options that name something about one file, where IMAGE is a folder.
_ONE_FILE = {
    "more": "--with names one file, and IMAGE is a folder. Name the modalities of CASE CASE_0000, "
    "CASE_0001 ... as nnU-Net does, or refine file by file in a loop of your shell",
    "offset": "--offset is for one volume, and IMAGE is a folder; refine file by file in a loop of "
    "your shell",
}
_FLAGS = {"more": "--with"}


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


def inputs_of(args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """Return the arguments that opening and refining a raster or volume have in common."""
    return {
        "image": [args.image, *(args.more or ())],
        "scores": args.scores,
        "clamp": args.clamp,
        "refining": settings.refining,
        "reading": settings.reading,
    }


def container_of(args: argparse.Namespace) -> str:
    """Return "volume", "annotations", "tiles", or "" for photographs as they are.

    Raises:
        ValueError: an option was given that does not go with it.
    """
    kind = _find(args)
    paths = (args.image, args.scores, args.output, args.probs, args.overlay, args.clamp)
    remote = [path for path in paths if isinstance(path, Remote)]
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
    folder = kind in ("volume", "tiles") and args.image.is_dir()
    if kind and args.on is not None:
        raise ValueError(
            f"--on {args.on} is for photographs; {args.image} with {args.scores} is refined as "
            f"{kind}. Leave it out{', and share the work with --shard I/N' if folder else ''}"
        )
    if kind and args.device != "cpu":
        raise ValueError(
            f"--device {args.device} is for photographs; {args.image} with {args.scores} is "
            f"refined as {kind}, on processors. Leave it out"
        )
    if kind and not folder:
        _refuse_shares(kind, args)
    if folder:
        for name, why in _ONE_FILE.items():
            if getattr(args, name):
                raise ValueError(why)
    for (container, name), why in _ELSEWHERE.items():
        if container == kind and getattr(args, name) is not None:
            raise ValueError(why.format(image=args.image, output=args.output))
    return kind


def _refuse_shares(kind: str, args: argparse.Namespace) -> None:
    """Refuse options that would do nothing: to share the work of one file, or --cog for a PNG."""
    if kind == "annotations":
        from ._folder import check_workers

        check_workers(args.workers)
        if args.shard != Shard():
            raise ValueError(
                f"--shard {args.shard.index}/{args.shard.count} does not go with annotations, "
                f"which are written to one file; leave it out, and give --workers N"
            )
    else:
        refuse_folder_options(args, "folders and manifests")
    if args.cog and not _is_raster(args.image):
        raise ValueError(
            f"--cog is for rasters; the result for {args.image} is a PNG. Leave it out"
        )


def check_no_container(args: argparse.Namespace) -> None:
    """Raise if an option was given that is for containers."""
    for name, (missing, _) in _OPTIONS.items():
        if getattr(args, name) != missing:
            flag = _FLAGS.get(name, f"--{name}")
            raise ValueError(f"{flag} does not go with --manifest, which names photographs")


def check_container_paths(kind: str, args: argparse.Namespace) -> None:
    """Raise if an output has a wrong suffix or would replace an input."""
    from crfrnn.containers.refine_tiles import tile_suffixes
    from crfrnn.jobs.pairs import Outputs, require_apart

    labels, probs, overlay = tile_suffixes(raster=_is_raster(args.image))
    if kind != "tiles":
        labels = probs = (".nii", ".nii.gz") if kind == "volume" else (".json",)
    if args.image.is_dir():
        overlay = ()
    for flag, path, suffixes in (
        ("--output", args.output, labels),
        ("--probs", args.probs, probs),
        ("--overlay", args.overlay, overlay),
    ):
        if path is not None and suffixes and not path.name.lower().endswith(suffixes):
            raise ValueError(f"{flag} must be a {' or '.join(suffixes)} file; got {path}")
    outputs = Outputs(args.output, args.probs, args.overlay)
    require_apart(outputs, {"an input": (args.image, args.scores, args.clamp, *(args.more or ()))})


def _is_raster(image: Path) -> bool:
    """Whether the result of an image in tiles is a GeoTIFF."""
    from crfrnn.jobs.containers import ONLY_RASTERS, TIFF_SUFFIXES

    return image.suffix.lower() in ONLY_RASTERS | TIFF_SUFFIXES


def _find(args: argparse.Namespace) -> str:
    from crfrnn.containers.volumes import is_volume
    from crfrnn.jobs.containers import ONLY_RASTERS, TIFF_SUFFIXES, folder_kind

    image, scores, output = args.image, args.scores, args.output
    if scores.suffix.lower() == ".json":
        return "annotations"
    asked = any(getattr(args, name) is not None for name in ("memory", "tile"))
    if isinstance(image, Path) and image.is_dir():
        asked = asked or args.cog or args.overlap is not None
        return folder_kind(image, scores) or ("tiles" if asked else "")
    if is_volume(image):
        return "volume"
    suffix = image.suffix.lower()
    is_raster = suffix in ONLY_RASTERS or (
        suffix in TIFF_SUFFIXES and output.suffix.lower() in TIFF_SUFFIXES
    )
    return "tiles" if asked or is_raster else ""


def _triple(text: str) -> tuple[int, ...]:
    """Read "10,20,0"."""
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"expected X,Y,Z in voxels, such as 10,20,0; got {text!r}")
    return tuple(map(int, numbers))
