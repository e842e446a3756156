"""Scored: images with masks and logits, and their confusion matrices under given parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from crfrnn.data.masked_images import Sample
from crfrnn.evaluation.metrics import confusion_matrix
from crfrnn.offline.refine import refine
from crfrnn.presets import Preset
from crfrnn.training.objective import Objective
from crfrnn.training.source import Source

#: Bytes of half-precision logits to keep in memory; others are computed again when needed.
_MEMORY = 2 << 30


class Scored:
    """A split with logits, precomputed or computed by a network on demand.

    Args:
        source: images and masks, with or without precomputed logits.
        objective: the network, where the source has no logits.
        device: of the network.
    """

    def __init__(
        self,
        source: Source,
        objective: Objective | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.source = source
        self.objective = objective
        self.device = device or torch.device("cpu")
        self.num_classes = source.num_classes
        self._kept: dict[int, tuple[Sample, Tensor]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source)

    @torch.no_grad()
    def get(self, index: int) -> tuple[Sample, Tensor]:
        """An image with its mask, and its logits (C, H, W) in float32 on the CPU."""
        if index in self._kept:
            sample, half = self._kept[index]
            return sample, half.float()
        sample, logits = self.source.sample(index)
        if logits is None:
            assert self.objective is not None
            image = sample.image[None].float().to(self.device)
            logits = self.objective.unary(image)[0].float().cpu()
        # Softmax ignores a constant per pixel. With the largest logit at zero, half precision
        # is finest where it matters, at the likely classes.
        half = (logits - logits.amax(dim=0)).clamp_min(-1e4).half()
        if self._bytes < _MEMORY:
            self._bytes += half.numel() * 2
            self._kept[index] = (sample, half)
        return sample, half.float()

    def classes_of(self, index: int) -> list[int]:
        """The ids that occur in the mask of an image."""
        ids: list[int] = self.source.sample_label(index).unique().tolist()  # type: ignore[no-untyped-call]
        return ids

    def confusions(
        self,
        preset: Preset | None,
        indices: Sequence[int],
        tol: float | None = None,
        advance: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Confusion matrices (N, C, C) of images, refined with `preset` or unrefined for None.

        `advance` is called after each image.
        """

        def count(index: int) -> Tensor:
            sample, logits = self.get(index)
            labels = (
                logits.argmax(dim=0) if preset is None else _refine(preset, sample, logits, tol)
            )
            counts = confusion_matrix(labels, sample.label, self.num_classes)
            advance()
            return counts

        return torch.stack(in_threads(count, indices))


def _refine(preset: Preset, sample: Sample, logits: Tensor, tol: float | None) -> Tensor:
    refined = refine(
        sample.image.permute(1, 2, 0),
        logits=logits,
        kernels=preset.kernels,
        iterations=preset.iterations,
        normalization=preset.normalization,
        tol=tol,
        channels_last=True,
    )
    labels: Tensor = refined.labels
    return labels


def in_threads(work: Callable[[int], Any], indices: Sequence[int]) -> list[Any]:
    """Results of `work` in the order of `indices`, computed on one thread per image.

    Several images at once, each on one thread, take less time than one image on all threads.
    """
    threads = torch.get_num_threads()
    with _one_thread():
        if threads == 1:
            return [work(index) for index in indices]
        with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
            return list(pool.map(work, indices))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
