"""Boundaries of labels: distances to a set of pixels, bands, contours.

The functions take NumPy arrays, or tensors, and then answer in tensors on the same device.
"""

from __future__ import annotations

import math

import numpy as np

from crfrnn._arrays import Array

from ._tensors import tensors_too


@tensors_too
def squared_distance(pixels: Array, limit: int) -> Array:
    """Squared Euclidean distance to the nearest pixel of a set, exact up to `limit`.

    Args:
        pixels: (H, W) bool, the set.
        limit: farther pixels, and all of them if the set is empty, get `(limit + 1) ** 2`.

    Returns:
        (H, W) int64.

    Example:
        >>> import numpy as np
        >>> from crfrnn.evaluation.boundaries import squared_distance
        >>> squared_distance(np.array([[True, False, False, False]]), 2)
        array([[0, 1, 4, 9]])
    """
    # Minimize over rows, then over columns. Only shifts up to `limit` matter, so plain minima of
    # shifted copies replace the lower envelope of parabolas of an unlimited transform.
    far = limit + 1
    column = _column_distance(pixels, far) ** 2
    width = pixels.shape[1]
    best = column.copy()
    for shift in range(1, min(limit, width - 1) + 1):
        moved = column + shift * shift
        np.minimum(best[:, shift:], moved[:, :-shift], out=best[:, shift:])
        np.minimum(best[:, :-shift], moved[:, shift:], out=best[:, :-shift])
    return np.where(best > limit * limit, far * far, best)


def _column_distance(pixels: np.ndarray, far: int) -> np.ndarray:
    """Distance (H, W) to the nearest pixel of the set in the same column, at most `far`."""
    distance: np.ndarray = np.where(pixels, np.int64(0), np.int64(far))
    for rows in (distance, distance[::-1]):  # from the pixels above, then from those below
        for row, before in zip(rows[1:], rows[:-1], strict=True):
            np.minimum(row, before + 1, out=row)
    return distance


@tensors_too
def other_label_distance(label: Array, limit: int) -> Array:
    """Squared distance of each pixel to the nearest pixel of another label, exact up to `limit`.

    The border of the image is no boundary. Every value is a label, void too, so a void band
    between two objects is an edge of both.

    Args:
        label: (H, W) ids.
        limit: see `squared_distance`.

    Returns:
        (H, W) int64.

    Example:
        >>> import numpy as np
        >>> from crfrnn.evaluation.boundaries import other_label_distance
        >>> other_label_distance(np.array([[5, 5, 5, 7, 7]]), 2)
        array([[9, 4, 1, 1, 4]])
    """
    distance = np.full(label.shape, (limit + 1) ** 2, dtype=np.int64)
    for value in np.unique(label).tolist():
        inside = label == value
        distance = np.where(inside, squared_distance(~inside, limit), distance)
    return distance


@tensors_too
def contour(mask: Array) -> Array:
    """Mark the pixels of a mask with a 4-neighbor outside; beyond the image there is none.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) bool.

    Example:
        >>> import numpy as np
        >>> from crfrnn.evaluation.boundaries import contour
        >>> contour(np.array([[True, True, True, False]]))
        array([[False, False,  True, False]])
    """
    edge = np.zeros_like(mask)
    for inside, marked in ((mask, edge), (mask.T, edge.T)):
        marked[:-1] |= inside[:-1] & ~inside[1:]
        marked[1:] |= inside[1:] & ~inside[:-1]
    return edge


@tensors_too
def inner_band(mask: Array, width: int) -> Array:
    """Mark the pixels of a mask within `width` of its outside, or of the image's border.

    This is the band of Boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562), whose code erodes
    the mask `width` times by 3 × 3 pixels; distances are thus those of a square.

    Args:
        mask: (H, W) bool.
        width: in pixels.

    Returns:
        (H, W) bool.

    Example:
        >>> import numpy as np
        >>> from crfrnn.evaluation.boundaries import inner_band
        >>> inner_band(np.ones((3, 3), bool), 1)
        array([[ True,  True,  True],
               [ True, False,  True],
               [ True,  True,  True]])
    """
    inside = np.pad(mask, width)
    for _ in range(2):  # along the rows, then along the columns
        # A minimum over 2 w + 1 neighbors along the first axis, by doubling: log w passes, not w.
        reach, wanted = 1, 2 * width + 1
        while reach < wanted:
            step = min(reach, wanted - reach)
            inside = inside[:-step] & inside[step:]
            reach += step
        inside = inside.T
    return mask & ~inside


@tensors_too
def fill(label: Array, void: int, steps: int) -> Array:
    """Give void pixels the label of a neighbor, `steps` times; deeper pixels stay void.

    This closes the void bands that VOC draws along objects, to a boundary in their middle.

    Args:
        label: (H, W) ids.
        void: the id of void.
        steps: in pixels.

    Returns:
        (H, W) ids; `label` stays as it is.

    Example:
        >>> import numpy as np
        >>> from crfrnn.evaluation.boundaries import fill
        >>> fill(np.array([[1, 255, 255, 255, 2]]), 255, 1)
        array([[  1,   1, 255,   2,   2]])
    """
    label = label.copy()
    for _ in range(steps):
        empty = label == void
        if not empty.any():
            break
        before = label.copy()
        for target, source, hole in ((label, before, empty), (label.T, before.T, empty.T)):
            # From the neighbor below, then above; in transposed arrays, right, then left.
            for to, of in ((np.s_[:-1], np.s_[1:]), (np.s_[1:], np.s_[:-1])):
                free = hole[to] & (target[to] == void)
                np.copyto(target[to], source[of], where=free)
        if np.array_equal(before, label):
            break
    return label


def pixels_of(size: tuple[int, int], share: float) -> int:
    """Convert a share of the image's diagonal to whole pixels, at least 1."""
    return max(1, round(share * math.hypot(*size)))
