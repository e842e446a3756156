"""Differences in mean IoU between two sets of parameters, paired over images."""

from __future__ import annotations

import numpy as np

from crfrnn._arrays import Array, to_numpy
from crfrnn.evaluation.metrics import Counts, Settings, interval, resample


def drawn_gains(first: Array, second: Array, *, seed: int = 0) -> np.ndarray:
    """Bootstrap samples of the gain in percent from one set of counts (N, C, C) to another."""
    # Both rows are resampled with the same images: the spread between images cancels in the gain.
    rows = {"first": _counts(first), "second": _counts(second)}
    drawn = resample(rows, Settings(widths=(1,)), seed=seed)
    gains: np.ndarray = drawn["second"]["mean_iou"] - drawn["first"]["mean_iou"]
    return 100 * gains


def gain_interval(first: Array, second: Array) -> tuple[float, float]:
    """95 % bootstrap interval of the gain in percent."""
    return interval(drawn_gains(first, second))


def _counts(confusion: Array) -> Counts:
    """Counts from confusion matrices alone; only IoU may be computed from them."""
    confusion = to_numpy(confusion)
    images, classes = confusion.shape[:2]
    nothing = np.zeros((images, 4, classes), np.int64)
    return Counts(confusion, confusion[:, None], nothing[:, :2], nothing)
