"""What does `precision="half"` gain, and what does it cost?

Whole calls of `refine` with float16 tables, in turn with float32 tables, on a real photograph with
real scores, in several sizes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import crfrnn
from benchmarks.refine_vs_pydensecrf import inputs, with_classes
from benchmarks.size_scaling import resized
from benchmarks.timing import in_turn, save_json, table

CASES = {
    # name: size, classes, iterations, bilateral position, color, weight, prune
    "500 x 500 x 21, 160/3, T=10, no pruning": (500, 21, 10, (160, 3, 5), False),
    "500 x 500 x 21, 80/13, T=10, no pruning": (500, 21, 10, (80, 13, 10), False),
    "500 x 500 x 150, 160/3, T=5, no pruning": (500, 150, 5, (160, 3, 5), False),
    "1000 x 1000 x 21, 160/3, T=10, no pruning": (1000, 21, 10, (160, 3, 5), False),
    "2000 x 2000 x 21, 160/3, T=10, no pruning": (2000, 21, 10, (160, 3, 5), False),
    "500 x 500 x 21, 160/3, T=10, pruning": (500, 21, 10, (160, 3, 5), True),
}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="half_precision", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the times of all calls")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = []
    for name, (size, classes, iterations, bilateral, prune) in CASES.items():
        image, logits = resized(*inputs(), size)[0]
        call = call_on(image, with_classes(logits, classes), iterations, bilateral, prune)
        full, half = call("full"), call("half")
        change = float(np.abs(full.probs - half.probs).max())
        equal = float(np.mean(full.labels == half.labels))
        del full, half
        times = in_turn(partial(call, "half"), partial(call, "full"), options.pairs)
        rows.append((name, times, f"{equal:.4%} of labels equal, max |dQ| {change:.1e}"))
    names = ("half [s]", "full [s]")
    table(f"refine in half precision and in full, {options.threads} thread(s)", rows, names)
    save_json(options.json, rows, names)


def call_on(
    image: np.ndarray, logits: np.ndarray, iterations: int, bilateral: Any, prune: bool
) -> Callable[[str], crfrnn.Refined]:
    """Return a call of `refine` that takes the precision."""
    position, color, weight = bilateral
    kernels = [
        crfrnn.Bilateral(position=position, color=color, weight=weight),
        crfrnn.Gaussian(position=3, weight=3),
    ]
    return lambda precision: crfrnn.refine(
        image,
        logits=logits,
        kernels=kernels,
        iterations=iterations,
        prune=prune,
        precision=precision,
    )


if __name__ == "__main__":
    main()
