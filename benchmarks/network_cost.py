"""What does the layer add to a network, in time and peak memory?

python -m benchmarks network_cost                          # four networks, about six minutes
python -m benchmarks network_cost --networks light --json costs.json

The forward pass without and with the CRF, and one step of training on one crop, in turn on one
thread. The weights are random: neither networks nor layer take longer or shorter for that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy

import crfrnn.bench
from benchmarks import memory
from crfrnn import CRFRNN, Segmenter
from crfrnn.demo import photograph
from crfrnn.io.files import replacing
from crfrnn.models import make_network

#: Mean-field steps in training and at test time, as in the paper.
TRAINING, TEST = 5, 10


@dataclass(frozen=True)
class Case:
    """A network, the size of its images, and the side of its crops in training."""

    name: str
    network: str
    options: dict[str, Any]
    size: tuple[int, int]
    classes: int
    crop: int


CASES = {
    "light": Case("light", "light", {"width": 12}, (180, 240), 11, 180),
    "dm05": Case("DeepLab x 0.5", "deeplab_mobilenet", {"width": 0.5}, (513, 513), 21, 321),
    "dm10": Case("DeepLab x 1.0", "deeplab_mobilenet", {"width": 1.0}, (513, 513), 21, 321),
    "fcn8s": Case("FCN-8s", "fcn8s", {}, (500, 500), 21, 500),
}


class Calls:
    """What is timed, for one case."""

    NAMES = ("forward", "forward, T = 5", "forward, T = 10", "step", "step, T = 5")

    def __init__(self, case: Case) -> None:
        """Make the network, and a layer for each number of steps."""
        torch.manual_seed(0)
        network = make_network(case.network, case.classes, **case.options)
        self.models = {
            steps: Segmenter(
                network,
                CRFRNN(case.classes, iterations=steps, eval_iterations=steps),
                image_range=255,
            )
            for steps in (TRAINING, TEST)
        }
        height, width = case.size
        pixels = np.array(Image.fromarray(photograph("astronaut")).resize((width, height)))
        self.image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        self.crop = self.image[..., : case.crop, : case.crop].contiguous()
        self.labels = torch.randint(case.classes, (1, *self.crop.shape[2:]))

    def __getitem__(self, name: str) -> Callable[[], Any]:
        """The call of this name, one of `NAMES`."""
        kind, _, steps = name.partition(", T = ")
        model = self.models[int(steps or TRAINING)]
        call = model if steps else model.unary
        if kind == "forward":
            return lambda: self._forward(model, call)
        return lambda: self._step(model, call)

    def _forward(self, model: Segmenter, call: Callable[[Tensor], Tensor]) -> None:
        model.eval()
        with torch.no_grad():
            call(self.image)

    def _step(self, model: Segmenter, call: Callable[[Tensor], Tensor]) -> None:
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # the weights stay
        cross_entropy(call(self.crop), self.labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Time the calls of a case in turn, then take the peak of each in a fresh process."""
    calls = Calls(case)
    seconds = crfrnn.bench.in_turn([calls[name] for name in Calls.NAMES], rounds)
    row: dict[str, Any] = {"seconds": dict(zip(Calls.NAMES, seconds, strict=True))}
    if memory.can_measure():
        row["megabytes"] = {name: _peak(case, name) for name in Calls.NAMES}
    return row


def added(row: dict[str, Any], name: str, base: str) -> tuple[float, float | None]:
    """Seconds (the median over rounds) and megabytes that one call needs beyond another."""
    seconds, peaks = row["seconds"], row.get("megabytes")
    pairs = zip(seconds[name], seconds[base], strict=True)
    return (
        statistics.median(a - b for a, b in pairs),
        None if peaks is None else peaks[name] - peaks[base],
    )


def _peak(case: Case, name: str) -> float:
    given = json.dumps([asdict(case), name])
    command = [sys.executable, "-m", "benchmarks.network_cost", given]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


def _peak_here(given: str) -> float:
    case, name = json.loads(given)
    torch.set_num_threads(1)
    small = Case(**{**case, "size": (65, 65), "crop": 65})
    Calls(small)[name]()  # what is allocated only once
    return memory.peak_megabytes(Calls(Case(**case))[name])


def _cell(seconds: float, megabytes: float | None) -> str:
    time = f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
    return time if megabytes is None else f"{time}, {megabytes:.0f} MB"


def report(rows: dict[str, dict[str, Any]]) -> None:
    """Print the medians: what the network needs, and what the layer adds."""
    printed = Table(title="the layer on one thread", title_justify="left")
    columns = (
        "network",
        "forward",
        "the CRF adds, T = 5",
        "T = 10",
        "training step",
        "with the CRF",
    )
    for column in columns:
        printed.add_column(column, justify="left" if column == "network" else "right")
    for key, row in rows.items():
        case, peaks = CASES[key], row.get("megabytes", {})
        median = {name: statistics.median(times) for name, times in row["seconds"].items()}
        alone, step, joint = (
            _cell(median[name], peaks.get(name)) for name in ("forward", "step", "step, T = 5")
        )
        name = f"{case.name}, {case.size[1]} x {case.size[0]}, {case.classes} classes"
        more = (_cell(*added(row, f"forward, T = {t}", "forward")) for t in (TRAINING, TEST))
        printed.add_row(name, alone, *more, step, joint)
    Console(width=140).print(printed)


def main(options: list[str]) -> None:
    """Measure the networks and print a table."""
    parser = argparse.ArgumentParser(
        prog="network_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--networks", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5, help="calls of each kind (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the times of all calls")
    chosen = parser.parse_args(options)
    torch.set_num_threads(1)
    rows = {}
    for name in chosen.networks:
        rows[name] = measure(CASES[name], chosen.rounds)
        report(rows)
    if chosen.json is not None:
        with replacing(chosen.json) as file:
            file.write(json.dumps(rows, indent=2).encode() + b"\n")


if __name__ == "__main__":
    sys.stdout.write(str(_peak_here(sys.argv[1])))
