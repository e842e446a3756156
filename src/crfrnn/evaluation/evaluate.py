"""Scoring methods on a data set: one pass, counts per image, scores with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crfrnn._arrays import Array, to_numpy
from crfrnn.data import MaskedImages, Sample

from .metrics import Counts, Judge, Settings, interval, iou, resample, stack, summarize
from .metrics import total as add_up

#: Returns the labels (H, W) of a sample per method, by the name of the method.
Predict = Callable[[Sample], Mapping[str, Array]]

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Evaluation:
    """The counts of all images and methods.

    Attributes:
        names: names of the images.
        classes: names of the classes, or their ids.
        settings: the measures along boundaries.
        rows: counts (N, ...) of the N images, by method.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    settings: Settings
    rows: Mapping[str, Counts]

    def summary(self, *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Return all scores on 0..1, with 95 % bootstrap intervals over images, as JSON values.

        Differences are to the first method, and paired: a bootstrap sample scores all methods on
        the same images. What makes images easy or hard thus cancels, and intervals are narrower.

        Args:
            resamples: number of bootstrap samples.
            seed: seed of the bootstrap samples.

        Returns:
            `images`, `classes`, `settings`, `bootstrap`; `rows` with, by method, each score as
            `value`, `low`, `high`, and `class_iou` (null for a class in neither truth nor
            prediction, which counts in no mean); `differences` likewise; and a `verdict`.
        """
        drawn = resample(self.rows, self.settings, resamples=resamples, seed=seed)
        values = {
            name: {
                score: float(value)
                for score, value in summarize(add_up(counts), self.settings).items()
            }
            for name, counts in self.rows.items()
        }
        first, *others = self.rows
        rows = {
            name: {
                **{score: _spread(value, drawn[name][score]) for score, value in scores.items()},
                "class_iou": self._class_iou(name),
            }
            for name, scores in values.items()
        }
        differences = {
            other: {
                score: _spread(
                    value - values[first][score], drawn[other][score] - drawn[first][score]
                )
                for score, value in values[other].items()
            }
            for other in others
        }
        return {
            "images": len(self.names),
            "classes": list(self.classes),
            "settings": asdict(self.settings),
            "bootstrap": {"resamples": resamples, "seed": seed, "interval": 0.95},
            "rows": rows,
            "differences": differences,
            "verdict": [verdict(name, rows[first], gain) for name, gain in differences.items()],
        }

    def changes(self, first: str = BEFORE, second: str = AFTER) -> list[float]:
        """Return each image's change in mean IoU over its true classes, between two methods."""
        old, new = (_image_iou(self.rows[name].confusion) for name in (first, second))
        changes: list[float] = (new - old).tolist()
        return changes

    def _class_iou(self, name: str) -> dict[str, float | None]:
        values = iou(add_up(self.rows[name]).confusion).tolist()
        return {
            label: None if math.isnan(value) else value
            for label, value in zip(self.classes, values, strict=True)
        }


def evaluate(
    data: MaskedImages,
    predict: Predict,
    *,
    settings: Settings | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Count what methods predict on every image of a data set.

    Each method has one confusion matrix, over all pixels of all images that are not ignored.

    Args:
        data: photographs and masks.
        predict: sample -> labels (H, W) by method; the same methods for every sample.
        settings: the measures along boundaries.
        advance: called after each image.

    Example:
        >>> from crfrnn.data import open_voc
        >>> from crfrnn.evaluation.evaluate import evaluate
        >>> data = open_voc("VOCdevkit/VOC2012", "val")  # doctest: +SKIP
        >>> scores = evaluate(data, lambda s: {"all background": s.label * 0})  # doctest: +SKIP
        >>> scores.summary()["rows"]["all background"]["mean_iou"]["value"]  # doctest: +SKIP
        0.034
    """
    settings = Settings() if settings is None else settings
    rows: dict[str, list[Counts]] = {}
    for index in range(len(data)):
        sample = data[index]
        judge = Judge(sample.label, data.num_classes, settings)
        for name, labels in predict(sample).items():
            try:
                rows.setdefault(name, []).append(judge.count(to_numpy(labels)))
            except ValueError as error:
                raise ValueError(f"{sample.name}, {name}: {error}") from error
        advance()
    classes = data.classes or tuple(str(index) for index in range(data.num_classes))
    return Evaluation(
        tuple(data.names),
        classes,
        settings,
        {name: stack(counts) for name, counts in rows.items()},
    )


def verdict(name: str, before: Mapping[str, Any], difference: Mapping[str, Any]) -> str:
    """Say in one sentence what a method did to the mean IoU."""
    if difference["mean_iou"]["value"] is None:
        return f"{name} cannot be compared: no pixel has a true label"
    gain = {key: 100 * value for key, value in difference["mean_iou"].items()}
    old = 100 * before["mean_iou"]["value"]
    numbers = (
        f"{old:.2f} -> {old + gain['value']:.2f} ({gain['value']:+.2f}, "
        f"95 % interval {gain['low']:+.2f} to {gain['high']:+.2f})"
    )
    if gain["low"] > 0:
        return f"{name} is better: mean IoU {numbers}"
    if gain["high"] < 0:
        return f"{name} is WORSE: mean IoU {numbers}"
    return f"{name} makes no clear difference: mean IoU {numbers}"


def extremes(changes: Sequence[float]) -> dict[str, int]:
    """Return the indices of the images with the best, the median and the worst change."""
    order = sorted(range(len(changes)), key=lambda index: changes[index])
    return {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}


def _image_iou(confusion: Array) -> np.ndarray:
    """Mean IoU of single images over their true classes.

    A false class lowers the IoU of the true classes; its own IoU of 0 would count it twice.
    """
    confusion = to_numpy(confusion)
    is_true: np.ndarray = confusion.sum(axis=-1) > 0
    values = np.where(is_true, iou(confusion), 0)
    return np.asarray(values.sum(axis=-1) / np.maximum(is_true.sum(axis=-1), 1))


def _spread(value: float, drawn: Array) -> dict[str, float | None]:
    low, high = interval(drawn)
    numbers = {"value": value, "low": low, "high": high}
    return {name: None if math.isnan(number) else number for name, number in numbers.items()}
