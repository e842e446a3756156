"""Segment a photograph, or a folder of them, with a trained model.

MODEL is a directory that `crfrnn train` or the transformers library wrote, or
the name of a model on that library's hub as OWNER/NAME. A model with a CRF uses
its CRF; the scores of others are refined with the CRF that the options
describe. The result is a palette PNG of class ids.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import Parser
from ._import import add_import, import_modules
from ._options import (
    add_crf,
    add_folder_outputs,
    add_options,
    make_epilog,
    refuse_folder_options,
)


def add_arguments(parser: Parser) -> None:
    """Declare the options of `crfrnn segment`."""
    from crfrnn.io.options import ReadOptions

    parser.make_epilog = make_epilog
    add = parser.add_argument
    add("image", metavar="IMAGE", type=Path, help="a photograph, or a folder of them")
    add("--model", metavar="MODEL", required=True, help="see above")
    add(
        "-o",
        "--output",
        metavar="LABELS",
        type=Path,
        required=True,
        help="the .png, or the folder, to write",
    )
    add_folder_outputs(parser)
    add_import(parser)
    add("--fetch", action="store_true", help="let the transformers library download MODEL")
    add(
        "--no-crf",
        dest="crf",
        action="store_false",
        help="write the network's labels, without a CRF",
    )
    add_options(parser, ReadOptions, names=("apply_exif", "max_pixels"))
    add(
        "--workers",
        metavar="N",
        type=int,
        default=1,
        help="folders: photographs at a time (default 1)",
    )
    add_crf(parser)


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn segment`."""
    from crfrnn._extras import require_torch

    require_torch("crfrnn segment")
    from crfrnn.jobs.pairs import Outputs
    from crfrnn.jobs.survey import rehearse

    from . import _segment
    from ._file import check_inputs, check_outputs
    from ._model import open_model

    outputs = Outputs(args.output, None, args.overlay)
    settings = _segment.make_segment_settings(args)
    import_modules(args.imports)
    check_inputs(args.image)
    if not args.image.is_dir():
        refuse_folder_options(args, "folders")
        check_outputs(outputs, (args.image,))
    model = open_model(args.model, fetch=args.fetch)
    if settings.crf and not model.has_crf:
        rehearse("logits", model.num_classes, settings.refining)
    run = _segment.run_folder if args.image.is_dir() else _segment.run_file
    return run(args, outputs, settings, model)
