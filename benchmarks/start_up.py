"""How long do commands take from start to end, beside a script with pydensecrf?

`crfrnn refine` on a photograph and scores of 21 classes, against a script that does the same with
pydensecrf2; and processor time of `import crfrnn`, `--help` and `--version`. With `--photographs`
and `--scores`, one pair of processes for each photograph; else pairs on one of 500 x 500 pixels.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import crfrnn.bench
from benchmarks import photographs
from benchmarks.timing import Pairs, save_json, table

COMMAND = [sys.executable, "-m", "crfrnn"]

SCRIPT = """
import sys
import numpy as np
from PIL import Image
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_softmax

image = np.array(Image.open("photo.png"))
logits = np.load("scores.npy")
probs = np.exp(logits - logits.max(0))
probs /= probs.sum(0)
height, width = image.shape[:2]
model = DenseCRF2D(width, height, len(probs))
model.setUnaryEnergy(unary_from_softmax(probs))
model.addPairwiseGaussian(sxy=1, compat=3)
model.addPairwiseBilateral(sxy=67, srgb=3, rgbim=image, compat=4)
labels = np.argmax(model.inference(10), axis=0).reshape(height, width)
Image.fromarray(labels.astype(np.uint8)).save("theirs.png")
"""


def main(arguments: list[str] | None = None) -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(prog="start_up", description=__doc__)
    parser.add_argument("--pairs", type=int, default=10, help="without --photographs")
    photographs.add_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the times of all calls")
    options = parser.parse_args(arguments)
    for name, command in {
        "python": [sys.executable, "-c", "pass"],
        "import crfrnn": [sys.executable, "-c", "import crfrnn"],
        "crfrnn --help": [*COMMAND, "--help"],
        "crfrnn --version": [*COMMAND, "--version"],
    }.items():
        used = min(processor_seconds(command) for _ in range(5))
        sys.stdout.write(f"{name}: {used:.3f} s of processor time, the least of 5\n")
    with tempfile.TemporaryDirectory() as name:
        seconds = [measure(*given, Path(name)) for given in inputs(options)][1:]  # the first warms
    pairs = Pairs([ours for ours, _, _ in seconds], [theirs for _, theirs, _ in seconds])
    equal = f"at least {min(agreement for _, _, agreement in seconds):.3%} of labels equal"
    rows = [(f"crfrnn refine, {len(seconds)} pairs", pairs, equal)]
    table("Whole processes: crfrnn refine, and a script with pydensecrf2", rows)
    save_json(options.json, rows)


def inputs(options: argparse.Namespace) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield image (H, W, 3) and logits (C, H, W) of each pair; the first twice."""
    if options.photographs is None:
        picture = crfrnn.bench.picture(500)
        yield from [(picture.image, picture.logits)] * (options.pairs + 1)
        return
    for index, (_, image, logits) in enumerate(photographs.read(options)):
        given = image[0].permute(1, 2, 0).byte().numpy(), logits[0].numpy()
        yield from [given] * (2 if index == 0 else 1)


def measure(image: np.ndarray, logits: np.ndarray, folder: Path) -> tuple[float, float, float]:
    """Seconds of the command and of the script, and the share of equal labels."""
    Image.fromarray(image).save(folder / "photo.png")
    np.save(folder / "scores.npy", logits)
    ours = run([*COMMAND, "refine", "photo.png", "scores.npy", "-o", "ours.png"], folder)
    theirs = run([sys.executable, "-c", SCRIPT], folder)
    labels = [np.asarray(Image.open(folder / f"{x}.png")) for x in ("ours", "theirs")]
    return ours, theirs, float((labels[0] == labels[1]).mean())


def run(command: list[str], folder: Path) -> float:
    """Seconds of a process."""
    start = time.perf_counter()
    silent = subprocess.DEVNULL
    subprocess.run(command, cwd=folder, check=True, stdout=silent, stderr=silent)
    return time.perf_counter() - start


def processor_seconds(command: list[str]) -> float:
    """Processor time of a process, with compiled modules cached as after an installation."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
