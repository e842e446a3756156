"""The configuration of a search."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from crfrnn.core.names import Normalization
from crfrnn.presets import PRESETS
from crfrnn.training.config import DataConfig

from .gains import Score

Range = tuple[float, float]


@dataclass(frozen=True)
class SearchConfig:
    """The bounds of a search and its length.

    Each parameter is drawn between two bounds on a logarithmic scale.

    Attributes:
        score: what to make as large as possible: "mean_iou", "trimap_iou" (mean IoU of the pixels
            within 3 pixels of another label), or "both", their mean. Mean IoU of a few
            images depends on a few regions; trimap IoU depends on every image.
        trials: parameter sets to try, including the presets.
        images: training images for the score, drawn at random; all if there are fewer.
        iterations: mean-field steps.
        normalization: of the kernels, as in `CRFRNN`.
        bilateral_position: bounds in pixels.
        bilateral_color: bounds in color units of 0..255.
        bilateral_weight: bounds.
        gaussian_position: bounds in pixels.
        gaussian_weight: bounds.
        tol: inference on an image stops when its marginals change by less than this on average;
            None for all steps. With 0.001 a call takes 0.6 of the time, and the
            default preset loses 0.2 points of mean IoU on VOC, and 0.7 of trimap IoU.
        start: presets to try first, with their own steps and normalization.
        cautious: of parameters about as good as the best ones, within one standard error, take
            those nearest to the best preset. A network has seen its training images, so what is
            best for them is not quite best for others.
        rungs: points at which a trial may stop early. It stops if it is worse than the best trial
            so far, on the same images, in four of five bootstrap samples. Each rung has twice the
            images of the previous one.
        seed: of the images and of the search.

    Example:
        >>> from crfrnn.tuning import SearchConfig
        >>> SearchConfig(images=100, rungs=3).sizes(100)
        [12, 25, 50, 100]
    """

    score: Score = "both"
    trials: int = 60
    images: int = 128
    iterations: int = 10
    normalization: Normalization = "symmetric"
    bilateral_position: Range = (5.0, 160.0)
    bilateral_color: Range = (1.0, 30.0)
    bilateral_weight: Range = (0.05, 20.0)
    gaussian_position: Range = (0.5, 6.0)
    gaussian_weight: Range = (0.05, 20.0)
    tol: float | None = None
    start: tuple[str, ...] = ("deeplab", "crfasrnn", "irn", "krahenbuhl")
    cautious: bool = True
    rungs: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("trials", 1), ("images", 1), ("iterations", 1), ("rungs", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}; got {getattr(self, name)}")
        for name, (low, high) in self.ranges().items():
            if not 0 < low <= high:
                raise ValueError(
                    f"{name}: expected two positive bounds, the smaller first; got {[low, high]}"
                )
        for name in self.start:
            if name not in PRESETS:
                raise ValueError(f"start: unknown preset {name!r}; one of: {', '.join(PRESETS)}")

    def ranges(self) -> dict[str, Range]:
        """The bounds of each parameter."""
        names = [field.name for field in dataclasses.fields(self)]
        parts = ("_position", "_color", "_weight")
        return {name: getattr(self, name) for name in names if name.endswith(parts)}

    def sizes(self, images: int) -> list[int]:
        """Number of images of a trial at each rung; the last is all of them."""
        count = min(self.images, images)
        sizes = {max(1, count >> halvings) for halvings in range(self.rungs + 1)}
        return sorted(sizes)


@dataclass(frozen=True)
class TuneConfig:
    """A search on a data set.

    Attributes:
        output: the preset file to write, .json or .yaml. A file of the same name that ends in
            `.journal` holds the trials; an interrupted search resumes from it.
        data: the images for the search (`train`) and for the report (`val`), with or without
            precomputed scores.
        model: a checkpoint directory that computes the scores, in place of `data.scores`.
        search: bounds and length of the search.
        device: of the model; default is "cuda" where there is a GPU, else "cpu".
        threads: at most; default is all processors, or torch's number where torch is loaded.
    """

    output: Path
    data: DataConfig
    model: Path | None = None
    search: SearchConfig = field(default_factory=SearchConfig)
    device: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check the parts against each other."""
        if self.output.suffix.lower() not in (".json", ".yaml", ".yml"):
            raise ValueError(f"output: expected a .json or .yaml file; got {self.output}")
        if (self.model is None) == (self.data.scores is None):
            raise ValueError(
                "give one of model and data.scores, not both and not neither: one must provide "
                "the scores"
            )
