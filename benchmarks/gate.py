"""Check on a folder of photographs that this version is as fast as a stored run.

python -m benchmarks gate --photographs JPEGImages --scores scores.npz --canvas 513 --save run.json
python -m benchmarks gate ... --against run.json     # the same, compared with the stored run

Each case runs once on each photograph, ours and pydensecrf2 in turn after a warm-up of each, so
that a slow moment of the machine hits both. A row shows the median ratio over the photographs with
the slowest and the fastest. With --against, a row whose median ratio is more than --tolerance below
the stored run's fails the gate.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from crfrnn.bench import middle_and_ends
from crfrnn.io.files import write_text
from crfrnn.io.progress import Progress

from . import photographs
from .forward_backward_vs_pydensecrf import KERNELS, layer_on
from .refine_vs_pydensecrf import ours_on, theirs_on, with_classes

#: Our call and theirs, for labels.
Calls = tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]

PAPER = ((160, 3, 5), (3, 3))
DEEPLAB = ((67, 3, 4), (1, 3))


@dataclass(frozen=True)
class Case:
    """One row: what is cut from a photograph and its scores, and how both refine it."""

    name: str
    threads: int
    kernels: tuple[Any, Any] = PAPER
    iterations: int = 10
    classes: int | None = None
    noise: float = 0.0
    side: int | None = None
    prune: bool = True
    batch: int | None = None  # as many photographs in one call of ours, one by one in theirs
    train: bool = False  # forward and backward of the layer, beside their forward

    def inputs(self, image: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The image (H, W, 3) and logits (C, H, W) of this case."""
        if self.side is not None:
            image, logits = image[: self.side, : self.side], logits[:, : self.side, : self.side]
        if self.classes is not None:
            logits = with_classes(logits, self.classes)
        if self.noise:
            # Scores of no network: every class is near the likeliest somewhere.
            random = np.random.default_rng(0)
            logits = 0.2 * logits + self.noise * random.normal(size=logits.shape)
        return np.ascontiguousarray(image), np.ascontiguousarray(logits, np.float32)


CASES = (
    Case("160/3, two threads", 2),
    Case("160/3, one thread", 1),
    Case("160/3 without pruning", 2, prune=False),
    Case("67/3, two threads", 2, DEEPLAB),
    Case("two classes", 2, classes=2),
    Case("noisy scores, 21 classes", 2, noise=1.0),
    Case("150 classes, T = 5", 2, classes=150, iterations=5),
    Case("224 x 224 pixels", 2, side=224),
    Case("64 x 64 pixels", 2, side=64),
    Case("16 images of 224 x 224 pixels", 2, side=224, batch=16),
    Case("forward + backward, T = 5", 2, iterations=5, train=True),
)


def measure(case: Case, pictures: list[tuple[str, np.ndarray, np.ndarray]]) -> Iterator[Any]:
    """Ratio, seconds of ours, and share of equal labels, photograph by photograph."""
    torch.set_num_threads(case.threads)
    for number, (name, image, logits) in enumerate(pictures):
        if case.batch is None:
            ours, theirs = single(case, *case.inputs(image, logits))
        else:  # with the photographs that follow, from the first again after the last
            following = (pictures[(number + i) % len(pictures)] for i in range(case.batch))
            ours, theirs = batched(case, [case.inputs(*picture[1:]) for picture in following])
        equal = float(np.mean(ours() == theirs()))  # the warm-up of both
        if case.train:
            ours = trained(case, *case.inputs(image, logits))
            ours()
        seconds, others = _timed(ours), _timed(theirs)
        yield {
            "photograph": name,
            "ratio": others / seconds,
            "seconds": seconds,
            "labels_equal": equal,
        }


def single(case: Case, image: np.ndarray, logits: np.ndarray) -> Calls:
    """Our call and theirs, for the labels of one photograph."""
    arguments = (image, logits, case.iterations, *case.kernels)
    return ours_on(*arguments, prune=case.prune), theirs_on(*arguments)


def batched(case: Case, inputs: list[tuple[np.ndarray, np.ndarray]]) -> Calls:
    """One call of ours for photographs of equal size, and their calls one after the other."""
    images, logits = (np.stack(arrays) for arrays in zip(*inputs, strict=True))
    ours = ours_on(images, logits, case.iterations, *case.kernels, prune=case.prune)
    theirs = [theirs_on(*pair, case.iterations, *case.kernels) for pair in inputs]
    return ours, lambda: np.stack([call() for call in theirs])


def trained(case: Case, image: np.ndarray, logits: np.ndarray) -> Callable[[], Any]:
    """Our forward and backward."""
    if case.kernels != KERNELS:
        raise ValueError(f"the layer has kernels {KERNELS}, not {case.kernels}")
    return layer_on(image, logits, case.iterations)[1]


def _timed(call: Callable[[], Any]) -> float:
    gc.collect()  # outside the time, so that no call pays for another's garbage
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    """What a row of the table shows."""
    median, slowest, fastest = middle_and_ends([run["ratio"] for run in runs])
    return {
        "median": median,
        "slowest": slowest,
        "fastest": fastest,
        "seconds": statistics.median(run["seconds"] for run in runs),
        "labels_equal": min(run["labels_equal"] for run in runs),
    }


def failures(
    rows: dict[str, dict[str, float]], before: dict[str, dict[str, float]], tolerance: float
) -> list[str]:
    """The rows whose median ratio fell by more than a share of the stored one."""
    return [
        f"{name}: {rows[name]['median']:.2f}x, was {before[name]['median']:.2f}x"
        for name in rows
        if name in before and rows[name]["median"] < (1 - tolerance) * before[name]["median"]
    ]


def machine() -> dict[str, Any]:
    """What a stored run must share with this one for a comparison to mean anything."""
    return {"machine": platform.machine(), "processors": os.cpu_count()}


def main(options: list[str]) -> None:
    """Measure, print, keep, compare."""
    parser = argparse.ArgumentParser(
        prog="gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    photographs.add_options(parser)
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep every run as JSON")
    parser.add_argument("--against", type=Path, metavar="FILE", help="a run kept by --save")
    parser.add_argument(
        "--tolerance", type=float, default=0.15, help="share that a ratio may lose (default: 0.15)"
    )
    parser.add_argument("--only", metavar="TEXT", help="cases whose name contains this")
    chosen = parser.parse_args(options)
    if chosen.photographs is None or chosen.scores is None:
        parser.error("name a folder of photographs and their scores: --photographs and --scores")
    stored = None if chosen.against is None else json.loads(chosen.against.read_text("utf-8"))
    if stored is not None and stored["machine"] != machine():
        parser.error(f"{chosen.against} is of another machine: {stored['machine']}")
    pictures = [
        (name, image[0].permute(1, 2, 0).byte().numpy(), logits[0].numpy())
        for name, image, logits in photographs.read(chosen)
    ]
    cases = [case for case in CASES if chosen.only is None or chosen.only in case.name]
    runs: dict[str, list[dict[str, Any]]] = {}
    with Progress("measuring", len(cases) * len(pictures), "calls") as progress:
        for case in cases:
            runs[case.name] = []
            for run in measure(case, pictures):
                runs[case.name].append(run)
                progress.advance()
    rows = {name: summary(found) for name, found in runs.items()}
    before = {} if stored is None else stored["rows"]
    _print(rows, before, len(pictures))
    if chosen.save:
        facts = {"machine": machine(), "rows": rows, "runs": runs}
        write_text(chosen.save, json.dumps(facts, indent=2) + "\n")
    slower = failures(rows, before, chosen.tolerance)
    if slower:
        sys.exit("slower than the stored run: " + "; ".join(slower))


def _print(
    rows: dict[str, dict[str, float]], before: dict[str, dict[str, float]], number: int
) -> None:
    title = f"pydensecrf2's time over ours, whole calls on {number} photographs"
    table = Table(title=title, title_justify="left")
    columns = ("case", "median", "slowest", "fastest", "ours [s]", "labels equal, least", "stored")
    for column in columns if before else columns[:-1]:
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, row in rows.items():
        cells = [
            name,
            f"{row['median']:.2f}x",
            f"{row['slowest']:.2f}x",
            f"{row['fastest']:.2f}x",
            f"{row['seconds']:.4f}",
            f"{row['labels_equal']:.3%}",
        ]
        if before:
            cells.append(f"{before[name]['median']:.2f}x" if name in before else "")
        table.add_row(*cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
