"""Bringing a score map to the pixel grid of its image: which axis is what, and resampling."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Shaped

from .notes import spell_size
from .options import DEFAULTS, ClassAxis, ReadOptions, Size


def classes_first(
    scores: Shaped[np.ndarray, "A B C"], size: Size, class_axis: ClassAxis = "auto"
) -> Shaped[np.ndarray, "*shape"]:
    """Move the class axis of a 3-D score array to the front.

    By "auto", the reading whose height and width are `size` wins; else the class axis is the
    smaller of the first and the last (the first, if they are equal).

    Args:
        scores: (C, h, w) or (h, w, C).
        size: height and width that the scores cover.
        class_axis: "first", "last", or "auto".

    Raises:
        ValueError: "auto" would choose an axis that leaves a map of an odd shape, where the other
            leaves one shaped like `size`, or a square.
    """
    first, last = _last_two(scores), _last_two(np.moveaxis(scores, 2, 0))
    if class_axis == "auto":
        if size in (first, last):
            class_axis = "first" if first == size else "last"
        else:
            class_axis = "first" if scores.shape[0] <= scores.shape[2] else "last"
            chosen, other = (first, last) if class_axis == "first" else (last, first)
            if not _is_usual(chosen, size) and _is_usual(other, size):
                raise ValueError(
                    f"cannot tell which axis of the scores {scores.shape} holds the classes; "
                    "say --channels-first or --channels-last"
                )
    return scores if class_axis == "first" else np.moveaxis(scores, 2, 0)


def _last_two(scores: Shaped[np.ndarray, "A B C"]) -> Size:
    return scores.shape[1], scores.shape[2]


def _is_usual(found: Size, size: Size) -> bool:
    """Whether networks give such maps: shaped like what they saw, or square."""
    return same_shape(found, size) or found[0] == found[1]


def require_upright(found: Size, size: Size) -> None:
    """Raise if a map of height and width `found` fits `size` only with the two swapped."""
    exactly = found == size[::-1] != size
    if exactly or (not same_shape(found, size) and same_shape(found, size[::-1])):
        raise ValueError(
            f"height and width of the scores look swapped: they are {spell_size(found)} for an "
            f"image of {spell_size(size)} (height x width). Transpose the scores, for example with "
            "np.swapaxes; if EXIF turned the photograph before the network saw it, say --apply-exif"
        )


def same_shape(found: Size, size: Size) -> bool:
    """Whether one stride, rounded up or down on each axis, leads from `size` to `found`."""
    low, high = 0.0, np.inf
    for cells, pixels in zip(found, size, strict=True):
        low = max(low, pixels / (cells + 1))
        high = min(high, pixels / (cells - 1) if cells > 1 else np.inf)
    return found == size or low <= high


def resample(
    scores: Float32[np.ndarray, "C h w"], size: Size, options: ReadOptions = DEFAULTS
) -> Float32[np.ndarray, "C H W"]:
    """Interpolate scores bilinearly to `size`.

    Args:
        scores: score maps of any resolution.
        size: height and width of the image.
        options: `canvas` and `align_corners` count.
    """
    import torch

    height, width = size
    target = options.covered(size)
    if target[0] < height or target[1] < width:
        raise ValueError(
            f"the canvas {spell_size(target)} is smaller than the image {spell_size(size)} "
            "(height x width)"
        )
    if scores.shape[1:] != target:
        shrinks = scores.shape[1] > target[0] or scores.shape[2] > target[1]
        scores = torch.nn.functional.interpolate(
            torch.from_numpy(np.ascontiguousarray(scores))[None],
            size=target,
            mode="bilinear",
            align_corners=options.align_corners,
            antialias=shrinks and not options.align_corners,
        )[0].numpy()
    return np.ascontiguousarray(scores[:, :height, :width])
