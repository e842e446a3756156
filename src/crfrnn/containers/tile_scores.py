"""The scores of a large image, tile by tile, all of one kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from crfrnn.io.notes import spell_size
from crfrnn.io.options import Kind, ReadOptions
from crfrnn.io.scores import Scores, interpret_scores

from .plain import ArraySource
from .rasters import RASTER_SUFFIXES, Raster
from .source import Source, Window, same_grid
from .tiling import sample_windows

_NAMES = ("logits", "probs", "energy", "labels", "mask", "scores")
_SAMPLE_SIDE = 512
_STRIP_ROWS = 512


class TileScores:
    """Scores on the grid of an image, read window by window.

    The kind is decided once, on samples from the whole image: values of a single tile may look like
    another kind.

    Args:
        path: a raster whose bands are the classes, or an array; see `ArraySource`.
        image: the image.
        reading: how to read scores; they must have the size of the image.
        ignore_index: the label of unknown pixels.

    Attributes:
        source: the open file.
        kind: "logits", "probs" or "labels".
        classes: number of classes.
        notes: assumptions for the user to confirm.
    """

    def __init__(
        self, path: Path, image: Source, reading: ReadOptions, *, ignore_index: int
    ) -> None:
        if reading.canvas is not None:
            raise ValueError(f"{path}: canvas does not go with tiles; cut the scores to the image")
        self.path = path
        self.source = _open(path, image, reading)
        if self.source.size != image.size:
            raise ValueError(
                f"{path}: scores for tiles must have the size of {image.path}, "
                f"{spell_size(_pair(image.size))} (height x width); got "
                f"{spell_size(_pair(self.source.size))}. Upsample them first"
            )
        same_grid(image, self.source)
        name = self.source.name if isinstance(self.source, ArraySource) else "scores"
        self._name = name if name in _NAMES else "scores"
        self._reading = replace(reading, class_axis="first")
        sample = self._interpret(self._sample())
        self.notes = tuple(str(note) for note in sample.notes)
        self.kind = sample.kind
        self._reading = replace(self._reading, kind=self._kind_of_file(sample))
        self.palette = sample.palette
        if isinstance(self.source, Raster):
            self.palette = self.source.palette()
        if sample.kind == "labels":
            self.classes = self._count_labels(ignore_index)
        else:
            self.classes = max(2, self.source.channels)

    def read(self, window: Window) -> Scores:
        """Return the scores of a window: values (C, h, w), or labels (h, w)."""
        return self._interpret(self.source.read(window), self.source.valid(window))

    def _interpret(self, values: np.ndarray, valid: np.ndarray | None = None) -> Scores:
        if valid is not None:  # what is there takes no part, and must not be refused
            filler = values[:, valid][:, :1] if valid.any() else np.ones((len(values), 1))
            values = np.where(valid, values, filler[:, :, None].astype(values.dtype))
        if self._reading.kind == "probs" and values.dtype.kind == "u":
            values = from_bytes(values)
        size = (values.shape[1], values.shape[2])
        given = values if len(values) > 1 else values[0]
        return interpret_scores({self._name: given}, self.path, size, self._reading)

    def _sample(self) -> np.ndarray:
        """Return valid values from even places of the image, as one small image."""
        parts = []
        for window in sample_windows(self.source.size, _SAMPLE_SIDE // 4, 4):
            values, valid = self.source.read(window), self.source.valid(window)
            flat = values.reshape(len(values), -1)
            parts.append(flat if valid is None else flat[:, valid.reshape(-1)])
        joined = np.concatenate(parts, axis=1)
        if joined.shape[1] == 0:
            raise ValueError(f"{self.path}: no valid pixel was found at 16 even places")
        sample: np.ndarray = joined[:, None]
        return sample

    def _kind_of_file(self, sample: Scores) -> Kind:
        """Return what `--kind` would have to say to read every tile as the sample."""
        asked = self._reading.kind
        if asked != "auto" or sample.kind == "labels":
            return "labels" if asked == "auto" else asked
        is_mask = self.source.channels == 1 and self.source.dtype.kind != "f"
        return "mask" if is_mask else sample.kind

    def _count_labels(self, ignore_index: int) -> int:
        """Return the number of classes of a label map: the highest label decides, of all tiles."""
        highest = 0
        for window in strips(self.source.size):
            labels = self.source.read(window)
            valid = self.source.valid(window)
            known = labels[0] != ignore_index
            known &= True if valid is None else valid
            if known.any():
                highest = max(highest, int(labels[0][known].max()))
        return max(2, highest + 1)


def from_bytes(values: np.ndarray) -> np.ndarray:
    """Return probabilities (C, *S) from those that were rounded to 8 or 16 bits.

    Their sum is off by the rounding, so that they are divided by it. Where all are 0, the classes
    are equally likely. One channel is the probability of the foreground.
    """
    top = np.float32(np.iinfo(values.dtype).max)
    probs: np.ndarray = values.astype(np.float32) / top
    if len(probs) > 1:
        total = probs.sum(axis=0)
        if np.abs(total[total > 0] - 1).max(initial=0) > (len(probs) + 1) / top + 0.01:
            raise ValueError(
                f"probabilities of {values.dtype} must sum to {int(top)} over the classes, but for "
                f"rounding; got sums from {total.min() * top:.4g} to {total.max() * top:.4g}"
            )
        probs = np.where(total > 0, probs, 1)
        probs /= probs.sum(axis=0)
    return probs


def strips(size: tuple[int, ...]) -> Iterator[Window]:
    """Yield windows of whole rows."""
    for top in range(0, size[0], _STRIP_ROWS):
        yield (slice(top, min(top + _STRIP_ROWS, size[0])), slice(0, size[1]))


def _open(path: Path, image: Source, reading: ReadOptions) -> Source:
    if path.suffix.lower() in RASTER_SUFFIXES:
        return Raster(path)
    return ArraySource(path, _NAMES, image.size, reading.class_axis)


def _pair(size: tuple[int, ...]) -> tuple[int, int]:
    return size[0], size[1]
