"""The photographs of a split, with their scores and masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn.data.masked_images import Entry, MaskedImages, Sample, pictures_by_stem
from crfrnn.io.options import ReadOptions
from crfrnn.io.score_grid import classes_first
from crfrnn.io.score_pack import read_pack
from crfrnn.io.scores import interpret_scores

from .method import Scene


@dataclass(frozen=True)
class Folders:
    """Where a split lies.

    Attributes:
        photographs: folder of photographs.
        masks: folder of masks, called as the photographs.
        scores: an .npz with `ids`, and `logits` or `probs`.
        canvas: side of the padded canvas that the scores cover, with corner cells on corner pixels.
        void: ids of masks that do not count, besides 255.
    """

    photographs: Path
    masks: Path
    scores: Path
    canvas: int | None = None
    void: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        paths = {name: str(getattr(self, name)) for name in ("photographs", "masks", "scores")}
        return {**paths, "canvas": self.canvas, "void": list(self.void)}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Folders:
        """From what `to_dict` gives."""
        paths = (Path(tree[name]) for name in ("photographs", "masks", "scores"))
        return cls(*paths, tree["canvas"], tuple(tree["void"]))


class Split:
    """The photographs of a file of scores, by name.

    Raises:
        ValueError: no photograph has scores and a mask.
    """

    def __init__(self, folders: Folders) -> None:
        self.pack = read_pack(folders.scores)
        pictures, masks = pictures_by_stem(folders.photographs), pictures_by_stem(folders.masks)
        names = [name for name in self.pack.names if name in pictures and name in masks]
        if not names:
            raise ValueError(
                f"{folders.photographs}: expected photographs called like the ids in "
                f"{folders.scores}, with masks in {folders.masks}; found none"
            )
        side = folders.canvas
        self._canvas = None if side is None else (side, side)
        self._reading = ReadOptions(canvas=self._canvas, align_corners=side is not None)
        entries = [Entry(name, pictures[name], masks[name]) for name in names]
        self.names = names
        self._places = {name: index for index, name in enumerate(names)}
        size = self._canvas or (1, 1)
        self.num_classes = len(self._coarse(names[0], size if side else self._size(entries[0])))
        self.pictures = MaskedImages(entries, self.num_classes, ignore=folders.void, tensors=False)

    def read(self, name: str) -> tuple[Scene, np.ndarray]:
        """A scene, and its true labels (H, W) with 255 where they do not count."""
        sample: Sample = self.pictures.read(self._places[name])
        image = np.ascontiguousarray(np.moveaxis(np.asarray(sample.image), 0, 2))
        size = (image.shape[0], image.shape[1])
        scores = interpret_scores(self.pack.arrays(name), self.pack.path, size, self._reading)
        logits = scores.values if scores.kind == "logits" else _logits(scores.values)
        covered = self._canvas or size
        coarse = self._coarse(name, covered)
        return (
            Scene(image, logits, coarse, covered, self._canvas is not None),
            np.asarray(sample.label),
        )

    def classes_of(self, index: int) -> list[int]:
        """The ids in a mask; with `__len__` and `num_classes`, all that `balanced` asks for."""
        ids: list[int] = np.unique(self.pictures.label(index)).tolist()
        return ids

    def __len__(self) -> int:
        """Return the number of photographs."""
        return len(self.names)

    def _coarse(self, name: str, covered: tuple[int, int]) -> np.ndarray:
        arrays = self.pack.arrays(name)
        values = np.asarray(arrays[self.pack.kind], np.float32)
        if {"scale", "zero"} <= set(arrays):
            values = (values - np.float32(arrays["zero"])) * np.float32(arrays["scale"])
        values = classes_first(values, covered)
        values = values if self.pack.kind == "logits" else _logits(values)
        return np.ascontiguousarray(values, np.float32)

    @staticmethod
    def _size(entry: Entry) -> tuple[int, int]:
        from crfrnn.io.files import image_size

        return image_size(entry.image)


def _logits(probs: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probs, 1e-7)).astype(np.float32)
