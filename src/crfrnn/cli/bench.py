"""Time the main calls on this machine, on one thread and on all threads.

The photograph is scikit-image's astronaut, with a real network's scores. If
scikit-image is missing, a synthetic picture takes its place; nothing is
downloaded. If the original pydensecrf is installed and gives the same labels,
its calls are timed in turn with those of crfrnn.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from crfrnn._extras import install

if TYPE_CHECKING:
    from crfrnn.bench import Timing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crfrnn bench`."""
    add = parser.add_argument
    add(
        "--size",
        metavar="N",
        type=int,
        default=500,
        help="height and width in pixels (default 500)",
    )
    add(
        "--repeats",
        "--pairs",
        metavar="N",
        type=int,
        default=5,
        help="calls, or pairs of calls, per case (default 5)",
    )
    add("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn bench`."""
    from dataclasses import asdict

    from crfrnn import info
    from crfrnn.bench import CASES, cases_here, measure, original_model, picture
    from crfrnn.io.progress import Progress

    from ._notes import say, tell

    facts = info()
    given = picture(args.size)
    threads = list(dict.fromkeys((1, facts.threads)))
    timings = []
    cases = cases_here()
    for case in CASES[len(cases) :]:
        say(
            f"crfrnn bench: note: {case}: left out, because torch is not installed; install it "
            f"with {install('torch')}"
        )
    with Progress("timing", len(cases) * len(threads), "cases") as progress:
        for timing in measure(given, args.repeats, threads):
            timings.append(timing)
            if timing.original is None and timing.agreement is not None:
                say(
                    f"crfrnn bench: note: {timing.case}: pydensecrf is not timed, because only "
                    f"{timing.agreement:.1%} of its labels are the same"
                )
            progress.advance()
    conditions = {
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
        tell(json.dumps({**conditions, "timings": rows}, indent=2))
    else:
        _print_table(conditions, timings)
    return 0


def _print_table(conditions: dict[str, Any], timings: list[Timing]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from crfrnn.bench import middle_and_ends

    size = conditions["size"]
    table = Table(
        title=f"{conditions['picture']}, {size} x {size} pixels, whole calls",
        box=SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    headings = ["case", "threads", r"median \[s]", "least", "largest"]
    if conditions["pydensecrf"]:
        headings += [r"pydensecrf \[s]", "ratio", "least", "largest", "same labels"]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for timing in timings:
        cells = [timing.case, str(timing.threads)]
        cells += [f"{value:.3f}" for value in middle_and_ends(timing.seconds)]
        if timing.original is not None:
            cells.append(f"{middle_and_ends(timing.original)[0]:.3f}")
            cells += [f"{value:.2f}x" for value in middle_and_ends(timing.ratios)]
        elif conditions["pydensecrf"]:
            cells += ["-"] * 4
        if timing.agreement is not None:
            cells.append(f"{timing.agreement:.2%}")
        table.add_row(*cells)
    Console().print(table)
    instructions = conditions["instructions"] or "no vector instructions"
    sys.stdout.write(
        f"engine {conditions['engine']} ({instructions}), torch {conditions['torch'] or 'none'} "
        f"on {conditions['machine']}\n"
    )
    sys.stdout.write(_describe_original(conditions["pydensecrf"], timings))


def _describe_original(installed: bool, timings: list[Timing]) -> str:
    from crfrnn.bench import LEAST_AGREEMENT

    if not installed:
        return (
            "The original pydensecrf is not installed. To compare: pip install cython setuptools, "
            "then pip install --no-build-isolation pydensecrf2\n"
        )
    if any(timing.agreement is not None and timing.original is None for timing in timings):
        return f"pydensecrf is timed only where {LEAST_AGREEMENT:.0%} of its labels are the same.\n"
    return "pydensecrf has one thread. Ratios are of pairs of calls, one after the other.\n"
