"""Models for the command line: a directory of ours, one of transformers, or a hub's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from crfrnn.io.scores import Scores
from crfrnn.offline.options import RefineOptions

from ._job import refine_scores


class Model(Protocol):
    """What the commands need of a model."""

    @property
    def num_classes(self) -> int:
        """C."""

    @property
    def classes(self) -> Sequence[str] | None:
        """Their names, if known."""

    @property
    def has_crf(self) -> bool:
        """Whether there is a CRF in it."""

    def logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C, H, W) before and after its CRF of images on 0..255."""


def is_model(directory: Path) -> bool:
    """Whether a directory holds a model, ours or one of transformers."""
    from crfrnn.models.checkpoint import is_checkpoint

    return is_checkpoint(directory) or (directory / "config.json").is_file()


def open_model(source: str | Path, *, fetch: bool = False) -> Model:
    """Open a model for use.

    Args:
        source: a directory that `crfrnn train` wrote, or one of the transformers library; anything
            that is no directory is taken for a name on its hub.
        fetch: let that library fetch what it has not on this machine.
    """
    directory = Path(source)
    if directory.is_dir():
        from crfrnn.models.checkpoint import is_checkpoint, load_checkpoint

        if not is_checkpoint(directory) and (directory / "config.json").is_file():
            from crfrnn.integrations.transformers import load_transformers

            return load_transformers(str(directory))
        return load_checkpoint(directory)
    text = str(source)
    if directory.exists() or text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise FileNotFoundError(
            f"{source}: expected a model's directory, or the name of one on the hub as OWNER/NAME"
        )
    from crfrnn.integrations.transformers import load_transformers

    try:
        return load_transformers(text, fetch=fetch)
    except ValueError as error:
        if fetch:
            raise
        raise ValueError(
            f"{source}: there is no such directory, and the transformers library has not fetched a "
            "model of that name before; --fetch lets it"
        ) from error


def model_labels(
    model: Model, image: Tensor, refining: RefineOptions | None
) -> tuple[Tensor, Tensor]:
    """Labels (H, W) of one image (3, H, W) before and after the CRF.

    The CRF is the model's own; if it has none, `refine` with the options; without options, none.
    """
    with torch.inference_mode():
        batch = image[None].float()
        before, after = model.logits(batch)
    first = before[0].argmax(dim=0)
    if refining is None:
        return first, first
    if model.has_crf:
        return first, after[0].argmax(dim=0)
    photo = image.permute(1, 2, 0).contiguous().numpy()
    scores = Scores(np.ascontiguousarray(before[0].numpy()), "logits")
    return first, torch.from_numpy(refine_scores(photo, scores, refining).labels)
