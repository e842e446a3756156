"""What a search is made of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from crfrnn.presets import PRESETS
from crfrnn.training import DataConfig

Range = tuple[float, float]


@dataclass(frozen=True)
class SearchConfig:
    """What is searched, where, and how long.

    Every number is drawn evenly on a logarithmic scale between two bounds.

    Attributes:
        trials: parameter sets to try, presets included.
        images: training images to score them on, drawn at random; all if there are fewer.
        iterations: mean-field steps.
        normalization: of the kernels.
        bilateral_position: bounds in pixels.
        bilateral_color: bounds in colour units of 0..255.
        bilateral_weight: bounds.
        gaussian_position: bounds in pixels.
        gaussian_weight: bounds.
        tol: an image stops when its marginals change by less than this on average; quicker, and
            leaves fewer than 0.2 % of the labels undecided. None for all steps.
        start: presets to try first.
        rungs: times that a trial may be stopped early: it goes on unless it is worse than the best
            so far on the same images in four of five bootstrap samples; each rung has twice the
            images of the one before.
        seed: of the images and of the search.

    Example:
        >>> from crfrnn.tuning import SearchConfig
        >>> SearchConfig(images=100, rungs=3).sizes(100)
        [12, 25, 50, 100]
    """

    trials: int = 60
    images: int = 128
    iterations: int = 10
    normalization: Literal["symmetric", "after", "before", "none"] = "symmetric"
    bilateral_position: Range = (5.0, 160.0)
    bilateral_color: Range = (1.0, 30.0)
    bilateral_weight: Range = (0.05, 20.0)
    gaussian_position: Range = (0.5, 6.0)
    gaussian_weight: Range = (0.05, 20.0)
    tol: float | None = 0.001
    start: tuple[str, ...] = ("deeplab", "crfasrnn")
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
                    f"{name}: expected two positive bounds, the lesser first; got {[low, high]}"
                )
        for name in self.start:
            if name not in PRESETS:
                raise ValueError(f"start: unknown preset {name!r}; one of: {', '.join(PRESETS)}")

    def ranges(self) -> dict[str, Range]:
        """The bounds of each number."""
        names = [field.name for field in dataclasses.fields(self)]
        parts = ("_position", "_color", "_weight")
        return {name: getattr(self, name) for name in names if name.endswith(parts)}

    def sizes(self, images: int) -> list[int]:
        """Images that a trial has seen at each rung, the last of them all."""
        count = min(self.images, images)
        sizes = {max(1, count >> halvings) for halvings in range(self.rungs + 1)}
        return sorted(sizes)


@dataclass(frozen=True)
class TuneConfig:
    """A search on a data set.

    Attributes:
        output: the preset file to write, .json or .yaml. The trials are kept beside it, in a file
            of the same name that ends in `.journal`, from which an interrupted search goes on.
        data: the images to search on (`train`) and to report on (`val`), and perhaps their scores.
        model: a checkpoint directory that gives the scores, where `data.scores` does not.
        search: what is searched.
        device: of the model; default the first that exists of cuda, mps, cpu.
        threads: of torch; default as torch chooses.
    """

    output: Path
    data: DataConfig
    model: Path | None = None
    search: SearchConfig = field(default_factory=SearchConfig)
    device: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check what the parts say together."""
        if self.output.suffix.lower() not in (".json", ".yaml", ".yml"):
            raise ValueError(f"output: expected a .json or .yaml file; got {self.output}")
        if (self.model is None) == (self.data.scores is None):
            raise ValueError("give one of model and data.scores: scores come from one")
