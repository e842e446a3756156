"""Scribbles: strokes inside the regions of a label map, as an annotator might draw them."""

from __future__ import annotations

import numpy as np

from crfrnn import _checks

from .masked_images import IGNORE

#: The standard deviation of the turn of a stroke at each pixel, in radians, and its longest length.
_TURN = 0.15
_LENGTH = 60

#: Strokes begin at pixels whose neighbors up to this far are of the same class, if there are any.
_INSIDE = 2

#: How often a stroke is begun for one class, at most; a class of single pixels has no long ones.
_MOST_STROKES = 1000


def scribble(label: np.ndarray, share: float = 0.03, *, seed: int = 0) -> np.ndarray:
    """Keep the labels along a few random strokes, and forget all others.

    Every class of the image gets curved strokes two pixels wide that stay inside its regions, until
    they cover `share` of its pixels; small classes are drawn as well, with one stroke at least.

    Args:
        label: (H, W) class ids; 255 is void, and never drawn on.
        share: the share of each class's pixels that keep their labels, in (0, 1].
        seed: of the random strokes; give each image its own.

    Returns:
        (H, W) int64, 255 off the strokes.

    Raises:
        ValueError: the label map has another shape, or the share is out of range.

    Example:
        >>> import numpy as np
        >>> from crfrnn.data import scribble
        >>> label = np.zeros((60, 80), np.int64)
        >>> label[:, 40:] = 3
        >>> drawn = scribble(label, 0.03)
        >>> np.unique(drawn), round(float((drawn != 255).mean()), 2)
        (array([  0,   3, 255]), 0.03)
    """
    label = np.asarray(label)
    if label.ndim != 2 or label.dtype.kind not in "iu":
        raise ValueError(
            f"label must be (H, W) integer class ids; got {label.dtype} {_checks.shape_text(label)}"
        )
    (share,) = _checks.positive("share", share, "a share of the pixels")
    if share > 1:
        raise ValueError(f"share must be in (0, 1]; got {share}")
    drawn = np.full(label.shape, IGNORE, np.int64)
    random = np.random.default_rng(_checks.count("seed", seed))
    for value in np.unique(label[label != IGNORE]).tolist():
        region = label == value
        drawn[_strokes(region, share * np.count_nonzero(region), random)] = value
    return drawn


def _strokes(region: np.ndarray, wanted: float, random: np.random.Generator) -> np.ndarray:
    """Strokes within a region that cover about the wanted number of pixels."""
    starts = np.argwhere(_inside(region))
    if not len(starts):
        starts = np.argwhere(region)
    covered = np.zeros_like(region)
    left = max(1, round(wanted))
    for _ in range(_MOST_STROKES):
        place, angle = starts[random.integers(len(starts))] + 0.5, random.uniform(0, 2 * np.pi)
        for turn in random.normal(0, _TURN, _LENGTH):
            row, column = (int(part) for part in np.floor(place))
            if not _holds(region, row, column) or left <= 0:
                break
            for r, c in (
                (row, column),
                (row, column + 1),
                (row + 1, column),
                (row + 1, column + 1),
            ):
                if left > 0 and _holds(region, r, c) and not covered[r, c]:
                    covered[r, c] = True
                    left -= 1
            angle += turn
            place = place + np.array([np.sin(angle), np.cos(angle)])
        if left <= 0:
            break
    return covered


def _holds(region: np.ndarray, row: int, column: int) -> bool:
    height, width = region.shape
    return 0 <= row < height and 0 <= column < width and bool(region[row, column])


def _inside(region: np.ndarray) -> np.ndarray:
    """The pixels of a region that are more than `_INSIDE` pixels from its border."""
    inside = region
    for axis in (0, 1):
        padded = np.pad(inside, [(_INSIDE, _INSIDE) if a == axis else (0, 0) for a in (0, 1)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _INSIDE + 1, axis)
        inside = np.all(windows, axis=-1)
    return inside
