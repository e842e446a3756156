"""Tiles against one large call: how many labels differ, near seams and elsewhere.

    python -m benchmarks tiles --side 1600 --tile 400 --overlap 0 34 67 134 201
    python -m benchmarks tiles --side 4000 --tile 1000

Prints one JSON object for each overlap. The default overlap is that of `crfrnn refine --tile`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from crfrnn import refine
from crfrnn.containers.refine_tiles import TileOptions, refine_tiles
from crfrnn.io.options import ReadOptions

CLASSES = 5
_COLORS = np.array([[60, 90, 60], [120, 110, 90], [180, 170, 150], [70, 80, 130], [100, 140, 80]])


def make_scene(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph (side, side, 3) of textured regions, and blurred, uncertain logits."""
    from scipy import ndimage

    rng = np.random.default_rng(0)

    def smooth(width: float) -> np.ndarray:
        values = ndimage.gaussian_filter(rng.normal(size=(side, side)).astype(np.float32), width)
        return values / values.std()

    truth = np.argmax([smooth(25) for _ in range(CLASSES)], axis=0)
    picture = _COLORS[truth] + 12 * smooth(40)[..., None] + rng.normal(0, 6, (side, side, 3))
    picture = ndimage.gaussian_filter(picture, (0.7, 0.7, 0)).clip(0, 255).astype(np.uint8)
    logits = np.stack(
        [
            6 * ndimage.gaussian_filter((truth == label).astype(np.float32), 6) + 1.2 * smooth(8)
            for label in range(CLASSES)
        ]
    )
    return picture, logits.astype(np.float32)


def main(options: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=1600)
    parser.add_argument("--tile", type=int, default=400)
    parser.add_argument("--overlap", type=int, nargs="*", default=[None])
    args = parser.parse_args(options)
    picture, logits = make_scene(args.side)
    start = time.perf_counter()
    whole = refine(picture, logits=logits).labels
    seconds = time.perf_counter() - start
    changed = float((whole != logits.argmax(0)).mean())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(picture).save(folder / "a.png", compress_level=1)
        np.save(folder / "a.npy", logits)
        for overlap in args.overlap:
            result = refine_tiles(
                folder / "a.png",
                folder / "a.npy",
                folder / "labels.png",
                reading=ReadOptions(kind="logits"),
                options=TileOptions(tile=args.tile, overlap=overlap),
            )
            differ = np.asarray(Image.open(folder / "labels.png")) != whole
            near = np.zeros(whole.shape, np.bool_)
            for tile in result.plan.tiles():
                for axis, part in enumerate(tile.core):
                    if part.start > 0:
                        np.moveaxis(near, axis, 0)[part.start - 8 : part.start + 8] = True
            row = {
                "side": args.side,
                "tiles": len(result.plan),
                "overlap": result.plan.overlap,
                "differ": float(differ.mean()),
                "differ_within_8_px_of_seams": float(differ[near].mean()),
                "differ_elsewhere": float(differ[~near].mean()),
                "changed_by_the_crf": changed,
                "seconds_tiles": result.seconds,
                "seconds_whole": round(seconds, 2),
            }
            sys.stdout.write(f"{json.dumps(row)}\n")
            sys.stdout.flush()
