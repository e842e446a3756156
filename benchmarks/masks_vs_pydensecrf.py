"""How much faster is `refine(masks=...)` than one call of pydensecrf for each mask?

A photograph at 640 x 480 pixels, and masks of ellipses that overlap, with the parameters of
CutLER's MaskCut. The original is timed on a few of the masks, and its time multiplied.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import crfrnn
from benchmarks.timing import Pairs, save_json, table

WIDTH, HEIGHT = 640, 480
POSITION, COLOR, WEIGHT, SPATIAL, SPATIAL_WEIGHT = 50, 5, 10, 3, 7
KERNELS = [crfrnn.Bilateral(POSITION, COLOR, WEIGHT), crfrnn.Gaussian(SPATIAL, SPATIAL_WEIGHT)]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="masks_vs_pydensecrf", description=__doc__)
    parser.add_argument("--photographs", type=Path, help="a folder; default: one of scikit-image")
    parser.add_argument("--limit", type=int, default=4, help="photographs to use")
    parser.add_argument("--masks", type=int, default=100)
    parser.add_argument("--sample", type=int, default=3, help="masks that the original is timed on")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the times of all calls")
    options = parser.parse_args(arguments)
    rows = []
    for threads in dict.fromkeys(options.threads):
        torch.set_num_threads(threads)
        seconds = [
            measure(photograph, options.masks, options.sample)
            for photograph in photographs(options.photographs, options.limit)
        ]
        pairs = Pairs([ours for ours, _, _ in seconds], [theirs for _, theirs, _ in seconds])
        equal = f"at least {min(agreement for _, _, agreement in seconds):.3%} of labels equal"
        rows.append((f"{options.masks} masks, {threads} thread(s)", pairs, equal))
    table("refine(masks=...), and a call of pydensecrf2 (one thread) for each mask", rows)
    save_json(options.json, rows)


def photographs(folder: Path | None, limit: int) -> list[np.ndarray]:
    """Photographs (HEIGHT, WIDTH, 3), evenly drawn from a folder."""
    if folder is None:
        from skimage.data import astronaut

        pictures = [Image.fromarray(astronaut())]
    else:
        paths = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
        chosen = paths[:: max(1, len(paths) // limit)][:limit]
        pictures = [Image.open(path).convert("RGB") for path in chosen]
    return [np.array(picture.resize((WIDTH, HEIGHT))) for picture in pictures]


def ellipses(count: int) -> np.ndarray:
    """Masks (count, HEIGHT, WIDTH) of very different sizes."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack(
        [
            ((y - random.integers(HEIGHT)) / random.integers(15, 120)) ** 2
            + ((x - random.integers(WIDTH)) / random.integers(15, 120)) ** 2
            < 1
            for _ in range(count)
        ]
    )


def measure(image: np.ndarray, count: int, sample: int) -> tuple[float, float, float]:
    """Seconds of ours, of the original for as many masks, and the least share of equal labels."""
    masks = ellipses(count)
    crfrnn.refine(image, masks=masks[:1], kernels=KERNELS, iterations=10)
    start = time.perf_counter()
    refined = crfrnn.refine(image, masks=masks, kernels=KERNELS, iterations=10)
    ours = time.perf_counter() - start
    theirs, agreement = [], []
    for k in np.linspace(0, count - 1, sample).astype(int):
        start = time.perf_counter()
        labels = original(image, masks[k])
        theirs.append(time.perf_counter() - start)
        agreement.append(float((labels == refined.labels[k]).mean()))
    return ours, statistics.median(theirs) * count, min(agreement)


def original(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Refine one mask with pydensecrf."""
    try:
        from pydensecrf.densecrf import DenseCRF2D
        from pydensecrf.utils import unary_from_labels
    except ImportError:
        raise SystemExit("pydensecrf2 is not installed: `make bench` installs it") from None
    model = DenseCRF2D(WIDTH, HEIGHT, 2)
    model.setUnaryEnergy(unary_from_labels(mask.astype(np.int32), 2, 0.7, zero_unsure=False))
    model.addPairwiseGaussian(sxy=SPATIAL, compat=SPATIAL_WEIGHT)
    model.addPairwiseBilateral(sxy=POSITION, srgb=COLOR, rgbim=image, compat=WEIGHT)
    return np.argmax(model.inference(10), axis=0).reshape(HEIGHT, WIDTH) == 1
