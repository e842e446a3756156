"""The configuration of one stage of training: parameters, duration and learning rates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ._limits import at_least, positive


@dataclass(frozen=True)
class RatesConfig:
    """Learning rates, one per group of parameters, on a mean loss; 0 freezes a group.

    The loss is a mean over pixels. The paper sums it over the pixels and trains at a rate of 1e-13
    with momentum 0.99. `PAPER_RATES` holds the equivalent rates on a mean.

    Attributes:
        network: of the network's parameters.
        weights: of the kernel weights.
        compatibility: of the label compatibility.
        bandwidths: of the logarithms of the bandwidths, and of a learned step size.

    Example:
        >>> from crfrnn.training import RatesConfig
        >>> RatesConfig(network=1e-2).weights
        0.01
    """

    network: float = 1e-3
    weights: float = 1e-2
    compatibility: float = 1e-3
    bandwidths: float = 1e-3

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in vars(self).items():
            at_least(name, value, 0)


# A mean loss over N pixels has 1/N of the gradient of the sum, so the same update needs N times
# the rate. The images of the released solver are padded to 500 x 500 pixels: 1e-13 · 500 · 500 =
# 2.5e-8 for the network. It multiplies the rate by 1e4 for the kernel weights and by 1e3 for the
# compatibility; the paper has no learned bandwidths, and they share the latter.
#: Rates of the paper's released solver, converted to a mean loss; use them with `momentum: 0.99`.
PAPER_RATES = RatesConfig(network=2.5e-8, weights=2.5e-4, compatibility=2.5e-5, bandwidths=2.5e-5)


@dataclass(frozen=True)
class StageConfig:
    """One stage of training.

    Attributes:
        train: "network" (without the CRF), "crf" (the CRF's parameters, with the network frozen)
            or "joint" (both).
        epochs: passes over the training images.
        rates: learning rates by group.
        optimizer: "sgd" (with `momentum`) or "adamw".
        momentum: of SGD, or the first beta of AdamW.
        weight_decay: on the network's parameters only.
        schedule: "poly" ((1 - t)^power), "onecycle" or "constant".
        power: of the poly schedule.
        warmup: first steps, over which the rates rise linearly; unused with "onecycle".
        batch_size: images per step, summed over all processes.
        crop: side of the square crop in pixels; None for whole images.
        scale: smallest and largest factor of the random resize.
        flip: mirror half of the images.
        color: strength of the color jitter, in 0..1; 0 for no jitter.
        label_smoothing: share of the target that is spread over all classes.
        temperature: divisor of the CRF's logits in the loss. The marginals of a CRF are more
            confident than accurate, and the loss answers by shrinking the kernel weights. A value
            above 1 avoids that and leaves the predicted labels as they are.
        auxiliary: weight of a second loss on the logits before the CRF, where the CRF is trained.
        clip: largest norm of the gradient; None for no clipping.
        freeze_statistics: keep the running statistics of batch normalization.
    """

    train: Literal["network", "crf", "joint"] = "joint"
    epochs: int = 10
    rates: RatesConfig = field(default_factory=RatesConfig)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["poly", "onecycle", "constant"] = "poly"
    power: float = 0.9
    warmup: int = 0
    batch_size: int = 8
    crop: int | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    color: float = 0.0
    label_smoothing: float = 0.0
    temperature: float = 1.0
    auxiliary: float = 0.0
    clip: float | None = 10.0
    freeze_statistics: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("epochs", 0), ("batch_size", 1), ("warmup", 0), ("weight_decay", 0)):
            at_least(name, getattr(self, name), least)
        for name in ("momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 0 or more, below 1; got {getattr(self, name)}")
        positive("temperature", self.temperature)
        at_least("auxiliary", self.auxiliary, 0)
        at_least("power", self.power, 0)
        if not 0 <= self.color <= 1:
            raise ValueError(f"color: expected a strength in 0..1; got {self.color}")
        if self.crop is not None:
            at_least("crop", self.crop, 8)
        elif self.batch_size > 1 and self.scale != (1.0, 1.0):
            raise ValueError(
                "crop: needed to batch images of random scale; set crop, or batch_size: 1"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f"scale: expected two positive factors, the smaller first; got {self.scale}"
            )
        if self.clip is not None:
            positive("clip", self.clip)
