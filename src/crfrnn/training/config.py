"""What a training run is made of: frozen dataclasses, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from crfrnn.io.options import ReadOptions

from ._limits import at_least, positive
from .config_crf import CrfConfig
from .config_stage import StageConfig


@dataclass(frozen=True)
class ScoresConfig:
    """Logits computed before, in place of a network: a pack of 8-bit logits per split.

    Attributes:
        train: `.npz` with `ids`, `logits` (N, h, w, C), `scale` and `zero`.
        val: likewise, of the validation images.
        canvas: side in pixels of the square that the network saw, the image at its top left; None
            if the logits span the image.
        align_corners: whether corner cells lie on corner pixels.
        temperature: training logits are divided by it: above 1 it undoes some of the confidence
            that a network has on the images that it was trained on.
    """

    train: Path
    val: Path | None = None
    canvas: int | None = 513
    align_corners: bool = True
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive("temperature", self.temperature)
        self.reading()

    def reading(self) -> ReadOptions:
        """How to read the packs."""
        canvas = None if self.canvas is None else (self.canvas, self.canvas)
        return ReadOptions(kind="logits", canvas=canvas, align_corners=self.align_corners)


@dataclass(frozen=True)
class DataConfig:
    """The data set: which, where, and which of its lists.

    Attributes:
        kind: "voc", "camvid", "folder", or "shapes": generated pictures, which need no root.
        root: its folder. Of "folder": with `images` and `masks` in it, and the lists as
            `train.txt` and so on; `options` may name others.
        train: list or split to train on.
        val: list or split to validate on; None for none.
        size: height and width that every image and mask is brought to; None keeps theirs.
        limit: use only so many images of each split.
        cache: keep the images in memory once they are read, at `size`.
        scores: logits computed before, for training the CRF without a network.
        options: further arguments of the data set, by name.
    """

    kind: Literal["voc", "camvid", "folder", "shapes"] = "voc"
    root: Path | None = None
    train: str = "train"
    val: str | None = "val"
    size: tuple[int, int] | None = None
    limit: int | None = None
    cache: bool = False
    scores: ScoresConfig | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what does not need the files."""
        if self.root is None and self.kind != "shapes":
            raise ValueError(f"root: the folder of the {self.kind} data is missing")
        if self.limit is not None:
            at_least("limit", self.limit, 1)
        if self.size is not None:
            at_least("size", min(self.size), 8)
            if self.scores is not None:
                raise ValueError("size: scores computed before cannot be resized; leave it out")


@dataclass(frozen=True)
class ModelConfig:
    """The network, what it starts from, and the CRF.

    Attributes:
        network: name in `crfrnn.models`; None where scores computed before take its place.
        options: arguments of the network, by name.
        weights: file or checkpoint that the network starts from.
        crf: the layer on top.
    """

    network: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    crf: CrfConfig = field(default_factory=CrfConfig)


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        output: folder of everything that the run writes.
        data: the data set.
        model: the network and the CRF.
        stages: what is trained, one after the other.
        seed: of the order of images, their augmentation, and all else.
        device: "cpu", "cuda", "cuda:1" or "mps"; default the first that exists of cuda, mps, cpu.
        precision: "32", "bf16" or "16" (mixed, on cuda only), or "auto": bf16 where the device has
            it, else 32.
        threads: of torch; default as torch chooses. An exact resume needs the same number.
        workers: processes that load images ahead; 0 loads them between the steps.
        save_every: steps between checkpoints, besides those after each epoch; None for none.
        validate_every: epochs between validations; 0 for never.
        ema: decay of a moving average of the parameters, such as 0.999, which is then what is
            validated and kept; None for none.
        tensorboard: also write TensorBoard logs.
    """

    output: Path
    data: DataConfig
    model: ModelConfig
    stages: tuple[StageConfig, ...]
    seed: int = 0
    device: str | None = None
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    threads: int | None = None
    workers: int = 0
    save_every: int | None = None
    validate_every: int = 1
    ema: float | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Check what the parts say together."""
        for name, least in (("seed", 0), ("workers", 0), ("validate_every", 0)):
            at_least(name, getattr(self, name), least)
        for name in ("save_every", "threads"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema: expected a decay between 0 and 1; got {self.ema}")
        if (self.model.network is None) == (self.data.scores is None):
            raise ValueError("give one of model.network and data.scores: logits come from one")
        for index, stage in enumerate(self.stages):
            _check_stage(f"stages.{index}", stage, self)


def _check_stage(where: str, stage: StageConfig, config: TrainConfig) -> None:
    if stage.train != "crf" and config.model.network is None:
        raise ValueError(f"{where}.train: without a network only 'crf' can be trained")
    if config.data.scores is not None and stage.scale != (1.0, 1.0):
        raise ValueError(f"{where}.scale: scores computed before cannot be resized; use [1, 1]")
