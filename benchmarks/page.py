"""How long does the page of `crfrnn app` compute when a slider moves?

For each photograph: weight, steps and bandwidths, each moved several times, with lattices kept as
the page keeps them. Each move is the new labels, and what changed. Reports the wall-clock time, and
processor time divided by the threads, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks import photographs
from crfrnn.app.choice import Choice
from crfrnn.app.subject import of_arrays, open_demo
from crfrnn.app.work import Work
from crfrnn.core.threads import threads

#: What each slider is moved to.
MOVES: dict[str, Callable[[int], Choice]] = {
    "weight": lambda k: replace(Choice(), weight=2.0 + k),
    "steps": lambda k: replace(Choice(), iterations=10 - k),
    "bandwidth, bilateral position": lambda k: replace(Choice(), position=40.0 + 10 * k),
    "bandwidth, bilateral color": lambda k: replace(Choice(), color=2.5 + k),
    "bandwidth, Gaussian position": lambda k: replace(Choice(), near=2.0 + k),
}
ROUNDS = 3


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="page", description=__doc__)
    photographs.add_options(parser)
    options = parser.parse_args(arguments)
    works = {}
    if options.photographs is None:
        works = {name: Work(open_demo(name)) for name in ("astronaut", "chelsea")}
    else:
        for name, image, logits in photographs.read(options):
            pixels = image[0].permute(1, 2, 0).numpy().astype(np.uint8)
            works[name] = Work(of_arrays(pixels, "logits", logits[0].numpy()))
    sys.stdout.write(
        f"{len(works)} photographs, {threads()} threads, ms: median, worst photograph\n"
    )
    for move, choice in MOVES.items():
        wall, processor = [], []
        for work in works.values():
            work.refine(Choice())  # builds what the page has when it opens
            times = [measure(work, choice(k)) for k in range(1, ROUNDS + 1)]
            wall.append(float(np.median([w for w, _ in times])))
            processor.append(float(np.median([p for _, p in times])))
        cells = [f"{1e3 * np.median(v):6.0f} {1e3 * max(v):6.0f}" for v in (wall, processor)]
        sys.stdout.write(f"{move:32} wall {cells[0]}   processor / threads {cells[1]}\n")


def measure(work: Work, choice: Choice) -> tuple[float, float]:
    """Seconds of one move: on the clock, and of the processor per thread."""
    clock, used = time.perf_counter(), time.process_time()
    work.refine(choice)
    return time.perf_counter() - clock, (time.process_time() - used) / threads()


if __name__ == "__main__":
    main()
