"""Counts that add up over images, the scores computed from them, and bootstrap intervals.

The functions take NumPy arrays, or tensors, and then answer in tensors on the same device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from crfrnn import _checks
from crfrnn._arrays import Array, to_numpy

from ._tensors import tensors_too
from .boundaries import contour, fill, inner_band, other_label_distance, pixels_of, squared_distance

#: The label of void pixels, which do not count.
IGNORE = 255


@dataclass(frozen=True)
class Settings:
    """The measures along boundaries.

    Attributes:
        widths: widths of the trimap bands in pixels (Kohli, Ladický & Torr, IJCV 2009).
        band: width of Boundary IoU's band, as a share of the image's diagonal (Cheng et al. 2021).
        tolerance: tolerance of boundary F, likewise (Csurka et al., BMVC 2013).
    """

    widths: tuple[int, ...] = (1, 3, 5, 10)
    band: float = 0.02
    tolerance: float = 0.0075

    def __post_init__(self) -> None:
        """Check the numbers."""
        for width in self.widths:
            _checks.count("width", width, least=1)
        _checks.positive("band", self.band, "a share of the diagonal")
        _checks.positive("tolerance", self.tolerance, "a share of the diagonal")


@dataclass(frozen=True)
class Counts:
    """Pixel counts of one image, or of several with a leading axis.

    Attributes:
        confusion: (..., C, C) pixels by true class (rows) and predicted class (columns).
        trimap: (..., W, C, C) the same within each trimap band.
        band: (..., 2, C) intersection and union of Boundary IoU.
        contour: (..., 4, C) contour pixels: predicted near a true one, predicted, true near a
            predicted one, true.
    """

    confusion: Array
    trimap: Array
    band: Array
    contour: Array


@tensors_too
def stack(counts: Sequence[Counts]) -> Counts:
    """Stack the counts of several images along a new first axis."""
    return Counts(*(np.stack([getattr(c, f.name) for c in counts]) for f in fields(Counts)))


@tensors_too
def total(counts: Counts) -> Counts:
    """Add up the counts of all images."""
    return Counts(*(getattr(counts, f.name).sum(axis=0) for f in fields(Counts)))


@tensors_too
def confusion_matrix(
    prediction: Array, label: Array, num_classes: int, *, ignore_index: int = IGNORE
) -> Array:
    """Count pixels by true class (rows) and predicted class (columns).

    Args:
        prediction: class ids, of any shape.
        label: true class ids, of the same shape; pixels of `ignore_index` do not count.
        num_classes: C.
        ignore_index: see `label`.

    Returns:
        (C, C) int64.

    Raises:
        ValueError: an id that counts is not a class.

    Example:
        >>> import numpy as np
        >>> from crfrnn.evaluation.metrics import confusion_matrix
        >>> confusion_matrix(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 255]), 2)
        array([[1, 1],
               [0, 1]])
    """
    counted = label != ignore_index
    truth, found = label[counted].astype(np.int64), prediction[counted]
    for name, ids in (("true", truth), ("predicted", found)):
        if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
            raise ValueError(
                f"{name} ids must be 0..{num_classes - 1} where the label is not {ignore_index}; "
                f"got {ids.min()}..{ids.max()}. Check num_classes and ignore_index."
            )
    codes = truth * num_classes + found
    return np.bincount(codes, minlength=num_classes**2).reshape(num_classes, num_classes)


@tensors_too
def iou(confusion: Array) -> Array:
    """Intersection over union of each class; NaN for a class in neither truth nor prediction.

    Args:
        confusion: (..., C, C) counts.

    Returns:
        (..., C) float64.

    Example:
        >>> import numpy as np
        >>> from crfrnn.evaluation.metrics import iou
        >>> iou(np.array([[3, 1], [0, 4]]))
        array([0.75, 0.8 ])
    """
    hit = _diagonal(confusion)
    return _share(hit, confusion.sum(axis=-1) + confusion.sum(axis=-2) - hit)


@tensors_too
def mean_iou(confusion: Array) -> Array:
    """Mean of `iou` over the classes in truth or prediction, (...) float64."""
    return _mean(iou(confusion))


@tensors_too
def pixel_accuracy(confusion: Array) -> Array:
    """Share of the counted pixels whose class is right, (...) float64."""
    return _share(_diagonal(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


@tensors_too
def boundary_iou(counts: Counts) -> Array:
    """Mean Boundary IoU over the classes in truth or prediction, (...) float64."""
    return _mean(_share(counts.band[..., 0, :], counts.band[..., 1, :]))


@tensors_too
def boundary_f(counts: Counts) -> Array:
    """Mean F score of contour precision and recall, over the classes with a contour."""
    matched, predicted, recalled, true = np.moveaxis(counts.contour.astype(np.float64), -2, 0)
    # 2 P R / (P + R); a class with a contour on one side only has P = 0 or R = 0, thus F = 0.
    precision, recall = matched / np.maximum(predicted, 1), recalled / np.maximum(true, 1)
    f = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return _mean(np.where(predicted + true > 0, f, np.nan))


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    return confusion.diagonal(axis1=-2, axis2=-1)


def _share(part: np.ndarray | np.number, whole: np.ndarray | np.number) -> np.ndarray:
    """The quotient in float64; NaN for 0 / 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.divide(part, whole, dtype=np.float64))


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    return _share(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))


def summarize(counts: Counts, settings: Settings) -> dict[str, Array]:
    """Compute all scores, on 0..1, by name: mean_iou, pixel_accuracy, trimap_iou_3, ..."""
    trimap = mean_iou(counts.trimap)
    return {
        "mean_iou": mean_iou(counts.confusion),
        "pixel_accuracy": pixel_accuracy(counts.confusion),
        **{f"trimap_iou_{w}": trimap[..., i] for i, w in enumerate(settings.widths)},
        "boundary_iou": boundary_iou(counts),
        "boundary_f": boundary_f(counts),
    }


def score_titles(widths: Sequence[int]) -> dict[str, str]:
    """Return the titles of the scores of `summarize`, by name."""
    return {
        "mean_iou": "mean IoU",
        "pixel_accuracy": "pixel accuracy",
        **{f"trimap_iou_{width}": f"trimap IoU, {width} px" for width in widths},
        "boundary_iou": "boundary IoU",
        "boundary_f": "boundary F",
    }


class Judge:
    """Counts predictions against one true label map, whose geometry is computed once.

    A trimap band holds the labeled pixels within its width of another true label or of void.
    Boundary IoU and boundary F need closed objects: first, void bands are filled from their edges
    inwards. Contours are then those of the filled labels and of the whole prediction, and only
    labeled pixels count; for boundary F, also pixels within the tolerance of labeled ones.

    Args:
        label: (H, W) true class ids; pixels of `IGNORE` do not count.
        num_classes: C.
        settings: the measures along boundaries.

    Example:
        >>> import numpy as np
        >>> from crfrnn.evaluation.metrics import Judge, mean_iou
        >>> label = np.zeros((6, 8), np.int64); label[:, 4:] = 1
        >>> counts = Judge(label, 2).count(label)
        >>> float(mean_iou(counts.confusion))
        1.0
    """

    def __init__(self, label: Array, num_classes: int, settings: Settings | None = None) -> None:
        self.settings = Settings() if settings is None else settings
        self.label = label = to_numpy(label)
        self.num_classes = num_classes
        size = (label.shape[0], label.shape[1])
        self._valid = label != IGNORE
        most = max(self.settings.widths, default=0)
        edge = other_label_distance(label, most) if most else label
        self._bands = [self._valid & (edge <= width**2) for width in self.settings.widths]
        self._reach = pixels_of(size, self.settings.band)
        self._tolerance = pixels_of(size, self.settings.tolerance)
        closed = fill(label, IGNORE, max(self._reach, self._tolerance) + 1)
        depth = squared_distance(self._valid, self._tolerance)
        self._near = depth <= self._tolerance**2
        self._truth = {
            value: self._outline(closed == value)
            for value in np.unique(closed).tolist()
            if value != IGNORE
        }

    @tensors_too
    def count(self, prediction: Array) -> Counts:
        """Count a prediction (H, W).

        Raises:
            ValueError: its size is not that of the labels, or an id is not a class.
        """
        self._check(prediction)
        classes = self.num_classes
        trimap = np.zeros((len(self._bands), classes, classes), np.int64)
        for matrix, band in zip(trimap, self._bands, strict=True):
            matrix += confusion_matrix(prediction[band], self.label[band], classes)
        area, lines = np.zeros((2, classes), np.int64), np.zeros((4, classes), np.int64)
        nothing = self._outline(np.zeros_like(self._valid))
        for value in {*self._truth, *np.unique(prediction).tolist()}:
            true = self._truth.get(value, nothing)
            predicted = self._outline(prediction == value)
            area[0, value] = (true.band & predicted.band).sum()
            area[1, value] = (true.band | predicted.band).sum()
            matched = predicted.line & (true.distance <= self._tolerance**2)
            lines[0, value] = matched.sum()
            lines[1, value] = predicted.line.sum()
            recalled = true.line & (predicted.distance <= self._tolerance**2)
            lines[2, value] = recalled.sum()
            lines[3, value] = true.line.sum()
        whole = confusion_matrix(prediction, self.label, classes)
        return Counts(whole, trimap, area, lines)

    def _outline(self, mask: np.ndarray) -> _Outline:
        band = inner_band(mask, self._reach) & self._valid
        line = contour(mask)
        return _Outline(band, line & self._near, squared_distance(line, self._tolerance))

    def _check(self, prediction: np.ndarray) -> None:
        if prediction.shape != self.label.shape:
            raise ValueError(
                f"prediction and label must have the same size (height, width); got "
                f"{_checks.shape_text(prediction)} and {_checks.shape_text(self.label)}"
            )
        low, high = int(prediction.min()), int(prediction.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"predicted ids must be 0..{self.num_classes - 1}; got {low}..{high}. A prediction "
                "has no void. Check num_classes."
            )


@dataclass(frozen=True)
class _Outline:
    """Band inside the border of one class, its contour, and squared distances to the contour."""

    band: np.ndarray
    line: np.ndarray
    distance: np.ndarray


@tensors_too
def resample(
    rows: Mapping[str, Counts], settings: Settings, *, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Array]]:
    """Score the same bootstrap samples of the images for every row.

    Images are drawn with replacement. A score is a ratio of sums over the drawn images, as the
    score of the data set is, and not a mean of scores of images. All rows see the same draws, so
    differences are paired: subtract the scores of two rows draw by draw.

    Args:
        rows: counts (N, ...) of the same N images, by the name of the method.
        settings: the measures along boundaries.
        resamples: R, the number of samples.
        seed: seed of the draws.

    Returns:
        R values per row and score.
    """
    images = {len(counts.confusion) for counts in rows.values()}
    if len(images) != 1:
        raise ValueError(f"all rows must cover the same images; got {sorted(images)} images")
    times = _draw(images.pop(), resamples, seed)
    return {
        name: summarize(
            Counts(*(_weighted(times, getattr(counts, f.name)) for f in fields(Counts))), settings
        )
        for name, counts in rows.items()
    }


@tensors_too
def interval(values: Array) -> tuple[float, float]:
    """Return the ends of the middle 95 % of bootstrap values (the percentile interval)."""
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, (0.025, 0.975)).tolist() if known.size else (np.nan, np.nan)
    return low, high


def _draw(count: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of `count` images is in each bootstrap sample, (R, N) float64."""
    # RandomState, because NumPy promises that its numbers stay the same in all versions.
    state = np.random.RandomState(seed % 2**32)
    draws = state.randint(2**32, size=(resamples, count), dtype=np.uint32) % count
    return np.stack([np.bincount(draw, minlength=count) for draw in draws]).astype(np.float64)


def _weighted(times: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum over images, each as often as it was drawn; exact, because sums are below 2^53."""
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    return (times @ flat).reshape(-1, *counts.shape[1:])
