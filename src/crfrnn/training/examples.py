"""Training examples of a source: cropped, augmented, and loaded in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from crfrnn.data.masked_images import IGNORE
from crfrnn.data.transforms import Augment, crop

from .batches import Batch, Item, generator, stack
from .config_stage import StageConfig
from .source import Source

#: Stands for an ignored label while padding is marked by `IGNORE`. The CRF must tell them apart: a
#: void pixel has a color and takes part, padding has none and is masked.
_VOID = -1


def load(
    source: Source,
    batches: Sequence[Sequence[int]],
    stage: StageConfig,
    seeds: Sequence[int],
    workers: int,
) -> Iterator[Batch]:
    """Load batches of an epoch, in worker processes unless `workers` is 0."""
    keyed = _Keyed(source, stage, tuple(seeds))
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
        return example(self.source, index, self.stage, generator(*self.seeds, index))


def example(source: Source, index: int, stage: StageConfig, random_state: torch.Generator) -> Item:
    """An example: an image, cropped and augmented."""
    sample, logits = source.sample(index)
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
