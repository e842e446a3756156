"""Source: images with their masks, and with precomputed logits or without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from crfrnn._arrays import Array
from crfrnn.data import open_dataset
from crfrnn.data.masked_images import Sample
from crfrnn.data.synthetic import CLASSES, draw_shapes

from .config import DataConfig
from .config_stage import StageConfig
from .packed import PackedLogits


class Pictures(Protocol):
    """The interface of a data set."""

    names: list[str]
    num_classes: int
    classes: tuple[str, ...] | None

    def __len__(self) -> int:
        """Return the number of samples."""

    def read(self, index: int) -> Sample:
        """Read a sample as NumPy arrays."""


class Shapes:
    """Generated images of `crfrnn.data.synthetic` as a data set; the split is the seed."""

    classes: tuple[str, ...] | None = ("ground", "disc", "bar")
    num_classes = CLASSES

    def __init__(self, split: str, *, count: int = 32, size: int = 48, noise: float = 14.0) -> None:
        seed = list(split.encode())
        self.images, self.labels = draw_shapes(count, size, noise=noise, random_state=seed)
        self.names = [f"{split}{index}" for index in range(count)]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.names)

    def read(self, index: int) -> Sample:
        """Return a sample as NumPy arrays."""
        image = np.rint(self.images[index]).astype(np.uint8)
        return Sample(self.names[index], image, self.labels[index])


class Source:
    """The images of one split, with their masks, and logits if they are precomputed.

    Args:
        config: the data set.
        split: "train" or "val".
    """

    def __init__(self, config: DataConfig, split: str) -> None:
        self.config = config
        listed = config.train if split == "train" else config.val
        if listed is None:
            raise ValueError(f"data.{split}: expected a list or split; got none")
        self.pictures = _open(config, listed)
        self._kept: dict[int, Sample] = {}
        self.pack: PackedLogits | None = None
        if config.scores is not None:
            path = config.scores.train if split == "train" else config.scores.val
            if path is None:
                raise ValueError(f"data.scores.{split}: expected a file of scores; got none")
            temperature = config.scores.temperature if split == "train" else 1.0
            self.pack = PackedLogits(path, config.scores, temperature)
            self.pack.require(self.pictures.names, self.pictures.num_classes)
            self.read(0)  # warns of odd scores now; worker processes stay silent
        self.num_classes = self.pictures.num_classes
        self.classes = self.pictures.classes
        count = len(self.pictures)
        self.count = count if config.limit is None else min(count, config.limit)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.count

    def read(self, index: int) -> tuple[Sample, np.ndarray | None]:
        """A whole image with its mask, and its precomputed logits (C, H, W), as NumPy arrays.

        Without precomputed logits there are None.
        """
        sample = self._kept.get(index) or self._read(index)
        if self.config.cache:
            self._kept[index] = sample
        if self.pack is None:
            return sample, None
        height, width = sample.label.shape
        return sample, self.pack.logits(sample.name, (height, width))

    def sample(self, index: int) -> tuple[Sample, Array | None]:
        """What `read` returns, as tensors."""
        import torch

        sample, logits = self.read(index)
        return sample.to_torch(), None if logits is None else torch.from_numpy(logits)

    def _read(self, index: int) -> Sample:
        sample: Sample = self.pictures.read(index)
        if self.config.size is None:
            return sample
        from crfrnn.data.transforms import resize  # late: it needs torch

        tensors = sample.to_torch()
        image, label = resize(tensors.image.float(), tensors.label, self.config.size)
        return Sample(sample.name, image.round().byte().numpy(), label.numpy())

    def read_label(self, index: int) -> np.ndarray:
        """The mask (H, W) of an image, before any resize."""
        read = getattr(self.pictures, "label", None)
        label: np.ndarray = self.pictures.read(index).label if read is None else read(index)
        return label

    def batches(
        self,
        batches: Sequence[Sequence[int]],
        stage: StageConfig,
        seeds: Sequence[int],
        workers: int,
    ) -> Iterator[Any]:
        """Load batches of an epoch; see `examples.load`."""
        from .examples import load  # late: it needs torch

        return load(self, batches, stage, seeds, workers)


def require_apart(config: DataConfig) -> None:
    """Raise if an image to train on is also one to validate on."""
    assert config.val is not None
    train, val = (_identities(config, split) for split in (config.train, config.val))
    both = sorted(train & val)
    if both:
        raise ValueError(
            f"data: {len(both)} of {len(val)} images of val are in train too, such as {both[0]}; "
            f"scores on them say nothing about new images. Set data.train and data.val to lists "
            f"that share no images"
        )


def _identities(config: DataConfig, split: str) -> set[str]:
    """Unique keys for the images of a split: file paths, or names if there are no files."""
    pictures = _open(config, split)
    entries = getattr(pictures, "entries", None)
    # Two folders may hold different images under one name.
    names = pictures.names if entries is None else [str(entry.image) for entry in entries]
    return set(names[: config.limit])


def _open(config: DataConfig, split: str) -> Any:
    if config.kind == "shapes":
        try:
            return Shapes(split, **config.options)
        except TypeError:
            given = ", ".join(config.options)
            raise ValueError(f"data.options: expected count, size or noise; got {given}") from None
    assert config.root is not None
    if config.kind != "folder":
        return open_dataset(config.kind, root=config.root, split=split, **config.options)
    options = {"images": "images", "masks": "masks", **config.options}
    paths = {name: config.root / options.pop(name) for name in ("images", "masks")}
    listed = config.root / f"{split}.txt"
    return open_dataset("folder", **paths, ids=listed, **options)
