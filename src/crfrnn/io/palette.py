"""Class colors: PASCAL VOC's, with its class names, and others that are easy to distinguish."""

from __future__ import annotations

import functools
import itertools
import math

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa",
    "train", "TV monitor",
)  # fmt: skip


def voc_palette() -> bytes:
    """Return the VOC color map: 256 RGB triples, label 0 black, label 255 (void) cream."""
    return b"".join(_color(label) for label in range(256))


@functools.cache
def distinct_palette(count: int) -> bytes:
    """Return RGB triples that are as far apart as they can be, label 0 black.

    Each color is the one farthest from all before it, and from black, white and gray, in Oklab,
    where distances are about as large as they look (Ottosson, 2020). A palette of fewer colors is
    the beginning of a longer one.

    Args:
        count: number of labels, of which those beyond 256 get none.
    """
    levels = range(0, 256, 51)
    colors = [rgb for rgb in itertools.product(levels, repeat=3) if max(rgb) - min(rgb) > 60]
    colors += [(level, level, level) for level in (80, 170)]
    places = {rgb: _oklab(rgb) for rgb in colors}
    near = {
        rgb: min(math.dist(place, _oklab((v, v, v))) for v in (0, 128, 255))
        for rgb, place in places.items()
    }
    chosen: list[tuple[int, ...]] = [(0, 0, 0)]
    while len(chosen) < min(count, 256) and near:
        best = max(near, key=lambda rgb: near[rgb])
        chosen.append(best)
        del near[best]
        for rgb in near:
            near[rgb] = min(near[rgb], math.dist(places[rgb], places[best]))
    return bytes(itertools.chain.from_iterable(chosen))


def _oklab(rgb: tuple[int, ...]) -> tuple[float, float, float]:
    """The place of a color in Oklab."""
    r, g, b = (v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb)
    long, middle, short = (
        v ** (1 / 3)
        for v in (
            0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b,
            0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b,
            0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b,
        )
    )
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


def _color(label: int) -> bytes:
    """Color a label as the VOC devkit does.

    Each three bits of the label, from the lowest, become the next lower bit of red, green and blue.
    Small labels thus differ in the highest bits.
    """
    rgb = [0, 0, 0]
    for shift in range(7, -1, -1):
        for channel in range(3):
            rgb[channel] |= (label & 1) << shift
            label >>= 1
    return bytes(rgb)
