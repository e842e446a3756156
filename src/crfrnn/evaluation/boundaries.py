"""Boundaries of labels: distances to a set of pixels, bands, contours."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


def squared_distance(pixels: Bool[Tensor, "H W"], limit: int) -> Int64[Tensor, "H W"]:
    """Squared Euclidean distance to the nearest pixel of a set, exact up to `limit`.

    Args:
        pixels: the set.
        limit: farther pixels, and all of them if the set is empty, get `(limit + 1) ** 2`.

    Example:
        >>> import torch
        >>> from crfrnn.evaluation.boundaries import squared_distance
        >>> squared_distance(torch.tensor([[True, False, False, False]]), 2)
        tensor([[0, 1, 4, 9]])
    """
    # Minimize over rows, then over columns. Only shifts up to `limit` matter, so plain minima of
    # shifted copies replace the lower envelope of parabolas of an unlimited transform.
    far = limit + 1
    column = _column_distance(pixels, far).square()
    width = pixels.shape[1]
    best = column.clone()
    for shift in range(1, min(limit, width - 1) + 1):
        moved = column + shift * shift
        torch.minimum(best[:, shift:], moved[:, :-shift], out=best[:, shift:])
        torch.minimum(best[:, :-shift], moved[:, shift:], out=best[:, :-shift])
    return torch.where(best > limit * limit, far * far, best)


def _column_distance(pixels: Bool[Tensor, "H W"], far: int) -> Int64[Tensor, "H W"]:
    """Distance to the nearest pixel of the set in the same column, at most `far`."""
    height = pixels.shape[0]
    rows = torch.arange(height, device=pixels.device)[:, None].expand_as(pixels)
    above = torch.where(pixels, rows, -far - height).cummax(dim=0).values
    below = torch.where(pixels, rows, 2 * height + far).flip(0).cummin(dim=0).values.flip(0)
    return torch.minimum(rows - above, below - rows).clamp(max=far)


def other_label_distance(label: Int64[Tensor, "H W"], limit: int) -> Int64[Tensor, "H W"]:
    """Squared distance of each pixel to the nearest pixel of another label, exact up to `limit`.

    The border of the image is no boundary. Every value is a label, void too, so a void band
    between two objects is an edge of both.
    """
    distance = torch.full_like(label, (limit + 1) ** 2)
    for value in torch.unique(label).tolist():
        inside = label == value
        distance = torch.where(inside, squared_distance(~inside, limit), distance)
    return distance


def contour(mask: Bool[Tensor, "H W"]) -> Bool[Tensor, "H W"]:
    """Mark the pixels of a mask with a 4-neighbor outside; beyond the image there is none."""
    edge = torch.zeros_like(mask)
    for axis in (0, 1):
        count = mask.shape[axis]
        first, second = mask.narrow(axis, 0, count - 1), mask.narrow(axis, 1, count - 1)
        edge.narrow(axis, 0, count - 1).logical_or_(first & ~second)
        edge.narrow(axis, 1, count - 1).logical_or_(second & ~first)
    return edge


def inner_band(mask: Bool[Tensor, "H W"], width: int) -> Bool[Tensor, "H W"]:
    """Mark the pixels of a mask within `width` of its outside, or of the image's border.

    This is the band of Boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562), whose code erodes
    the mask `width` times by 3 × 3 pixels; distances are thus those of a square.
    """
    inside = torch.nn.functional.pad(mask, (width,) * 4)
    for axis in (0, 1):
        # A minimum over 2 w + 1 neighbors along this axis, by doubling: log w passes, not w.
        reach, wanted = 1, 2 * width + 1
        while reach < wanted:
            step = min(reach, wanted - reach)
            size = inside.shape[axis] - step
            inside = inside.narrow(axis, 0, size) & inside.narrow(axis, step, size)
            reach += step
    return mask & ~inside


def fill(label: Int64[Tensor, "H W"], void: int, steps: int) -> Int64[Tensor, "H W"]:
    """Give void pixels the label of a neighbor, `steps` times; deeper pixels stay void.

    This closes the void bands that VOC draws along objects, to a boundary in their middle.
    """
    label = label.clone()
    for _ in range(steps):
        empty = label == void
        if not bool(empty.any()):
            break
        before = label.clone()
        for axis in (0, 1):
            count = label.shape[axis] - 1
            for to, source in ((0, 1), (1, 0)):
                target = label.narrow(axis, to, count)
                free = empty.narrow(axis, to, count) & (target == void)
                target.copy_(torch.where(free, before.narrow(axis, source, count), target))
        if torch.equal(before, label):
            break
    return label


def pixels_of(size: tuple[int, int], share: float) -> int:
    """Convert a share of the image's diagonal to whole pixels, at least 1."""
    return max(1, round(share * math.hypot(*size)))
