"""Counts that add up over images, the scores computed from them, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float64, Int64, Shaped
from torch import Tensor

from crfrnn import _checks

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

    confusion: Shaped[Tensor, "*n C C"]
    trimap: Shaped[Tensor, "*n W C C"]
    band: Shaped[Tensor, "*n 2 C"]
    contour: Shaped[Tensor, "*n 4 C"]


def stack(counts: Sequence[Counts]) -> Counts:
    """Stack the counts of several images along a new first axis."""
    return Counts(*(torch.stack([getattr(c, f.name) for c in counts]) for f in fields(Counts)))


def total(counts: Counts) -> Counts:
    """Add up the counts of all images."""
    return Counts(*(getattr(counts, f.name).sum(dim=0) for f in fields(Counts)))


def confusion_matrix(
    prediction: Int64[Tensor, "*S"],
    label: Int64[Tensor, "*S"],
    num_classes: int,
    *,
    ignore_index: int = IGNORE,
) -> Int64[Tensor, "C C"]:
    """Count pixels by true class (rows) and predicted class (columns).

    Args:
        prediction: class ids.
        label: true class ids; pixels of `ignore_index` do not count.
        num_classes: C.
        ignore_index: see `label`.

    Example:
        >>> import torch
        >>> from crfrnn.evaluation.metrics import confusion_matrix
        >>> confusion_matrix(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 255]), 2)
        tensor([[1, 1],
                [0, 1]])
    """
    counted = label != ignore_index
    codes = label[counted] * num_classes + prediction[counted]
    return torch.bincount(codes, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou(confusion: Shaped[Tensor, "*n C C"]) -> Float64[Tensor, "*n C"]:
    """Intersection over union of each class; NaN for a class in neither truth nor prediction."""
    confusion = confusion.double()
    hit = confusion.diagonal(dim1=-2, dim2=-1)
    return hit / (confusion.sum(dim=-1) + confusion.sum(dim=-2) - hit)


def mean_iou(confusion: Shaped[Tensor, "*n C C"]) -> Float64[Tensor, "*n"]:
    """Mean of `iou` over the classes in truth or prediction."""
    return iou(confusion).nanmean(dim=-1)


def pixel_accuracy(confusion: Shaped[Tensor, "*n C C"]) -> Float64[Tensor, "*n"]:
    """Share of the counted pixels whose class is right."""
    confusion = confusion.double()
    return confusion.diagonal(dim1=-2, dim2=-1).sum(dim=-1) / confusion.sum(dim=(-2, -1))


def boundary_iou(counts: Counts) -> Float64[Tensor, "*n"]:
    """Mean Boundary IoU over the classes in truth or prediction."""
    band = counts.band.double()
    return (band[..., 0, :] / band[..., 1, :]).nanmean(dim=-1)


def boundary_f(counts: Counts) -> Float64[Tensor, "*n"]:
    """Mean F score of contour precision and recall, over the classes with a contour."""
    matched, predicted, recalled, true = counts.contour.double().unbind(dim=-2)
    # 2 P R / (P + R); a class with a contour on one side only has P = 0 or R = 0, thus F = 0.
    precision, recall = matched / predicted.clamp(min=1), recalled / true.clamp(min=1)
    f = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
    return f.where(predicted + true > 0, torch.nan).nanmean(dim=-1)


def summarize(counts: Counts, settings: Settings) -> dict[str, Float64[Tensor, "*n"]]:
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
        >>> import torch
        >>> from crfrnn.evaluation.metrics import Judge, mean_iou
        >>> label = torch.zeros(6, 8, dtype=torch.int64); label[:, 4:] = 1
        >>> counts = Judge(label, 2).count(label)
        >>> float(mean_iou(counts.confusion))
        1.0
    """

    def __init__(
        self, label: Int64[Tensor, "H W"], num_classes: int, settings: Settings | None = None
    ) -> None:
        self.settings = Settings() if settings is None else settings
        self.label = label
        self.num_classes = num_classes
        size = (label.shape[0], label.shape[1])
        self._valid = label != IGNORE
        most = max(self.settings.widths, default=0)
        edge = other_label_distance(label, most) if most else label
        self._bands = [self._valid & (edge <= width**2) for width in self.settings.widths]
        self._reach = pixels_of(size, self.settings.band)
        self._tolerance = pixels_of(size, self.settings.tolerance)
        self._closed = fill(label, IGNORE, max(self._reach, self._tolerance) + 1)
        depth = squared_distance(self._valid, self._tolerance)
        self._near = depth <= self._tolerance**2
        self._truth = {
            value: self._outline(self._closed == value)
            for value in torch.unique(self._closed).tolist()
            if value != IGNORE
        }

    def count(self, prediction: Int64[Tensor, "H W"]) -> Counts:
        """Count a prediction.

        Raises:
            ValueError: its size is not that of the labels, or an id is not a class.
        """
        self._check(prediction)
        classes = self.num_classes
        ignored = torch.full_like(self.label, IGNORE)
        trimap = [
            confusion_matrix(prediction, torch.where(band, self.label, ignored), classes)
            for band in self._bands
        ]
        empty = self.label.new_zeros((0, classes, classes))
        area, lines = self.label.new_zeros((2, classes)), self.label.new_zeros((4, classes))
        nothing = self._outline(torch.zeros_like(self._valid))
        for value in {*self._truth, *torch.unique(prediction).tolist()}:
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
        return Counts(whole, torch.stack(trimap) if trimap else empty, area, lines)

    def _outline(self, mask: Tensor) -> _Outline:
        band = inner_band(mask, self._reach) & self._valid
        line = contour(mask)
        return _Outline(band, line & self._near, squared_distance(line, self._tolerance))

    def _check(self, prediction: Tensor) -> None:
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

    band: Tensor
    line: Tensor
    distance: Tensor


def resample(
    rows: Mapping[str, Counts], settings: Settings, *, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Float64[Tensor, " R"]]]:
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
    count = images.pop()
    draws = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    times = torch.zeros(resamples, count, dtype=torch.float64)
    times.scatter_add_(1, draws, torch.ones_like(times))
    return {
        name: summarize(
            Counts(*(_weighted(times, getattr(counts, f.name)) for f in fields(Counts))), settings
        )
        for name, counts in rows.items()
    }


def interval(values: Float64[Tensor, " R"]) -> tuple[float, float]:
    """Return the ends of the middle 95 % of bootstrap values (the percentile interval)."""
    low, high = values.nanquantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high


def _weighted(times: Tensor, counts: Tensor) -> Tensor:
    """Sum over images, each as often as it was drawn; exact, because sums are below 2^53."""
    flat = counts.flatten(1).double()
    return (times @ flat).reshape(-1, *counts.shape[1:])
