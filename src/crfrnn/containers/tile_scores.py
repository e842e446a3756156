"""The scores of a large image, tile by tile, all of one kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from crfrnn.io.notes import Guess, spell_size
from crfrnn.io.options import Kind, ReadOptions
from crfrnn.io.scores import Scores, interpret_scores

from .plain import ArraySource
from .rasters import RASTER_SUFFIXES, Raster
from .source import Source, Window, same_grid, slabs
from .tiling import sample_windows

_NAMES = ("logits", "probs", "energy", "labels", "mask", "scores")
_SAMPLE_SIDE = 512


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
        ids: the labels that occur, if they are labels.
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
        if reading.kind == "masks":
            raise ValueError(
                f"{path}: independent masks are not refined in tiles; give class scores"
            )
        sample = self._interpret(self._sample())
        made = self.source.note if isinstance(self.source, ArraySource) else ""
        self.notes = tuple(filter(None, [*map(str, sample.notes), made and f"{path.name}: {made}"]))
        self.kind = sample.kind
        self._reading = replace(self._reading, kind=self._kind_of_file(sample))
        self.palette = sample.palette
        if isinstance(self.source, Raster):
            self.palette = self.source.palette()
        self.ids: tuple[int, ...] = ()
        self.classes = max(2, self.source.channels)
        if sample.kind == "labels":
            self.ids = self._find_ids(ignore_index)
            self.classes = max(2, max(self.ids, default=0) + 1)

    def read(self, window: Window) -> Scores:
        """Return the scores of a window: values (C, h, w), or labels (h, w)."""
        return self._interpret(self.source.read(window), self.source.valid(window))

    def _interpret(self, values: np.ndarray, valid: np.ndarray | None = None) -> Scores:
        if valid is not None:  # what is there takes no part, and must not be refused
            filler = values[:, valid][:, :1] if valid.any() else np.ones((len(values), 1))
            values = np.where(valid, values, filler[:, :, None].astype(values.dtype))
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
        if sample.kind == "masks":
            raise ValueError(
                f"{self.path}: looks like independent masks, which are not refined in tiles; if "
                "they are something else, give --kind"
            )
        guessed = sample.notes[0].what if sample.notes else None
        return guessed.kind if isinstance(guessed, Guess) else sample.kind

    def _find_ids(self, ignore_index: int) -> tuple[int, ...]:
        """Return the labels that occur anywhere: they decide for each tile what a label means."""
        found: set[int] = set()
        for window in slabs(self.source.size):
            labels, valid = self.source.read(window)[0], self.source.valid(window)
            found.update(np.unique(labels if valid is None else labels[valid]).tolist())
        return tuple(sorted(int(label) for label in found if label != ignore_index))


def _open(path: Path, image: Source, reading: ReadOptions) -> Source:
    if path.suffix.lower() in RASTER_SUFFIXES:
        return Raster(path)
    return ArraySource(path, _NAMES, image.size, reading)


def _pair(size: tuple[int, ...]) -> tuple[int, int]:
    return size[0], size[1]
