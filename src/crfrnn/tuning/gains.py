"""Differences in mean IoU between two sets of parameters, paired over images."""

from __future__ import annotations

from torch import Tensor

from crfrnn.evaluation.metrics import Counts, Settings, interval, resample


def drawn_gains(first: Tensor, second: Tensor, *, seed: int = 0) -> Tensor:
    """Bootstrap samples of the gain in percent from one set of counts (N, C, C) to another."""
    # Both rows are resampled with the same images: the spread between images cancels in the gain.
    rows = {"first": _counts(first), "second": _counts(second)}
    drawn = resample(rows, Settings(widths=(1,)), seed=seed)
    return 100 * (drawn["second"]["mean_iou"] - drawn["first"]["mean_iou"])


def gain_interval(first: Tensor, second: Tensor) -> tuple[float, float]:
    """95 % bootstrap interval of the gain in percent."""
    return interval(drawn_gains(first, second))


def _counts(confusion: Tensor) -> Counts:
    """Counts from confusion matrices alone; only IoU may be computed from them."""
    images, classes = confusion.shape[:2]
    return Counts(
        confusion,
        confusion[:, None],
        confusion.new_zeros(images, 2, classes),
        confusion.new_zeros(images, 4, classes),
    )
