"""Scores of counts, and gains between two sets of parameters, paired over images.

Counts (N, 2, C, C) hold two confusion matrices per image: of all its pixels, and of those within
`WIDTH` pixels of another label, the trimap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from crfrnn._arrays import Array, to_numpy
from crfrnn.evaluation.metrics import Counts, Settings, interval, mean_iou, resample

#: Width of the trimap in pixels.
WIDTH = 3

#: The scores that are computed.
SCORES: tuple[Literal["mean_iou", "trimap_iou"], ...] = ("mean_iou", "trimap_iou")

#: What a search makes as large as possible; "both" is the mean of the other two.
Score = Literal["mean_iou", "trimap_iou", "both"]

#: What each is called in reports.
SCORE_TITLES: dict[str, str] = {
    "mean_iou": "mean IoU",
    "trimap_iou": "trimap IoU",
    "both": "mean of mean IoU and trimap IoU",
}


def scores_of(counts: Array) -> dict[str, float]:
    """Mean IoU and trimap IoU of all images together, in percent."""
    return {
        name: 100 * float(mean_iou(matrix))
        for name, matrix in zip(SCORES, to_numpy(counts).sum(axis=0), strict=True)
    }


def combined(scores: Mapping[str, float], score: Score) -> float:
    """The number that a search compares."""
    return sum(scores[name] for name in _parts(score)) / len(_parts(score))


def drawn_gains(
    first: Array, second: Array, score: Score = "mean_iou", *, seed: int = 0
) -> np.ndarray:
    """Bootstrap samples of the gain in percent from one set of counts to another."""
    # Both rows are resampled with the same images: the spread between images cancels in the gain.
    rows = {"first": _counts(first), "second": _counts(second)}
    drawn = resample(rows, Settings(widths=(WIDTH,)), seed=seed)
    names = {"mean_iou": "mean_iou", "trimap_iou": f"trimap_iou_{WIDTH}"}
    gains: list[np.ndarray] = [
        drawn["second"][names[part]] - drawn["first"][names[part]] for part in _parts(score)
    ]
    mean: np.ndarray = 100 * np.mean(gains, axis=0)
    return mean


def gain_interval(first: Array, second: Array, score: Score = "mean_iou") -> tuple[float, float]:
    """95 % bootstrap interval of the gain in percent."""
    return interval(drawn_gains(first, second, score))


def _parts(score: Score) -> tuple[str, ...]:
    return SCORES if score == "both" else (score,)


def _counts(counts: Array) -> Counts:
    """Counts from confusion matrices alone; only IoU may be computed from them."""
    counts = to_numpy(counts)
    images, _, classes, _ = counts.shape
    nothing = np.zeros((images, 4, classes), np.int64)
    return Counts(counts[:, 0], counts[:, 1:], nothing[:, :2], nothing)
