"""Options as the command line spells them: those of their definitions, and the rest of its help."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Collection
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

if TYPE_CHECKING:
    from crfrnn.io.options import Option

#: The numbers of a preset's kernels, each an option: `--bilateral-position`.
KERNEL_NUMBERS = {
    ("bilateral", "position"): "reach of the appearance kernel",
    ("bilateral", "color"): "how alike its colors must be",
    ("bilateral", "weight"): "its weight",
    ("gaussian", "position"): "reach of the smoothness kernel",
    ("gaussian", "weight"): "its weight",
}

_HARM = """\
The wrong parameters do harm, the more so the better the network. Mean IoU on
346 photographs of PASCAL VOC 2012 (reduced val) before and after 10 steps,
symmetric normalization:
  network                    none   psa     crfasrnn  deeplab
  DeepLab-MobileNetV2 x1.0   74.42  70.65   74.47     76.02
  DeepLab-MobileNetV2 x0.5   67.97  63.09   66.96     68.96
Compare with the truth on a few photographs of yours before you refine the
rest."""

_FOLDERS = """\
Folders: finished files are skipped when the command is given again, so an
interrupted run goes on where it stopped; a file is redone when its image or
scores are newer. The parameters are kept in crfrnn-refine.json beside the
results, and other parameters are refused without --overwrite. Files that fail
are reported at the end and do not stop the rest; the exit code is then 1. It is
2 after a usage or input error, 130 after Ctrl-C."""


def add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("more results")
    add = group.add_argument
    add("--probs", metavar="OUT.npy", type=Path, help="also write the probabilities (C, H, W)")
    add("--overlay", metavar="OUT.png", type=Path, help="also draw the labels on the photograph")
    add("--json", action="store_true", help="print one JSON object on stdout")
    add("--overwrite", action="store_true", help="folders: redo what is there")
    add(
        "--workers",
        metavar="N",
        type=int,
        help="folders: files at a time, sharing torch's threads (default: one a thread, at most 8)",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Declare how to read SCORES, and what labels among them mean."""
    from crfrnn.io.options import ReadOptions
    from crfrnn.offline.options import RefineOptions

    group = parser.add_argument_group("reading SCORES")
    add_options(group, ReadOptions, about="scores")
    add_options(group, RefineOptions, about="scores")


def add_crf(parser: argparse.ArgumentParser) -> None:
    """Declare how to refine."""
    from crfrnn.offline.options import RefineOptions

    group = parser.add_argument_group(
        "the CRF",
        "Default: the preset's numbers. Bandwidths are standard deviations, in pixels\n"
        "(position, X or X,Y) or of colors on 0..255 (one, or R,G,B). A weight is one\n"
        "number, or one per class.",
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
        group: where to.
        definition: `ReadOptions` or `RefineOptions`.
        about: only the options about this; see `Option.about`.
        names: only these.
    """
    hints = get_type_hints(definition, include_extras=True)
    declared = {action.dest for action in group._actions}  # by both definitions: once is enough
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
    if field.default is not None and "default" not in text:
        text = f"{text} (default {field.default})"
    group.add_argument(
        flag,
        metavar=option.metavar,
        type=_PARSERS.get(field.name) or _plain_type(kind),
        choices=option.choices or None,
        default=field.default,
        help=text,
    )


def _plain_type(kind: Any) -> Any:
    """The type that parses an option: int for `int | None`, str for a Literal."""
    if isinstance(kind, type):
        return kind
    members = [member for member in get_args(kind) if member is not type(None)]
    return members[0] if len(members) == 1 else str


def _add_class_axis(group: argparse._ActionsContainer, option: Option) -> None:
    """One flag for each value, which is shorter to type."""
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
        message = f"expected a number, or several with commas between; got {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    return numbers[0] if len(numbers) == 1 else numbers


def _canvas(text: str) -> tuple[int, int]:
    """Read "513" or "640x480" (width x height) as (height, width)."""
    sides = [int(side) if side.isdecimal() else 0 for side in text.lower().split("x")]
    if len(sides) not in (1, 2) or min(sides) < 1:
        message = f"expected WIDTHxHEIGHT or one side in pixels; got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return sides[-1], sides[0]


def _add_kernel_numbers(group: argparse._ActionsContainer) -> None:
    for (kernel, number), what in KERNEL_NUMBERS.items():
        group.add_argument(f"--{kernel}-{number}", metavar="X", type=_numbers, help=what)


#: Options whose text needs more than its type to be understood.
_PARSERS: dict[str, Callable[[str], Any]] = {"canvas": _canvas, "compatibility": Path}


def epilog() -> str:
    """Describe the presets, the harm they can do, and folders."""
    return "\n".join([describe_presets(), "", _HARM, "", _FOLDERS])


def describe_presets() -> str:
    """Describe the presets, three lines each."""
    from crfrnn.presets import PRESETS

    lines = ["presets (bilateral position/color w weight; gaussian position w weight; steps):"]
    for preset in PRESETS.values():
        numbers = [
            "/".join(f"{value:g}" for value in kernel.bandwidths().values())
            + f" w {kernel.weight:g}"
            for kernel in preset.kernels
        ]
        lines += [
            f"  {preset.name:<11} {'; '.join(numbers)}; steps {preset.iterations}, "
            f"normalization {preset.normalization}",
            _indented(f"for {preset.purpose}"),
            _indented(f"from {preset.source}"),
        ]
    return "\n".join(lines)


def _indented(text: str) -> str:
    wrapper = textwrap.TextWrapper(80, break_on_hyphens=False)
    wrapper.initial_indent = wrapper.subsequent_indent = " " * 14
    return wrapper.fill(text)
