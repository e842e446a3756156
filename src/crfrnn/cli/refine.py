"""Sharpen the scores, labels or mask of a photograph with a fully connected CRF.

IMAGE and SCORES are two files, or two folders whose files are matched by stem.
SCORES is
  .npy or .npz   logits or probabilities, (C, h, w) or (h, w, C), any float type
                 and resolution (upsampled bilinearly to the image); or a
                 foreground map (h, w); or integer labels. An .npz holds one
                 array, or one called logits, probs, labels, mask or scores, or
                 unsigned bytes `logits` with a `scale` and a `zero`
  an image       labels (palette, or gray class ids, 255 = unknown) or a mask
                 (0..255)
The result is a palette PNG of class ids: in the palette of SCORES if it has
one, black and white for a mask, in VOC's colors otherwise; 16-bit gray above
256 classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import Parser
from ._options import add_crf, add_outputs, add_reading, epilog


def add_arguments(parser: Parser) -> None:
    """Declare the options of `crfrnn refine`."""
    parser.make_epilog = epilog
    parser.add_argument("image", metavar="IMAGE", type=Path, help="a photograph, or a folder")
    parser.add_argument("scores", metavar="SCORES", type=Path, help="its scores, or a folder")
    parser.add_argument(
        "-o",
        "--output",
        metavar="LABELS",
        type=Path,
        required=True,
        help="the .png to write, or a folder",
    )
    add_outputs(parser)
    add_reading(parser)
    add_crf(parser)


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn refine`."""
    from ._job import Outputs
    from ._settings import make_settings

    settings = make_settings(args)
    outputs = Outputs(args.output, args.probs, args.overlay)
    if args.image.is_dir() != args.scores.is_dir():
        raise ValueError(
            f"IMAGE and SCORES must be two files or two folders; got {args.image} and {args.scores}"
        )
    if args.image.is_dir():
        from ._folder import run_folder

        return run_folder(args, outputs, settings)
    from ._file import run_file

    return run_file(args, outputs, settings)
