"""How long do commands take from start to end, beside a script with pydensecrf?

`crfrnn refine` on a photograph of 500 x 500 pixels and scores of 21 classes, against a script that
does the same with pydensecrf2; and processor time of `import crfrnn`, `--help` and `--version`.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import crfrnn.bench
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
    parser.add_argument("--pairs", type=int, default=10)
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
        folder = Path(name)
        picture = crfrnn.bench.picture(500)
        Image.fromarray(picture.image).save(folder / "photo.png")
        np.save(folder / "scores.npy", picture.logits)
        refine = [*COMMAND, "refine", "photo.png", "scores.npy", "-o", "ours.png"]
        script = [sys.executable, "-c", SCRIPT]
        seconds = [(run(refine, folder), run(script, folder)) for _ in range(options.pairs + 1)]
        ours, theirs = (np.asarray(Image.open(folder / f"{x}.png")) for x in ("ours", "theirs"))
    pairs = Pairs([a for a, _ in seconds[1:]], [b for _, b in seconds[1:]])
    rows = [("crfrnn refine, one photograph", pairs, f"{(ours == theirs).mean():.3%} equal")]
    table("Whole processes: crfrnn refine, and a script with pydensecrf2", rows)
    save_json(options.json, rows)


def run(command: list[str], folder: Path) -> float:
    """Seconds of a process."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def processor_seconds(command: list[str]) -> float:
    """Processor time of a process, with compiled modules cached as after an installation."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
