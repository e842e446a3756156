"""Compare predictions with ground-truth masks, before and after a CRF.

SOURCE is one of
  a folder of label images    <name>.png, palette or gray class ids; give two
                              folders, before and after, to compare them
  a folder of scores          <name>.npy or .npz, as `crfrnn refine` reads them
  a .npz of many images       `ids` (N,), and `logits` or `probs`, (N, h, w, C)
                              or (N, C, h, w)
  a model's directory         of `crfrnn train`, or of the transformers library
If SOURCE holds scores, or is a model without a CRF, its scores are also refined
with the CRF that the options describe. The table shows the results before and
after, and a verdict says whether the CRF did harm.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from . import Parser
from ._data import DATA_HELP, add_data, open_data, truth_lines
from ._import import add_import, import_modules
from ._notes import say, tell
from ._options import add_crf, add_reading, describe_crf

if TYPE_CHECKING:
    from crfrnn.data import MaskedImages
    from crfrnn.evaluation.evaluate import Evaluation, Predict

    from ._methods import Methods


_PICTURES = (".png", ".jpg", ".jpeg")


def add_arguments(parser: Parser) -> None:
    """Declare the options of `crfrnn evaluate`."""
    parser.make_epilog = lambda: f"{DATA_HELP}\n\n{describe_crf()}"
    add = parser.add_argument
    add("source", metavar="SOURCE", type=Path, nargs="+", help="what to compare; see above")
    add("-o", "--output", metavar="OUT.json", type=Path, help="write all numbers to this file")
    add(
        "--figure",
        metavar="OUT.png",
        type=Path,
        help="draw the images with the best, the median and the worst change in mean IoU",
    )
    add("--json", action="store_true", help="print JSON instead of tables")
    add_import(parser)
    add("--no-crf", dest="refine", action="store_false", help="do not refine SOURCE")
    add_data(parser)
    group = parser.add_argument_group("measures")
    add = group.add_argument
    add(
        "--widths",
        metavar="W,W..",
        type=_widths,
        default=(1, 3, 5, 10),
        help="trimap widths in pixels (default 1,3,5,10)",
    )
    add("--resamples", metavar="N", type=int, default=1000, help="bootstrap samples (default 1000)")
    add("--seed", metavar="N", type=int, default=0, help="bootstrap seed (default 0)")
    add_reading(parser)
    add_crf(parser)


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn evaluate`."""
    from crfrnn import _checks
    from crfrnn.io.files import require_writable, write_text

    from ._methods import make_methods
    from ._settings import make_settings
    from ._tables import print_summary

    import_modules(args.imports)
    settings = make_settings(args)
    _checks.count("resamples", args.resamples, least=1)
    for path in (args.output, args.figure):
        if path is not None:
            require_writable(path)
    if args.figure is not None and args.figure.suffix.lower() not in _PICTURES:
        raise ValueError(f"--figure must be a {' or '.join(_PICTURES)} file; got {args.figure}")
    data = open_data(args)
    methods = make_methods(args, settings, data)
    evaluation = _evaluate(args, data, methods)
    if args.figure is not None and len(evaluation.rows) != 2:
        raise ValueError(
            "--figure needs labels before and after; got one kind. Give two folders of labels, or "
            "leave out --no-crf"
        )
    summary = {
        "sources": [str(source) for source in args.source],
        **evaluation.summary(resamples=args.resamples, seed=args.seed),
        "crf": methods.crf,
        "parameters": settings.parameters() if methods.crf == "refine" else None,
    }
    if args.output is not None:
        write_text(args.output, f"{json.dumps(summary, indent=2)}\n")
    if args.figure is not None:
        _draw(args.figure, evaluation, data, methods.predict)
    if args.json:
        tell(json.dumps(summary, indent=2))
    else:
        print_summary(summary)
    return 0


def _evaluate(args: argparse.Namespace, data: MaskedImages, methods: Methods) -> Evaluation:
    from crfrnn.evaluation.evaluate import evaluate
    from crfrnn.evaluation.metrics import Settings
    from crfrnn.io.progress import Progress

    settings = Settings(widths=args.widths)
    for line in (*methods.lines, *truth_lines(data)):
        say(f"crfrnn evaluate: {line}")
    with Progress("evaluating", len(data), "images") as progress:
        evaluation = evaluate(data, methods.predict, settings=settings, advance=progress.advance)
    methods.notes.finish()
    return evaluation


def _draw(path: Path, evaluation: Evaluation, data: MaskedImages, predict: Predict) -> None:
    import numpy as np

    from crfrnn.evaluation.evaluate import extremes
    from crfrnn.io.files import write_image
    from crfrnn.io.palette import distinct_palette
    from crfrnn.plots.figures import Column, Row, rows_of_columns

    changes = evaluation.changes()
    rows = []
    for what, index in extremes(changes).items():
        sample = data[index]
        labels = predict(sample)
        columns = [Column("photograph"), Column("truth", sample.label)]
        columns += [Column(name, value) for name, value in labels.items()]
        caption = f"{what} change: {sample.name}, mean IoU {100 * changes[index]:+.1f}"
        rows.append(Row(np.ascontiguousarray(sample.image.transpose(1, 2, 0)), columns, caption))
    names = data.classes or [str(label) for label in range(data.num_classes)]
    palette = distinct_palette(data.num_classes)
    write_image(path, rows_of_columns(rows, names=names, palette=palette))


def _widths(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        message = f"expected whole numbers with commas between them; got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return tuple(int(part) for part in parts)
