"""Does a pixel take the same time in small and in large pictures?

Whole calls of `refine`, 21 classes, T = 10, 160/3, with pruning; every size in turn with 500 x 500.
"tiles" has the same detail per area at every size: a smaller size takes a call for each tile of the
500 x 500 pixels, and a larger picture continues the photograph by mirror images. "resized" scales
the photograph up or down, so that larger pictures have less detail per area.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.refine_vs_pydensecrf import SIZE, inputs, ours_on
from benchmarks.timing import Pairs, in_turn, save_json, table

#: Image (H, W, 3) and logits (C, H, W).
Picture = tuple[np.ndarray, np.ndarray]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="size_scaling", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[250, 500, 1000, 2000])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-pruning", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the times of all calls")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = []
    image, logits = whole = inputs()
    base = calls_on([whole], prune=not options.no_pruning)
    for how in (tiles, resized):
        for size in options.sizes:
            pictures = how(image, logits, size)
            other = calls_on(pictures, prune=not options.no_pruning)
            changed = np.mean([a != b[1].argmax(0) for a, b in zip(other(), pictures, strict=True)])
            seconds = in_turn(base, other, options.pairs)
            pixels = len(pictures) * size**2
            times = f", {len(pictures)} calls" if len(pictures) > 1 else ""
            rows.append(
                (
                    f"{how.__name__}, {size} x {size}{times}",
                    per_pixel(seconds, pixels),
                    f"{changed:.1%} of pixels relabeled",
                )
            )
    title = (
        f"microseconds per pixel and their ratio to {SIZE} x {SIZE}, {options.threads} thread(s)"
    )
    names = (f"{SIZE} [us]", "size [us]")
    table(title, rows, names)
    save_json(options.json, rows, names)


def tiles(image: np.ndarray, logits: np.ndarray, size: int) -> list[Picture]:
    """Cut all tiles of a smaller size, or continue the picture by mirror images to a larger one."""
    more = (0, max(0, size - SIZE))
    image = np.pad(image, (more, more, (0, 0)), mode="symmetric")
    logits = np.pad(logits, ((0, 0), more, more), mode="symmetric")
    starts = range(0, len(image) - size + 1, size)
    return [
        (
            np.ascontiguousarray(image[y : y + size, x : x + size]),
            np.ascontiguousarray(logits[:, y : y + size, x : x + size]),
        )
        for y in starts
        for x in starts
    ]


def resized(image: np.ndarray, logits: np.ndarray, size: int) -> list[Picture]:
    """Resize the photograph and its logits."""
    other = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    grid = torch.from_numpy(logits)[None]
    scores = torch.nn.functional.interpolate(grid, (size, size), mode="bilinear", antialias=True)
    return [(np.asarray(other), scores[0].contiguous().numpy())]


def calls_on(pictures: list[Picture], *, prune: bool) -> Callable[[], list[np.ndarray]]:
    """Return a function that calls `refine` on each picture, with the paper's kernels."""
    calls = [ours_on(*given, 10, (160, 3, 5), (3, 3), prune=prune) for given in pictures]
    return lambda: [call() for call in calls]


def per_pixel(seconds: Pairs, pixels: int) -> Pairs:
    """Convert seconds to microseconds per pixel."""
    return Pairs(
        [1e6 * second / SIZE**2 for second in seconds.ours],
        [1e6 * second / pixels for second in seconds.theirs],
    )


if __name__ == "__main__":
    main()
