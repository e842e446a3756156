"""The scores of a large image, tile by tile, all of one kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from crfrnn.io.notes import Guess, spell_size
from crfrnn.io.options import Kind, ReadOptions
from crfrnn.io.score_kinds import MaskScale
from crfrnn.io.scores import Scores, interpret_scores

from .plain import ArraySource
from .rasters import RASTER_SUFFIXES, Raster
from .source import Source, Window, same_grid, slabs
from .tiling import sample_windows

_NAMES = ("logits", "probs", "energy", "labels", "mask", "scores")
_SAMPLE_SIDE = 512
#: How many values, at even ranks, represent a band; how many represent the fractions of a slab.
_MOST_RANKS, _MOST_FRACTIONS = 100_000, 256
#: Up to this many distinct values, all are used.
_FEW = 1000


class TileScores:
    """Scores on the grid of an image, read window by window.

    The kind is decided once, on samples from the whole image: values of a single tile may look like
    another kind. Where the samples may mislead, and for the scale of a mask, all values count.

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
        self._scale: MaskScale | None = None
        values = self._sample()
        self._filler = values[:, :, :1]
        sample = self._interpret(values)
        kind = self._kind_of_file(sample)
        counts: dict[float, int] | None = None
        if kind == "mask" or not _is_firm(sample):
            counts = self._count()
            values = _stand_in(counts, self.source.dtype)
            sample = self._interpret(values)
            kind = self._kind_of_file(sample)
        if kind == "mask":
            self._scale, kind = MaskScale.of(values[0]), "probs"
        made = self.source.note if isinstance(self.source, ArraySource) else ""
        self.notes = tuple(filter(None, [*map(str, sample.notes), made and f"{path.name}: {made}"]))
        self.kind = sample.kind
        self._reading = replace(self._reading, kind=kind)
        self.palette = sample.palette
        if isinstance(self.source, Raster):
            self.palette = self.source.palette()
        self.ids: tuple[int, ...] = ()
        self.classes = max(2, self.source.channels)
        if sample.kind == "labels":
            present = self._count() if counts is None else counts
            self.ids = tuple(sorted(int(label) for label in present if label != ignore_index))
            self.classes = max(2, max(self.ids, default=0) + 1)

    def read(self, window: Window) -> Scores:
        """Return the scores of a window: values (C, h, w), or labels (h, w)."""
        return self._interpret(self.source.read(window), self.source.valid(window))

    def _interpret(self, values: np.ndarray, valid: np.ndarray | None = None) -> Scores:
        if valid is not None:  # what is there takes no part, and must not be refused
            values = np.where(valid, values, self._filler)
        size = (values.shape[1], values.shape[2])
        given = values if len(values) > 1 else values[0]
        if self._scale is not None:
            given = self._scale(given, self._reading.confidence)
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
        guess = _guess_of(sample)
        return cast("Kind", self._name) if guess is None else guess.kind  # the name says it

    def _count(self) -> dict[float, int]:
        """Return the values of a single band that occur anywhere, and how often.

        Fractions cannot be ids, so a sample of each slab is enough.
        """
        counts: dict[float, int] = {}
        for window in slabs(self.source.size):
            values, valid = self.source.read(window)[0], self.source.valid(window)
            found, often = np.unique(values if valid is None else values[valid], return_counts=True)
            if len(found) > _MOST_FRACTIONS and (found != np.rint(found)).any():
                ranks = np.linspace(0, len(found) - 1, _MOST_FRACTIONS).astype(np.int64)
                found, often = found[ranks], np.add.reduceat(often, ranks)
            for value, count in zip(found.tolist(), often.tolist(), strict=True):
                counts[value] = counts.get(value, 0) + count
        return counts


def _guess_of(sample: Scores) -> Guess | None:
    what = sample.notes[0].what if sample.notes else None
    return what if isinstance(what, Guess) else None


def _is_firm(sample: Scores) -> bool:
    guess = _guess_of(sample)
    return guess is None or guess.firm


def _stand_in(counts: dict[float, int], dtype: np.dtype) -> np.ndarray:
    """Return values (1, 1, n) that are distributed like those of the file."""
    values = np.array(sorted(counts), dtype)
    ends = np.cumsum([counts[value] for value in sorted(counts)])
    ranks = np.linspace(0, ends[-1] - 1, min(_MOST_RANKS, ends[-1])).astype(np.int64)
    spread = values[np.searchsorted(ends, ranks, side="right")]
    return np.concatenate([values[: _FEW if len(values) <= _FEW else 0], spread])[None, None]


def _open(path: Path, image: Source, reading: ReadOptions) -> Source:
    if path.suffix.lower() in RASTER_SUFFIXES:
        return Raster(path)
    return ArraySource(path, _NAMES, image.size, reading)


def _pair(size: tuple[int, ...]) -> tuple[int, int]:
    return size[0], size[1]
