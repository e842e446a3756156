"""Command-line options, declared from their definitions, and the end of the help."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Collection
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from crfrnn.io.locks import Shard

if TYPE_CHECKING:
    from crfrnn.io.options import Option

#: The numbers of a preset's kernels; each is an option, such as `--bilateral-position`.
KERNEL_NUMBERS = {
    ("bilateral", "position"): "spatial bandwidth of the appearance kernel",
    ("bilateral", "color"): "color bandwidth of the appearance kernel",
    ("bilateral", "weight"): "weight of the appearance kernel",
    ("gaussian", "position"): "bandwidth of the smoothness kernel",
    ("gaussian", "weight"): "weight of the smoothness kernel",
}

_HARM = """\
Wrong parameters do harm, and more harm to a better network. Mean IoU on 346
photographs of PASCAL VOC 2012 (reduced val), without a CRF and after 10 steps
of a preset, with symmetric normalization:
  network                    none   psa     crfasrnn  deeplab
  DeepLab-MobileNetV2 x1.0   74.42  70.65   74.47     76.02
  DeepLab-MobileNetV2 x0.5   67.97  63.09   66.96     68.96
Evaluate a few photographs of yours that have true masks before you refine the
rest; see crfrnn evaluate. Without such masks, --guard avoids most of the harm."""

_FOLDERS = """\
Folders: give the same command again to continue after an interruption; finished
files are skipped. A file is redone if its image, scores or model have changed,
or if one of its results is missing. The parameters are kept next to the results
(crfrnn-refine.json or crfrnn-segment.json); other parameters are refused
without --overwrite. A file that fails is reported and does not stop the rest;
the same command tries it again.

Exit codes: 0 after success, 1 if some files of a folder failed, 2 after a usage
or input error, 130 after Ctrl-C."""


def parse_shard(text: str) -> Shard:
    """Read "2/4"."""
    numbers = [int(part) if part.isdecimal() else 0 for part in text.split("/")]
    if len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1]:
        message = f"expected I/N, such as 2/4 for the second of four parts; got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return Shard(numbers[0], numbers[1])


def refuse_folder_options(args: argparse.Namespace, many: str) -> None:
    """Refuse options that share the work of `many` files if only one file is given."""
    shard: Shard = getattr(args, "shard", Shard())
    given = {
        "--on": getattr(args, "on", None),
        "--workers": None if args.workers == 1 else args.workers,
        "--shard": None if shard == Shard() else f"{shard.index}/{shard.count}",
    }
    for option, value in given.items():
        if value is not None:
            raise ValueError(f"{option} {value} is for {many}; {args.image} is a file")


def add_outputs(parser: argparse.ArgumentParser, path: Callable[[str], Any]) -> None:
    """Declare further results, which `path` reads the names of, and how to work on folders."""
    group = parser.add_argument_group("more results, and folders")
    add = group.add_argument
    add(
        "--probs",
        metavar="OUT.npy",
        type=path,
        help="also write probabilities (C, H, W); for folders, to a folder",
    )
    add_folder_outputs(group, path)
    add(
        "--workers",
        metavar="N",
        type=int,
        help="folders: number of files refined at once; they share the threads (default: one per "
        "thread, at most 8; on Ray: as many as the cluster has processors for)",
    )


def add_folder_outputs(
    group: argparse._ActionsContainer, path: Callable[[str], Any] = Path
) -> None:
    """Declare what every command that writes label maps has: the overlay, JSON, redoing."""
    add = group.add_argument
    add(
        "--overlay",
        metavar="OUT.png",
        type=path,
        help="also draw the labels over the photograph; for folders, to a folder",
    )
    add("--json", action="store_true", help="print the result as one JSON object")
    add(
        "--shard",
        metavar="I/N",
        type=parse_shard,
        default=Shard(),
        help="folders: do part I of N, to share the work among several jobs or machines",
    )
    add(
        "--overwrite",
        action="store_true",
        help="folders: redo finished files, even if they were made with other parameters",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Declare how to read SCORES, and what labels mean."""
    from crfrnn.io.options import ReadOptions
    from crfrnn.offline.options import RefineOptions

    group = parser.add_argument_group("reading SCORES")
    add_options(group, ReadOptions, about="scores")
    add_options(group, RefineOptions, about="scores")


def add_crf(parser: argparse.ArgumentParser) -> None:
    """Declare the parameters of the CRF."""
    from crfrnn.offline.options import RefineOptions

    group = parser.add_argument_group(
        "the CRF",
        "Defaults are the preset's. A bandwidth X is a standard deviation, in pixels\n"
        "(one number, or x,y) or in color units of 0..255 (one number, or r,g,b). A\n"
        "weight X is one number, or one number per class with commas between them.",
    )
    add_options(group, RefineOptions, about="crf")


def add_options(
    group: argparse._ActionsContainer,
    definition: type[Any],
    *,
    about: str | None = None,
    names: Collection[str] = (),
) -> None:
    """Declare the options that a dataclass defines.

    Args:
        group: the group to declare them in.
        definition: `ReadOptions` or `RefineOptions`.
        about: declare only the options about this; see `Option.about`.
        names: declare only the options of these names.
    """
    hints = get_type_hints(definition, include_extras=True)
    declared = {action.dest for action in group._actions}  # both define `confidence`
    for field in fields(definition):
        if not field.init or field.name in declared or (names and field.name not in names):
            continue
        kind, option = get_args(hints[field.name])
        if option.python_only or about not in (None, option.about):
            continue
        if field.name == "class_axis":
            _add_class_axis(group, option)
        elif field.name == "kernels":
            _add_kernel_numbers(group)
        else:
            _add_option(group, field, kind, option)


def _add_option(
    group: argparse._ActionsContainer, field: Field[Any], kind: Any, option: Option
) -> None:
    flag = f"--{field.name.replace('_', '-')}"
    text = option.help
    if kind is bool:
        group.add_argument(flag, action="store_true", help=text)
        return
    flags = [flag, "--classes"] if field.name == "num_classes" else [flag]
    if field.default is not None and "default" not in text:
        text = f"{text} (default {field.default})"
    group.add_argument(
        *flags,
        metavar=option.metavar,
        type=_PARSERS.get(field.name) or _plain_type(kind),
        choices=option.choices or None,
        default=field.default,
        help=text,
    )


def _plain_type(kind: Any) -> Any:
    """Return the type that parses an option: int for `int | None`, str for a Literal."""
    if isinstance(kind, type):
        return kind
    members = [member for member in get_args(kind) if member is not type(None)]
    return _plain_type(members[0]) if len(members) == 1 else str


def _add_class_axis(group: argparse._ActionsContainer, option: Option) -> None:
    """Add a flag per axis: `--channels-last` is shorter than `--class-axis last`."""
    axis = group.add_mutually_exclusive_group()
    for where in ("first", "last"):
        axis.add_argument(
            f"--channels-{where}",
            dest="class_axis",
            action="store_const",
            const=where,
            default="auto",
            help=option.help.format(where),
        )


def _numbers(text: str) -> float | tuple[float, ...]:
    """Read "3" or "3,5"."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        message = f"expected a number, or numbers with commas between them; got {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    return numbers[0] if len(numbers) == 1 else numbers


def _canvas(text: str) -> tuple[int, int]:
    """Read "513" or "640x480" (width x height) as (height, width)."""
    sides = [int(side) if side.isdecimal() else 0 for side in text.lower().split("x")]
    if len(sides) not in (1, 2) or min(sides) < 1:
        message = f"expected WIDTHxHEIGHT, or the side of a square, in pixels; got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return sides[-1], sides[0]  # of one side: that side twice


def _add_kernel_numbers(group: argparse._ActionsContainer) -> None:
    for (kernel, number), what in KERNEL_NUMBERS.items():
        group.add_argument(f"--{kernel}-{number}", metavar="X", type=_numbers, help=what)


#: Options that need more than their type to be parsed.
_PARSERS: dict[str, Callable[[str], Any]] = {"canvas": _canvas, "compatibility": Path}


def make_epilog() -> str:
    """Describe the CRF's parameters, folders and exit codes."""
    return f"{describe_crf()}\n\n{_FOLDERS}"


def describe_crf() -> str:
    """Describe the presets, and the harm that they can do."""
    return f"{describe_presets()}\n\n{_HARM}"


def describe_presets() -> str:
    """Describe the presets, three lines or more each."""
    from crfrnn.presets import PRESETS

    lines = ["presets: appearance position/color (weight), smoothness position (weight)"]
    for preset in PRESETS.values():
        numbers = [
            "/".join(f"{value:g}" for value in kernel.bandwidths().values())
            + f" ({kernel.weight:g})"
            for kernel in preset.kernels
        ]
        lines += [
            f"  {preset.name:<11} {', '.join(numbers)}; {_steps(preset.iterations)}, "
            f"normalization {preset.normalization}",
            _indent(f"for {preset.purpose}"),
            _indent(f"from {preset.source}"),
        ]
    return "\n".join(lines)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _indent(text: str) -> str:
    wrapper = textwrap.TextWrapper(80, break_on_hyphens=False)
    wrapper.initial_indent = wrapper.subsequent_indent = " " * 14
    return wrapper.fill(text)
