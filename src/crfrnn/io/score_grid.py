"""Bringing scores to the pixel grid of their image: finding the class axis, and resampling."""

from __future__ import annotations

import numpy as np

from crfrnn._resampling import interpolate

from .notes import spell_size
from .options import DEFAULTS, ClassAxis, ReadOptions, Size


def classes_first(scores: np.ndarray, size: Size, class_axis: ClassAxis = "auto") -> np.ndarray:
    """Move the class axis of a 3-D score array to the front.

    With "auto", the class axis is the one without which height and width are `size`; else the
    shorter of the first and the last (the first, if they are equal).

    Args:
        scores: (C, h, w) or (h, w, C).
        size: height and width that the scores cover.
        class_axis: "first", "last", or "auto".

    Raises:
        ValueError: without the axis that "auto" would choose, the map has neither the proportions
            of `size` nor those of a square; without the other axis, it has.
    """
    first, last = _last_two(scores), _last_two(np.moveaxis(scores, 2, 0))
    if class_axis == "auto":
        if size in (first, last):
            class_axis = "first" if first == size else "last"
        else:
            class_axis = "first" if scores.shape[0] <= scores.shape[2] else "last"
            chosen, other = (first, last) if class_axis == "first" else (last, first)
            if not is_usual(chosen, size) and is_usual(other, size):
                raise ValueError(
                    f"cannot tell which axis of the scores {scores.shape} holds the classes; "
                    "give --channels-first or --channels-last"
                )
    return scores if class_axis == "first" else np.moveaxis(scores, 2, 0)


def _last_two(scores: np.ndarray) -> Size:
    return scores.shape[1], scores.shape[2]


def is_usual(cells: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether networks give maps of this size: the proportions of their input, or a square."""
    return same_shape(cells, size) or len(set(cells)) == 1


def require_grid(cells: Size, size: Size) -> None:
    """Raise if `cells` are the classes and all pixels of an image in one row, in either order."""
    height, width = size
    if same_shape(cells, size) or height * width not in cells:
        return
    target = f"-1, {height}, {width}" if cells[1] == height * width else f"{height}, {width}, -1"
    raise ValueError(
        f"the pixels of the scores are in one row: they are {spell_size(cells)} for an image of "
        f"{spell_size(size)} (height x width). Save scores.reshape({target})"
    )


def require_upright(cells: Size, size: Size) -> None:
    """Raise if a map of height and width `cells` fits `size` only with the two swapped."""
    # Near a square, one stride explains both orders; equal sizes still prove a swap.
    exactly = cells == size[::-1] != size
    if exactly or (not same_shape(cells, size) and same_shape(cells, size[::-1])):
        raise ValueError(
            f"height and width of the scores look swapped: they are {spell_size(cells)} for an "
            f"image of {spell_size(size)} (height x width). Transpose the scores, for example with "
            "np.swapaxes. If the network saw the photograph turned as its EXIF orientation says, "
            "give --apply-exif; if it saw the stored pixels, do not"
        )


def same_shape(cells: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether one stride, rounded up or down on each axis, leads from `size` to `cells`."""
    # n pixels at stride s give n / s cells, rounded: s lies between n / (cells + 1) and
    # n / (cells - 1). The proportions agree if these ranges of the two axes overlap.
    low, high = 0.0, np.inf
    for count, pixels in zip(cells, size, strict=True):
        low = max(low, pixels / (count + 1))
        high = min(high, pixels / (count - 1) if count > 1 else np.inf)
    return cells == size or low <= high


def padded_size(cells: Size, size: Size) -> Size:
    """Return the size of whole cells of the likeliest stride; `size` if its cells divide it.

    A stride is taken for likely if it is a power of two up to 32, and with one cell less the image
    would not be covered.
    """
    for stride in (2, 4, 8, 16, 32):
        height, width = cells[0] * stride, cells[1] * stride
        if (height - stride + 1, width - stride + 1) == size:
            return size  # the centers of the corner cells lie on the corner pixels
        if height - stride < size[0] <= height and width - stride < size[1] <= width:
            return height, width
    return size


def resample(scores: np.ndarray, size: Size, options: ReadOptions = DEFAULTS) -> np.ndarray:
    """Interpolate scores bilinearly to `size`.

    Args:
        scores: score maps (C, h, w) of any resolution.
        size: height and width of the image.
        options: only `canvas` and `align_corners` are used.

    Returns:
        Score maps (C, H, W) of the same type.
    """
    height, width = size
    target = options.covered(size)
    if target[0] < height or target[1] < width:
        raise ValueError(
            f"the canvas {spell_size(target)} must not be smaller than the image "
            f"{spell_size(size)} (height x width)"
        )
    # The columns first: what lies beyond the image is then left out of the larger step.
    columns = interpolate(scores, 2, target[1], width, options.align_corners)
    return np.ascontiguousarray(interpolate(columns, 1, target[0], height, options.align_corners))
