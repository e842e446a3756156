"""What does a band around label changes save, and does it give the slow formula's labels?

A photograph of 1024 x 1024 pixels with two classes: the demo's astronaut, mirrored to this size or
enlarged. For each of three presets, a full call and a call with `band=5` in turn, in seconds of
processor time on one thread; then the labels of free pixels are compared with the full recurrence
in which clamped pixels are reset after each step. The table is in docs/guide/clamp.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
from PIL import Image

from crfrnn import refine
from crfrnn.bench import picture
from crfrnn.core.inference import apply
from crfrnn.core.threads import limited_threads
from crfrnn.crf.compiled import build_filters
from crfrnn.crf.kernel import Scene
from crfrnn.crf.recipe import Recipe
from crfrnn.offline.clamp import held_pixels
from crfrnn.presets import PRESETS, Preset

BAND = 5.0
NAMES = ("deeplab", "krahenbuhl", "crfasrnn")
#: The class of the demo's scores that is told from all others: the person.
_PERSON = 15


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="band", description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="side in pixels (default: 1024)")
    parser.add_argument("--repeats", type=int, default=9, help="calls of each (default: 9)")
    options = parser.parse_args(arguments)
    sys.stdout.write(
        "photograph preset     steps  free   prune  full [s]  band [s]  band / full  equal labels\n"
    )
    with limited_threads(1):
        for kind in ("mirrored", "enlarged"):
            image, logits = photograph(kind, options.size)
            for name in NAMES:
                for prune in (True, False):
                    row = measure(image, logits, PRESETS[name], options.repeats, prune=prune)
                    sys.stdout.write(f"{kind:10} {name:10} {row}\n")
                    sys.stdout.flush()


def photograph(kind: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and logits (2, H, W) of everything else and the person."""
    given = picture(size if kind == "mirrored" else size // 2)
    others = np.delete(given.logits, _PERSON, 0).max(0)
    logits = np.stack([others, given.logits[_PERSON]]).astype(np.float32)
    if kind == "mirrored":
        return given.image, logits
    side = (size, size)
    image = Image.fromarray(given.image).resize(side, Image.Resampling.BICUBIC)
    maps = [Image.fromarray(z).resize(side, Image.Resampling.BILINEAR) for z in logits]
    return np.asarray(image), np.stack([np.asarray(z) for z in maps])


def measure(
    image: np.ndarray, logits: np.ndarray, preset: Preset, repeats: int, *, prune: bool
) -> str:
    """Time both calls in turn, and compare the labels; returns the cells of a row."""
    held = held_pixels(logits[None], None, BAND)
    assert held is not None
    held = held[0]
    want = slowly(image, logits, preset, held)
    full, band = [], []
    for repeat in range(repeats + 1):
        start = time.process_time()
        refine(image, logits=logits, preset=preset.name)
        middle = time.process_time()
        labels = refine(image, logits=logits, preset=preset.name, band=BAND, prune=prune).labels
        if repeat:  # the first calls warm up
            full.append(middle - start)
            band.append(time.process_time() - middle)
    ratio = statistics.median(b / a for a, b in zip(full, band, strict=True))
    equal = (labels == want)[~held].mean()
    return (
        f"{preset.iterations:5}  {(~held).mean():5.1%}  {'yes' if prune else 'no':5}  "
        f"{statistics.median(full):8.3f}  {statistics.median(band):8.3f}  {ratio:11.2f}  "
        f"{equal:12.2%}"
    )


def slowly(image: np.ndarray, logits: np.ndarray, preset: Preset, held: np.ndarray) -> np.ndarray:
    """The labels (H, W) of the full recurrence, with clamped pixels reset after each step."""
    scene = Scene(logits[None], np.moveaxis(image, -1, 0)[None].astype(np.float32), [])
    recipe = Recipe(preset.kernels, preset.normalization, "lattice", "cpu")
    (filters,) = build_filters(recipe, scene, None)
    unary, fixed = logits.reshape(2, -1), held.ravel()
    start = q = _softmax(unary)
    for _ in range(preset.iterations):
        message = sum(
            np.float32(kernel.weight) * apply(filter, q)
            for kernel, filter in zip(preset.kernels, filters, strict=True)
        )
        q = np.where(fixed, start, _softmax(unary + message))
    return q.argmax(0).reshape(held.shape)


def _softmax(z: np.ndarray) -> np.ndarray:
    odds = np.exp(z - z.max(0))
    return odds / odds.sum(0)


if __name__ == "__main__":
    main()
