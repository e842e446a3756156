"""Scored: images with masks and logits, and their confusion matrices under given parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from crfrnn.core.threads import limit_threads, limited_threads, threads
from crfrnn.data.masked_images import Sample
from crfrnn.evaluation.boundaries import other_label_distance
from crfrnn.evaluation.metrics import IGNORE, confusion_matrix
from crfrnn.offline.refine import refine
from crfrnn.presets import Preset
from crfrnn.training.source import Source

from .gains import WIDTH

#: Bytes of half-precision logits to keep in memory; others are computed again when needed.
_MEMORY = 2 << 30


@dataclass(frozen=True)
class _Kept:
    """An image with its mask, its logits (C, H, W) in half precision, and its trimap (H, W)."""

    sample: Sample
    logits: np.ndarray
    trimap: np.ndarray


class Scored:
    """A split with logits, precomputed or computed by a network on demand.

    Args:
        source: images and masks, with or without precomputed logits.
        objective: the network, an `Objective`, where the source has no logits.
        device: of the network, a `torch.device`; default is the CPU.
    """

    def __init__(self, source: Source, objective: Any = None, device: Any = None) -> None:
        self.source = source
        self.objective = objective
        self.device = device or "cpu"
        self.num_classes = source.num_classes
        self._kept: dict[int, _Kept] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source)

    def get(self, index: int) -> tuple[Sample, np.ndarray]:
        """An image with its mask, and its logits (C, H, W) in float32, as NumPy arrays."""
        kept = self._get(index)
        return kept.sample, kept.logits.astype(np.float32)

    def _get(self, index: int) -> _Kept:
        if index in self._kept:
            return self._kept[index]
        sample, logits = self.source.read(index)
        if logits is None:
            logits = self._predict(sample)
        # Softmax ignores a constant per pixel. With the largest logit at zero, half precision
        # is finest where it matters, at the likely classes.
        half = np.maximum(logits - logits.max(axis=0), -1e4).astype(np.float16)
        label = np.asarray(sample.label)
        trimap = (label != IGNORE) & (other_label_distance(label, WIDTH) <= WIDTH**2)
        kept = _Kept(sample, half, trimap)
        if self._bytes < _MEMORY:
            self._bytes += half.nbytes + trimap.nbytes
            self._kept[index] = kept
        return kept

    def _predict(self, sample: Sample) -> np.ndarray:
        """The logits (C, H, W) of the network."""
        import torch

        assert self.objective is not None
        with torch.no_grad():
            image = sample.to_torch().image[None].float().to(self.device)
            logits: np.ndarray = self.objective.unary(image)[0].float().cpu().numpy()
        return logits

    def classes_of(self, index: int) -> list[int]:
        """The ids that occur in the mask of an image."""
        ids: list[int] = np.unique(self.source.read_label(index)).tolist()
        return ids

    def confusions(
        self,
        preset: Preset | None,
        indices: Sequence[int],
        tol: float | None = None,
        advance: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Confusion matrices (N, 2, C, C) of images, refined with `preset` or unrefined for None.

        The first is of all pixels, the second of those within `WIDTH` pixels of another label.
        `advance` is called after each image.
        """

        def count(index: int) -> np.ndarray:
            kept = self._get(index)
            logits, truth = kept.logits.astype(np.float32), np.asarray(kept.sample.label)
            labels = (
                logits.argmax(axis=0)
                if preset is None
                else _refine(preset, kept.sample, logits, tol)
            )
            near = kept.trimap
            pairs = ((labels, truth), (labels[near], truth[near]))
            counts = np.stack([confusion_matrix(a, b, self.num_classes) for a, b in pairs])
            advance()
            return counts

        return np.stack(in_threads(count, indices))


def _refine(preset: Preset, sample: Sample, logits: np.ndarray, tol: float | None) -> np.ndarray:
    refined = refine(
        sample.image.transpose(1, 2, 0),
        logits=logits,
        kernels=preset.kernels,
        iterations=preset.iterations,
        normalization=preset.normalization,
        tol=tol,
        channels_last=True,
    )
    labels: np.ndarray = refined.labels
    return labels


def in_threads(work: Callable[[int], Any], indices: Sequence[int]) -> list[Any]:
    """Results of `work` in the order of `indices`, computed on one thread per image.

    Several images at once, each on one thread, take less time than one image on all threads.
    """
    count = threads()
    with limited_threads(1):
        if count == 1:
            return [work(index) for index in indices]
        with ThreadPoolExecutor(count, initializer=limit_threads, initargs=(1,)) as pool:
            return list(pool.map(work, indices))
