"""Models for the command line: directories of crfrnn or transformers, or names on its hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from crfrnn._arrays import Array
from crfrnn._extras import require_torch
from crfrnn.io.files import shorten
from crfrnn.io.scores import Scores
from crfrnn.io.storage import is_stored
from crfrnn.offline.options import RefineOptions


class Model(Protocol):
    """What the commands need of a model."""

    @property
    def num_classes(self) -> int:
        """Number of classes C."""

    @property
    def classes(self) -> Sequence[str] | None:
        """Names of the classes, if known."""

    @property
    def has_crf(self) -> bool:
        """Whether the model contains a CRF."""

    def logits(self, image: Array) -> tuple[Array, Array]:
        """Return logits, tensors (B, C, H, W), before and after the CRF, of images on 0..255."""


def model_line(source: str | Path, model: Model) -> str:
    """Say what a model is."""
    names = f" ({shorten(model.classes, 3)})" if model.classes else ""
    crf = "with a CRF of its own" if model.has_crf else "without a CRF"
    return f"model: {source}, {model.num_classes} classes{names}, {crf}"


def is_model(directory: Path) -> bool:
    """Whether a directory holds a model of crfrnn or transformers."""
    return is_stored(directory) or (directory / "config.json").is_file()


def open_model(source: str | Path, *, fetch: bool = False) -> Model:
    """Open a model for use.

    Args:
        source: a directory that `crfrnn train` or the transformers library wrote; anything else is
            taken for a name on that library's hub.
        fetch: let that library download what this machine lacks.
    """
    require_torch("a model")
    directory = Path(source)
    if directory.is_dir():
        from crfrnn.models.checkpoint import load_checkpoint

        if not is_stored(directory) and (directory / "config.json").is_file():
            from crfrnn.integrations.transformers import load_transformers

            return load_transformers(str(directory))
        return load_checkpoint(directory)
    text = str(source)
    if directory.exists() or text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise FileNotFoundError(
            f"{source} is not a directory; expected one that holds a model, or the name of a model "
            "on the hub as OWNER/NAME"
        )
    from crfrnn.integrations.transformers import load_transformers

    try:
        return load_transformers(text, fetch=fetch)
    except ValueError as error:
        if fetch:
            raise
        raise ValueError(
            f"{source} is not a directory, and the transformers library has no model of this name "
            "on this machine; add --fetch to download it"
        ) from error


def model_labels(
    model: Model, image: np.ndarray, refining: RefineOptions | None
) -> tuple[np.ndarray, np.ndarray]:
    """Label one image (3, H, W) before and after the CRF, (H, W) each.

    The model's CRF is used, or `refine` if the model has none. Without options to refine with, no
    CRF is used, and both results are the same.
    """
    import torch

    from crfrnn.jobs.files import refine_scores

    with torch.inference_mode():
        batch = torch.from_numpy(np.ascontiguousarray(image[None], dtype=np.float32))
        before, after = (logits[0].numpy() for logits in model.logits(batch))
    first = before.argmax(axis=0)
    if refining is None:
        return first, first
    if model.has_crf:
        return first, after.argmax(axis=0)
    photo = np.ascontiguousarray(image.transpose(1, 2, 0))
    scores = Scores(np.ascontiguousarray(before), "logits")
    return first, refine_scores(photo, scores, refining).labels
