"""The options of `crfrnn refine`, and the rest of its help."""

from __future__ import annotations

import argparse
from pathlib import Path

_HARM = """\
The wrong parameters do harm, the more so the better the network. Mean IoU on 346 photographs of
PASCAL VOC 2012 (reduced val) before and after 10 steps, symmetric normalization:
  network                    none   psa     crfasrnn  deeplab
  DeepLab-MobileNetV2 x1.0   74.42  70.65   74.47     76.02
  DeepLab-MobileNetV2 x0.5   67.97  63.09   66.96     68.96
Compare with the truth on a few photographs of yours before you refine the rest."""

_FOLDERS = """\
Folders: finished files are skipped when the command is given again, so an interrupted run goes on
where it stopped; a file is redone when its image or scores are newer. The parameters are kept in
crfrnn-refine.json beside the results, and other parameters are refused without --overwrite. Files
that fail are told at the end and do not stop the rest; the exit code is then 1. It is 2 after a
usage or input error, 130 after Ctrl-C."""


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
    group = parser.add_argument_group("reading SCORES")
    add = group.add_argument
    add(
        "--kind",
        choices=("auto", "logits", "probs", "labels", "mask"),
        default="auto",
        help="what SCORES holds; auto (default) guesses and tells on stderr: floats that sum to "
        "one are probs, others logits; palette images are labels; 8-bit grey is labels if all "
        "values are below 64 or 255, else a mask",
    )
    axis = group.add_mutually_exclusive_group()
    for where in ("first", "last"):
        axis.add_argument(
            f"--channels-{where}",
            dest="class_axis",
            action="store_const",
            const=where,
            default="auto",
            help=f"the {where} axis of SCORES holds the classes (default: the axis that leaves the "
            "size of the image, else the smaller of the first and the last)",
        )
    add(
        "--canvas",
        metavar="WxH",
        type=_canvas,
        help="the network saw a padded canvas of this size (or side), the image at its top left",
    )
    add(
        "--align-corners",
        action="store_true",
        help="upsample so that corner cells lie on corner pixels (TensorFlow's DeepLab)",
    )
    add(
        "--apply-exif",
        action="store_true",
        help="turn IMAGE as its EXIF orientation says; default: the pixels as stored, since that "
        "is what networks are fed by Pillow",
    )
    add(
        "--confidence",
        metavar="P",
        type=float,
        default=0.7,
        help="probability that a label, or a pixel of a mask of only 0 and 255, is right "
        "(default 0.7)",
    )
    add("--num-classes", metavar="C", type=int, help="labels: default the largest id + 1")
    add(
        "--ignore-index",
        metavar="ID",
        type=int,
        default=255,
        help="labels: the id of unknown pixels, which the CRF fills (default 255)",
    )


def add_crf(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "the CRF",
        "Default: the preset's numbers. Bandwidths are standard deviations, in pixels (position,\n"
        "X or X,Y) or of colors on 0..255 (one, or R,G,B). A weight is one number or one a class.",
    )
    add = group.add_argument
    add(
        "--preset",
        metavar="NAME",
        default="deeplab",
        help="see below, or a file that crfrnn tune wrote (default deeplab)",
    )
    for name, what in (
        ("bilateral-position", "reach of the appearance kernel"),
        ("bilateral-color", "how alike its colors must be"),
        ("bilateral-weight", "its weight"),
        ("gaussian-position", "reach of the smoothness kernel"),
        ("gaussian-weight", "its weight"),
    ):
        add(f"--{name}", metavar="X", type=_numbers, help=what)
    add(
        "--compatibility",
        metavar="FILE.npy",
        type=Path,
        help="(C, C) penalties for label c beside label d (default Potts)",
    )
    add("--iterations", metavar="T", type=int, help="mean-field steps")
    add("--normalization", choices=("symmetric", "after", "before", "none"))
    add(
        "--filter",
        choices=("lattice", "exact"),
        default="lattice",
        help="exact: the Gaussian sum itself, slow (default lattice)",
    )
    add(
        "--tol",
        metavar="X",
        type=float,
        help="stop an image when its marginals change by less than this on average, such as 0.001 "
        "(default: never)",
    )
    add(
        "--precision",
        choices=("full", "half"),
        default="full",
        help="half: the lattice's values as float16, a little faster with many classes "
        "(default full)",
    )
    add("--engine", metavar="NAME", help="reference, cpu or triton (default: the fastest)")


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


def epilog() -> str:
    """Describe the presets, the harm they can do, and folders."""
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
            f"              for {preset.purpose}",
            f"              from {preset.source}",
        ]
    return "\n".join([*lines, "", _HARM, "", _FOLDERS])
