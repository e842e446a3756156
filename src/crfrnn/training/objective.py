"""Objective: network, CRF and loss as one module, with its parameters in groups."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from crfrnn.layer.crfrnn import CRFRNN
from crfrnn.models.segmenter import network_logits

from .batches import Batch
from .config_stage import StageConfig

IGNORE_INDEX = 255


class Objective(nn.Module):
    """The loss of a batch, as a sum over labeled pixels.

    Args:
        network: from images on 0..255 to logits; None if the batches contain logits.
        crf: the layer.
    """

    def __init__(self, network: nn.Module | None, crf: CRFRNN) -> None:
        super().__init__()
        self.network = network
        self.crf = crf
        self.stage = StageConfig()

    def enter(self, stage: StageConfig) -> None:
        """Enter a stage: freeze or unfreeze parameters, and switch to training mode."""
        self.stage = stage
        self.train()
        # A gradient left over from the previous stage would count in the norm for clipping.
        self.zero_grad(set_to_none=True)
        self.requires_grad_(False)
        for group in self.groups():
            for parameter in group["params"]:
                parameter.requires_grad_(True)

    def train(self, mode: bool = True) -> Objective:
        """Switch modes, but keep frozen parts in evaluation mode."""
        super().train(mode)
        if self.network is None or not mode:
            return self
        # A frozen network must give the same logits in each epoch, without dropout and with fixed
        # batch statistics.
        if self.stage.train == "crf" or self.stage.rates.network == 0:
            self.network.eval()
        elif self.stage.freeze_statistics:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of the stage, each with a name and its `peak` rate."""
        rates, groups = self.stage.rates, []
        if self.stage.train != "network":
            given = self.crf.parameter_groups(
                1.0,
                weights=rates.weights,
                compatibility=rates.compatibility,
                others=rates.bandwidths,
            )
            # Decay would pull the kernel weights to zero, that is, to no CRF at all.
            groups = [{**group, "weight_decay": 0.0} for group in given]
        if self.network is not None and self.stage.train != "crf":
            members = {"params": list(self.network.parameters()), "lr": rates.network}
            groups.insert(
                0, {**members, "name": "network", "weight_decay": self.stage.weight_decay}
            )
        return [{**group, "peak": group["lr"]} for group in groups if group["lr"] > 0]

    def unary(self, image: Tensor, logits: Tensor | None = None) -> Tensor:
        """The logits before the CRF."""
        if self.network is None:
            if logits is None:
                raise ValueError("without a network the batch must contain logits; got none")
            return logits
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.stage.train != "crf"):
            return network_logits(self.network, image)

    def refine(self, logits: Tensor, image: Tensor, inside: Tensor | None) -> Tensor:
        """The logits after the CRF."""
        mask = None if inside is None or bool(inside.all()) else inside
        with warnings.catch_warnings():
            # A crop of plain sky spans few colors, and that is no mistake.
            warnings.filterwarnings("ignore", "the image spans", UserWarning)
            refined: Tensor = self.crf(logits, image, mask=mask)
        return refined

    def forward(
        self, image: Tensor, label: Tensor, inside: Tensor, logits: Tensor | None = None
    ) -> Tensor:
        """Sum of the cross-entropy over the labeled pixels."""
        unary = self.unary(image, logits)
        if self.stage.train == "network":
            return self._loss(unary, label)
        refined = self.refine(unary, image, inside)
        loss = self._loss(refined / self.stage.temperature, label)
        if self.stage.auxiliary > 0:
            loss = loss + self.stage.auxiliary * self._loss(unary, label)
        return loss

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            logits.float(),
            label,
            ignore_index=IGNORE_INDEX,
            label_smoothing=self.stage.label_smoothing,
            reduction="sum",
        )


def count_labeled(batch: Batch) -> Tensor:
    """The number of labeled pixels, at least 1 as it is a divisor."""
    return (batch.label != IGNORE_INDEX).sum().clamp_min(1)
