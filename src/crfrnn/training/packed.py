"""Precomputed logits, resized to each image."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crfrnn.io.notes import Note
from crfrnn.io.score_pack import read_pack
from crfrnn.io.scores import interpret_scores

from .config import ScoresConfig


class PackedLogits:
    """The precomputed logits of a split.

    Args:
        path: file with the logits of many images; see `crfrnn.io.score_pack`.
        config: how the logits map onto the images.
        temperature: divisor of the logits.
    """

    def __init__(self, path: Path, config: ScoresConfig, temperature: float = 1.0) -> None:
        self.pack = read_pack(path)
        if self.pack.kind != "logits":
            raise ValueError(f"{path}: expected logits; got {self.pack.kind}")
        self.reading = config.reading()
        self.temperature = temperature
        self._noted = False

    def require(self, names: Sequence[str], num_classes: int) -> None:
        """Raise unless the pack holds logits of these images, with `num_classes` classes."""
        self.pack.require(names)
        shape = self.pack.arrays(names[0])["logits"].shape
        if num_classes not in (shape[0], shape[-1]):
            raise ValueError(
                f"{self.pack.path}: logits of shape {shape} per image, but the data set has "
                f"{num_classes} classes"
            )

    def logits(self, name: str, size: tuple[int, int]) -> np.ndarray:
        """The logits (C, H, W) float32 of one image, at its height and width."""
        scores = interpret_scores(
            self.pack.arrays(name),
            Path(f"{self.pack.path}, {name}"),
            size,
            self.reading,
        )
        self._warn(scores.notes)
        return np.asarray(scores.values / np.float32(self.temperature))

    def _warn(self, notes: Sequence[Note]) -> None:
        """Warn of guesses about the logits, once, for the first image concerned.

        Worker processes stay silent: their lines would mix with the progress of the main process.
        """
        if notes and not self._noted and not _in_worker():
            self._noted = True
            for note in notes:
                warnings.warn(
                    f"{note} (reported for the first such image only)", UserWarning, stacklevel=3
                )


def _in_worker() -> bool:
    """Whether this is a process that loads images for torch's `DataLoader`."""
    loading = sys.modules.get("torch.utils.data")
    return loading is not None and loading.get_worker_info() is not None
