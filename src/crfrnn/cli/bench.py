"""Time the main calls on this machine, whole calls on one thread and on all.

The picture is the astronaut that scikit-image ships, with a real network's
scores, or without scikit-image a synthetic one; nothing is downloaded. Where
the original pydensecrf is installed, it runs in turn with this library, once
the labels of both agree.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crfrnn.bench import Timing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crfrnn bench`."""
    add = parser.add_argument
    add("--size", metavar="N", type=int, default=500, help="height and width (default 500)")
    add(
        "--repeats",
        "--pairs",
        metavar="N",
        type=int,
        default=5,
        help="runs of each case, or pairs of runs (default 5)",
    )
    add("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn bench`."""
    from dataclasses import asdict

    from crfrnn import info
    from crfrnn.bench import CASES, measure, original_model, picture
    from crfrnn.io.progress import Progress

    from ._notes import say

    facts = info()
    given = picture(args.size)
    threads = list(dict.fromkeys((1, facts.threads)))
    timings = []
    with Progress("timing", len(CASES) * len(threads), "cases") as progress:
        for timing in measure(given, args.repeats, threads):
            timings.append(timing)
            if timing.original is None and timing.agreement is not None:
                say(
                    f"crfrnn bench: note: {timing.case}: no times of pydensecrf, since it gives "
                    f"only {timing.agreement:.1%} of the same labels"
                )
            progress.advance()
    told = {
        "picture": given.name,
        "size": args.size,
        "engine": facts.runs["CPU float32"],
        "instructions": facts.instructions,
        "threads": facts.threads,
        "torch": facts.torch,
        "machine": facts.machine,
        "pydensecrf": original_model() is not None,
    }
    if args.json:
        rows = [{**asdict(timing), "ratios": timing.ratios} for timing in timings]
        sys.stdout.write(f"{json.dumps({**told, 'timings': rows}, indent=2)}\n")
    else:
        _print_table(told, timings)
    return 0


def _print_table(told: dict[str, Any], timings: list[Timing]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from crfrnn.bench import middle_and_ends

    size = told["size"]
    table = Table(
        title=f"{told['picture']}, {size} x {size} pixels, whole calls",
        box=SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    headings = ["case", "threads", r"median \[s]", "least", "largest"]
    if told["pydensecrf"]:
        headings += [r"pydensecrf \[s]", "ratio", "least", "largest", "same labels"]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for timing in timings:
        cells = [timing.case, str(timing.threads)]
        cells += [f"{value:.3f}" for value in middle_and_ends(timing.seconds)]
        if timing.original is not None:
            cells.append(f"{middle_and_ends(timing.original)[0]:.3f}")
            cells += [f"{value:.2f}x" for value in middle_and_ends(timing.ratios)]
        elif told["pydensecrf"]:
            cells += ["-"] * 4
        if timing.agreement is not None:
            cells.append(f"{timing.agreement:.2%}")
        table.add_row(*cells)
    Console().print(table)
    instructions = told["instructions"] or "no vector instructions of its own"
    sys.stdout.write(
        f"engine {told['engine']} ({instructions}), torch {told['torch']} on {told['machine']}\n"
    )
    sys.stdout.write(_about_the_original(told["pydensecrf"], timings))


def _about_the_original(found: bool, timings: list[Timing]) -> str:
    from crfrnn.bench import LEAST_AGREEMENT

    if not found:
        return (
            "The original pydensecrf is not installed. To compare: pip install cython setuptools, "
            "then pip install --no-build-isolation pydensecrf2\n"
        )
    if any(timing.agreement is not None and timing.original is None for timing in timings):
        return f"No times of pydensecrf where under {LEAST_AGREEMENT:.0%} of the labels agree\n"
    return "pydensecrf has one thread; the ratios are of pairs of runs in turn\n"
