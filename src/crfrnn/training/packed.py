"""Logits computed before, brought to the size of each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from crfrnn.io.score_pack import read_pack
from crfrnn.io.scores import interpret_scores

from .config import ScoresConfig


class PackedLogits:
    """Logits of a split.

    Args:
        path: file of the logits of many images; see `crfrnn.io.score_pack`.
        config: how they lie on the images.
        temperature: what they are divided by.
    """

    def __init__(self, path: Path, config: ScoresConfig, temperature: float = 1.0) -> None:
        self.pack = read_pack(path)
        if self.pack.kind != "logits":
            raise ValueError(f"{path}: expected logits; got {self.pack.kind}")
        self.canvas = None if config.canvas is None else (config.canvas, config.canvas)
        self.align_corners = config.align_corners
        self.temperature = temperature

    def require(self, names: Sequence[str], num_classes: int) -> None:
        """Raise unless there are logits of all these images, and of so many classes."""
        self.pack.require(names)
        shape = self.pack.arrays(names[0])["logits"].shape
        if num_classes not in (shape[0], shape[-1]):
            raise ValueError(
                f"{self.pack.path}: logits of shape {shape} an image, but the data set has "
                f"{num_classes} classes"
            )

    def logits(self, name: str, size: tuple[int, int]) -> Tensor:
        """The logits (C, H, W) of one image, at its height and width."""
        scores = interpret_scores(
            self.pack.arrays(name),
            Path(f"{self.pack.path}, {name}"),
            size,
            "logits",
            canvas=self.canvas,
            align_corners=self.align_corners,
        )
        return torch.from_numpy(scores.values) / self.temperature
