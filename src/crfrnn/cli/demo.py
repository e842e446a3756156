"""Refine a real network's scores of two photographs, and draw the results.

The photographs come with scikit-image: an astronaut (NASA), and the cat Chelsea
(Stéfan van der Walt). The scores are 33x33 cells of DeepLabv3-MobileNetV2,
trained on PASCAL VOC.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from . import Parser
from ._notes import tell
from ._options import add_options, describe_presets


def add_arguments(parser: Parser) -> None:
    """Declare the options of `crfrnn demo`."""
    from crfrnn.offline.options import RefineOptions

    parser.make_epilog = describe_presets
    add = parser.add_argument
    add(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("demo"),
        help="folder to write to (default demo)",
    )
    add_options(parser, RefineOptions, names=("preset", "filter", "engine"))
    add("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn demo`."""
    from crfrnn.demo import PHOTOGRAPHS, refine_photographs
    from crfrnn.io.progress import Progress
    from crfrnn.offline.options import RefineOptions

    options = RefineOptions(preset=args.preset, filter=args.filter, engine=args.engine)
    with Progress("refining", len(PHOTOGRAPHS), "photographs") as progress:
        records = refine_photographs(args.output, options, advance=progress.advance)
    if args.json:
        tell(json.dumps({"photographs": records}, indent=2))
    else:
        _print_table(records, args.output)
    return 0


def _print_table(records: list[dict[str, Any]], folder: Path) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="Before and after the dense CRF", box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for heading in ("photograph", "relabeled", "share", "seconds", "engine", "figure"):
        right = heading in ("relabeled", "share", "seconds")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for record in records:
        table.add_row(
            record["photograph"],
            f"{record['relabeled']} of {record['pixels']}",
            f"{record['relabeled'] / record['pixels']:.1%}",
            f"{record['seconds']:.2f}",
            record["engine"],
            Path(record["outputs"]["figure"]).name,
        )
    Console().print(table)
    tell(f"Figures and label maps are in {folder}")
