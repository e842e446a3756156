"""Sharpen the scores, labels or mask of a photograph with a fully connected CRF.

IMAGE and SCORES are two files, or two folders whose files are matched by stem.
SCORES is
  .npy or .npz   logits or probabilities (C, h, w) or (h, w, C), of any float
                 type and resolution (upsampled bilinearly to the image); or a
                 foreground map (h, w); or integer labels (H, W). If an
                 .npz holds several arrays, name the one to use logits, probs,
                 labels, mask or scores. Logits may be unsigned bytes with a
                 `scale` and a `zero`: (logits - zero) * scale
  an image       labels (palette, or gray class ids, 255 = unknown) or a mask
                 (0..255)
The result is a PNG of class ids. It has the palette of SCORES if there is one;
else a mask is black and white, and labels have VOC's colors. Above 256 classes,
it is 16-bit gray without a palette.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import Parser
from ._options import add_crf, add_outputs, add_reading, make_epilog


def add_arguments(parser: Parser) -> None:
    """Declare the options of `crfrnn refine`."""
    parser.make_epilog = make_epilog
    parser.add_argument(
        "image", metavar="IMAGE", type=Path, help="a photograph, or a folder of them"
    )
    parser.add_argument(
        "scores", metavar="SCORES", type=Path, help="its scores, or a folder of them"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="LABELS",
        type=Path,
        required=True,
        help="the .png, or the folder, to write",
    )
    add_outputs(parser)
    add_reading(parser)
    add_crf(parser)
    parser.add_argument(
        "--clamp",
        metavar="CLAMP",
        type=Path,
        help="a map of pixels to keep, such as scribbles, or a folder of maps with the stems of "
        "the images: an image or array like a label map, with the class of each clamped pixel and "
        "255 for free ones; or a .npy of bools, True for pixels that keep their scores",
    )


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn refine`."""
    from ._clamp import check_clamp
    from ._job import Outputs
    from ._settings import make_settings

    settings = make_settings(args)
    check_clamp(args)
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
