"""How much faster is `refine` than pydensecrf on the same image with the same parameters?

Whole calls, which build the lattice, on a real photograph with real scores, 500 x 500 pixels. The
labels of both are compared before anything is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

import crfrnn
from benchmarks.timing import in_turn, save_json, table

SIZE = 500
CASES = {
    # name: classes, iterations, bilateral position, color, weight, spatial position, weight, prune
    "21 classes, 160/3, T=10": (21, 10, (160, 3, 5), (3, 3), True),
    "21 classes, 160/3, T=10, no pruning": (21, 10, (160, 3, 5), (3, 3), False),
    "21 classes, 80/13, T=10": (21, 10, (80, 13, 10), (3, 3), True),
    "2 classes, 160/3, T=10": (2, 10, (160, 3, 5), (3, 3), True),
    "150 classes, 160/3, T=5": (150, 5, (160, 3, 5), (3, 3), True),
}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="refine_vs_pydensecrf", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the times of all calls")
    options = parser.parse_args(arguments)
    image, scores = inputs()
    rows = []
    for threads in dict.fromkeys(options.threads):
        torch.set_num_threads(threads)
        for name, (classes, iterations, bilateral, spatial, prune) in CASES.items():
            logits = with_classes(scores, classes)
            ours = ours_on(image, logits, iterations, bilateral, spatial, prune=prune)
            theirs = theirs_on(image, logits, iterations, bilateral, spatial)
            equal = float(np.mean(ours() == theirs()))
            if equal < 0.99:
                raise SystemExit(
                    f"{name}: only {equal:.2%} of the labels agree, so nothing is timed"
                )
            pairs = in_turn(ours, theirs, options.pairs)
            rows.append((f"{name}, {threads} thread(s)", pairs, f"{equal:.3%} of labels equal"))
    table("refine and pydensecrf2 (one thread), whole calls on 500 x 500 pixels", rows)
    save_json(options.json, rows)


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Return the photograph (H, W, 3) and its logits (21, H, W), cut to 500 x 500."""
    from skimage.data import astronaut

    with np.load(files("crfrnn") / "demo" / "scores" / "astronaut_scores.npz") as stored:
        coarse = (stored["logits"].astype(np.float32) - stored["zero"]) * stored["scale"]
    # The network saw a canvas of 513 x 513 pixels with the photograph at the top left.
    grid = torch.from_numpy(coarse.astype(np.float32)).permute(2, 0, 1)[None]
    scores = torch.nn.functional.interpolate(grid, (513, 513), mode="bilinear", align_corners=True)
    cut = scores[0, :, :SIZE, :SIZE].contiguous().numpy()
    return np.ascontiguousarray(astronaut()[:SIZE, :SIZE]), cut


def with_classes(scores: np.ndarray, classes: int) -> np.ndarray:
    """Keep the likeliest classes, or add unlikely ones, as in a large label set."""
    if classes <= len(scores):
        likely = np.argsort(-scores.mean(axis=(1, 2)))[:classes]
        return np.ascontiguousarray(scores[likely])
    rng = np.random.default_rng(0)
    extra = classes - len(scores)
    below = rng.uniform(6, 12, (extra, 1, 1)).astype(np.float32)
    copies = scores[rng.integers(1, len(scores), extra)]
    return np.concatenate([scores, copies - below])


def ours_on(
    image: np.ndarray,
    logits: np.ndarray,
    iterations: int,
    bilateral: Any,
    spatial: Any,
    *,
    prune: bool = True,
) -> Callable[[], np.ndarray]:
    """Return a call of `refine` that gives labels."""
    kernels = [
        crfrnn.Bilateral(position=bilateral[0], color=bilateral[1], weight=bilateral[2]),
        crfrnn.Gaussian(position=spatial[0], weight=spatial[1]),
    ]
    return lambda: (
        crfrnn.refine(
            image, logits=logits, kernels=kernels, iterations=iterations, prune=prune
        ).labels
    )


def theirs_on(
    image: np.ndarray, logits: np.ndarray, iterations: int, bilateral: Any, spatial: Any
) -> Callable[[], np.ndarray]:
    """Return a call of pydensecrf that gives labels by the same inference."""
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError:
        raise SystemExit("pydensecrf2 is not installed: `make bench` installs it") from None
    classes, height, width = logits.shape
    energy = np.ascontiguousarray(-logits.reshape(classes, -1))

    def call() -> np.ndarray:
        model = DenseCRF2D(width, height, classes)
        model.setUnaryEnergy(energy)
        model.addPairwiseGaussian(sxy=spatial[0], compat=spatial[1])
        model.addPairwiseBilateral(
            sxy=bilateral[0], srgb=bilateral[1], rgbim=image, compat=bilateral[2]
        )
        labels: np.ndarray = np.argmax(model.inference(iterations), axis=0)
        return labels.reshape(height, width)

    return call
