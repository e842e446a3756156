"""Source: training examples from a data set, with or without precomputed logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from crfrnn.data import open_dataset
from crfrnn.data.masked_images import IGNORE, Sample
from crfrnn.data.synthetic import CLASSES, shapes
from crfrnn.data.transforms import Augment, crop, resize

from .batches import Batch, Item, generator, stack
from .config import DataConfig
from .config_stage import StageConfig
from .packed import PackedLogits

#: Stands for an ignored label while padding is marked by `IGNORE`. The CRF must tell them apart: a
#: void pixel has a color and takes part, padding has none and is masked.
_VOID = -1


class Pictures(Protocol):
    """The interface of a data set."""

    names: list[str]
    num_classes: int
    classes: tuple[str, ...] | None

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Read a sample."""


class Shapes:
    """Generated images of `crfrnn.data.synthetic` as a data set; the split is the seed."""

    classes: tuple[str, ...] | None = ("ground", "disc", "bar")
    num_classes = CLASSES

    def __init__(self, split: str, *, count: int = 32, size: int = 48, noise: float = 14.0) -> None:
        random_state = generator(*split.encode())
        self.images, self.labels = shapes(count, size, noise=noise, generator=random_state)
        self.names = [f"{split}{index}" for index in range(count)]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample."""
        image = self.images[index].round().to(torch.uint8)
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
            self.sample(0)  # warns of odd scores now; worker processes stay silent
        self.num_classes = self.pictures.num_classes
        self.classes = self.pictures.classes
        count = len(self.pictures)
        self.count = count if config.limit is None else min(count, config.limit)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.count

    def sample(self, index: int) -> tuple[Sample, Tensor | None]:
        """A whole image with its mask, and its precomputed logits (C, H, W), if any."""
        sample = self._kept.get(index) or self._read(index)
        if self.config.cache:
            self._kept[index] = sample
        if self.pack is None:
            return sample, None
        height, width = sample.label.shape
        return sample, self.pack.logits(sample.name, (height, width))

    def _read(self, index: int) -> Sample:
        sample: Sample = self.pictures[index]
        if self.config.size is None:
            return sample
        image, label = resize(sample.image.float(), sample.label, self.config.size)
        return Sample(sample.name, image.round().to(torch.uint8), label)

    def sample_label(self, index: int) -> Tensor:
        """The mask (H, W) of an image, before any resize."""
        read = getattr(self.pictures, "label", None)
        label: Tensor = self.pictures[index].label if read is None else read(index)
        return label

    def item(self, index: int, stage: StageConfig, random_state: torch.Generator) -> Item:
        """An example: an image, cropped and augmented."""
        sample, logits = self.sample(index)
        image, label = sample.image.float(), sample.label
        label = torch.where(label == IGNORE, _VOID, label)
        if logits is None:
            size = None if stage.crop is None else (stage.crop, stage.crop)
            flip, jitter = (0.5 if stage.flip else 0.0), stage.color
            augment = Augment(stage.scale, size, flip, jitter, jitter, jitter)
            image, label = augment(image, label, random_state)
        else:
            image, label, logits = _cut(image, label, logits, stage, random_state)
        inside = label != IGNORE
        return Item(sample.name, image, torch.where(label == _VOID, IGNORE, label), inside, logits)

    def batches(
        self,
        batches: Sequence[Sequence[int]],
        stage: StageConfig,
        seeds: Sequence[int],
        workers: int,
    ) -> Iterator[Batch]:
        """Load batches of an epoch, in worker processes unless `workers` is 0."""
        keyed = _Keyed(self, stage, tuple(seeds))
        if not workers:
            yield from (stack([keyed[index] for index in batch]) for batch in batches)
            return
        # With a separate generator the loader leaves torch's random state alone, so that the number
        # of workers does not change the weights.
        yield from DataLoader(
            keyed,
            batch_sampler=[list(batch) for batch in batches],
            num_workers=workers,
            collate_fn=stack,
            generator=torch.Generator().manual_seed(0),
        )


class _Keyed(Dataset[Item]):
    """The examples of one epoch, each with a separate random state."""

    def __init__(self, source: Source, stage: StageConfig, seeds: tuple[int, ...]) -> None:
        self.source, self.stage, self.seeds = source, stage, seeds

    def __getitem__(self, index: int) -> Item:
        return self.source.item(index, self.stage, generator(*self.seeds, index))


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


def _cut(
    image: Tensor, label: Tensor, logits: Tensor, stage: StageConfig, random_state: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Crop and mirror an image together with its logits."""
    row, column, mirror = torch.rand(3, generator=random_state).tolist()
    if stage.crop is not None:
        side = (stage.crop, stage.crop)
        spare = [length - stage.crop for length in label.shape]
        corner = [
            round(share * room) if room > 0 else 0
            for share, room in zip((row, column), spare, strict=True)
        ]
        image, label = crop(image, label, (corner[0], corner[1]), side)
        window = logits[:, corner[0] : corner[0] + side[0], corner[1] : corner[1] + side[1]]
        # Padding gets equal logits for all classes; the mask keeps it out of the CRF anyway.
        logits = logits.new_zeros(len(logits), *side)
        logits[:, : window.shape[1], : window.shape[2]] = window
    if stage.flip and mirror < 0.5:
        image, label, logits = image.flip(2), label.flip(1), logits.flip(2)
    return image, label, logits
