"""The configuration of a training run: frozen dataclasses that check themselves."""

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
    """Precomputed logits in place of a network: one pack of 8-bit logits per split.

    Attributes:
        train: `.npz` with `ids`, `logits` (N, h, w, C), `scale` and `zero`.
        val: likewise for the validation images.
        canvas: side in pixels of the square that the network saw, with the image at its top left;
            None if the logits span the image.
        align_corners: whether the centers of corner cells lie on corner pixels.
        temperature: divisor of the training logits. A value above 1 undoes some of the excess
            confidence of a network on the images that it was trained on.
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
    """The data set, its place, and its splits.

    Attributes:
        kind: "voc", "camvid", "folder", or "shapes" for generated images, which need no root.
        root: folder of the data. For "folder" it holds `images`, `masks` and the lists `train.txt`
            and so on; `options` may give other names.
        train: list or split to train on.
        val: list or split to validate on; None for no validation.
        size: height and width to which every image and mask is resized; None keeps each size.
        limit: use only the first images of each split, this many.
        cache: keep images in memory after reading and resizing.
        scores: precomputed logits, for training the CRF without a network.
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
        """Check what can be checked without the files."""
        if self.root is None and self.kind != "shapes":
            raise ValueError(
                f"root: expected the folder of the {self.kind} data, got none; set data.root"
            )
        if self.limit is not None:
            at_least("limit", self.limit, 1)
        if self.size is not None:
            at_least("size", min(self.size), 8)
            if self.scores is not None:
                raise ValueError("size: precomputed scores cannot be resized; remove data.size")


@dataclass(frozen=True)
class ModelConfig:
    """The network, its initial weights, and the CRF.

    Attributes:
        network: name in `crfrnn.models`, or the import path of a class, such as `mypackage.MyUNet`;
            None where precomputed scores take its place.
        options: arguments of the network, by name. A class of an import path also takes `mean` and
            `std`, on 0..1, that normalize its images.
        weights: file or checkpoint with the network's initial weights.
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
        output: folder for everything that the run writes.
        data: the data set.
        model: the network and the CRF.
        stages: the stages of training, in order.
        seed: of the initial weights, the order of images, their augmentation and dropout.
        device: "cpu", "cuda" or "cuda:1"; default is "cuda" where there is a GPU, else "cpu".
        precision: "32", "bf16" or "16" (mixed, on cuda only), or "auto": bf16 where the device
            supports it, else 32.
        threads: of torch; default is torch's choice. A bit-exact resume needs the same number.
        workers: processes that load images ahead; 0 loads them between the steps.
        save_every: steps between checkpoints, in addition to one after each epoch; None for no
            more.
        validate_every: epochs between validations; 0 for never.
        ema: decay of an exponential moving average of the parameters, such as 0.999. The average
            is then validated and exported; None for no average. It starts from the initial
            weights, so train for several times 1 / (1 - ema) steps.
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
        """Check the parts against each other."""
        for name, least in (("seed", 0), ("workers", 0), ("validate_every", 0)):
            at_least(name, getattr(self, name), least)
        for name in ("save_every", "threads"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema: expected a decay between 0 and 1; got {self.ema}")
        if (self.model.network is None) == (self.data.scores is None):
            raise ValueError(
                "give one of model.network and data.scores, not both and not neither: one must "
                "provide the logits"
            )
        for index, stage in enumerate(self.stages):
            _check_stage(f"stages.{index}", stage, self)


def _check_stage(where: str, stage: StageConfig, config: TrainConfig) -> None:
    if stage.train != "crf" and config.model.network is None:
        raise ValueError(f"{where}.train: without a network only 'crf' can be trained")
    if config.data.scores is not None and stage.scale != (1.0, 1.0):
        raise ValueError(f"{where}.scale: precomputed scores cannot be resized; use [1, 1]")
    if config.data.scores is not None and stage.color > 0:
        raise ValueError(
            f"{where}.color: precomputed scores belong to the colors of the images as they are; "
            f"expected 0, got {stage.color}"
        )
