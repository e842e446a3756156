"""Batches: examples stacked, in an order that depends on the seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Item:
    """One training example, cropped and augmented.

    Attributes:
        name: of the image.
        image: (3, H, W) float on 0..255.
        label: (H, W) int64.
        inside: (H, W) bool, False where a crop reaches beyond the image.
        logits: (C, H, W) precomputed; None where a network computes them.
    """

    name: str
    image: Tensor
    label: Tensor
    inside: Tensor
    logits: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Stacked examples; the fields are those of `Item` with a leading batch axis."""

    names: tuple[str, ...]
    image: Tensor
    label: Tensor
    inside: Tensor
    logits: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Move to a device."""
        if device.type == "cpu":
            return self
        return Batch(
            self.names,
            self.image.to(device),
            self.label.to(device),
            self.inside.to(device),
            None if self.logits is None else self.logits.to(device),
        )


def stack(items: Sequence[Item]) -> Batch:
    """Make a batch."""
    shapes = {tuple(item.label.shape) for item in items}
    if len(shapes) > 1:
        raise ValueError(
            f"the images of a batch must have the same size; got {sorted(shapes)}. "
            f"Set crop in the stage, or batch_size: 1"
        )
    logits = [item.logits for item in items if item.logits is not None]
    return Batch(
        tuple(item.name for item in items),
        torch.stack([item.image for item in items]),
        torch.stack([item.label for item in items]),
        torch.stack([item.inside for item in items]),
        torch.stack(logits) if logits else None,
    )


def order(count: int, batch_size: int, *seeds: int) -> list[list[int]]:
    """The indices of each batch of one epoch; an incomplete last batch is left out.

    A data set smaller than one batch is one batch.
    """
    # A new permutation from (seed, stage, epoch), not the next one of a global generator: a resumed
    # run computes the order of its epoch without those before it.
    shuffled = np.random.default_rng(seeds).permutation(count).tolist()
    size = min(batch_size, count)
    return [shuffled[at : at + size] for at in range(0, count - size + 1, size)]


def generator(*seeds: int) -> torch.Generator:
    """The random state of one image in one epoch, whichever process loads it and whenever."""
    # SeedSequence mixes the seeds, so that neighbors such as (0, 1) and (1, 0) are unrelated; the
    # shift fits its 64 bits into the signed integer that torch takes.
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)
