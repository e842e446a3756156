"""One photograph from files to files: what `crfrnn refine` does once, or for each of a folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import crfrnn
from crfrnn.io.files import read_image, write_array, write_image, write_labels
from crfrnn.io.scores import Scores, read_scores
from crfrnn.plots.figures import overlay

from ._settings import Settings

#: How a foreground mask is written: black and white, as masks are.
_MASK_PALETTE = bytes([0, 0, 0, 255, 255, 255])


@dataclass(frozen=True)
class Outputs:
    """Files, or in folder mode folders, to write."""

    labels: Path
    probs: Path | None = None
    overlay: Path | None = None

    def paths(self) -> dict[str, Path]:
        """Return those that were asked for, by name."""
        return {name: path for name, path in vars(self).items() if path is not None}

    def spelled(self) -> dict[str, str]:
        """Return those that were asked for, by name, as JSON spells them."""
        return {name: str(path) for name, path in self.paths().items()}


def refine_file(image: Path, scores: Path, outputs: Outputs, settings: Settings) -> dict[str, Any]:
    """Refine one photograph's scores and write the results.

    Returns:
        What happened, as JSON spells it; `notes` holds what the user should check.
    """
    photo = read_image(image, apply_exif=settings.apply_exif)
    given = read_scores(
        scores,
        photo.shape[:2],
        settings.kind,
        class_axis=settings.class_axis,
        canvas=settings.canvas,
        align_corners=settings.align_corners,
        confidence=settings.confidence,
    )
    start = time.perf_counter()
    refined = refine_scores(photo, given, settings)
    seconds = time.perf_counter() - start
    _write(photo, given, refined, outputs)
    before = given.labels()
    known = before != settings.ignore_index if given.kind == "labels" else np.True_
    return {
        "image": str(image),
        "scores": str(scores),
        "outputs": outputs.spelled(),
        "kind": given.kind,
        "classes": int(refined.probs.shape[0]),
        "pixels": int(before.size),
        "relabeled": int(((refined.labels != before) & known).sum()),
        "seconds": round(seconds, 4),
        "engine": refined.engine,
        "notes": list(given.notes),
    }


def refine_scores(photo: np.ndarray, given: Scores, settings: Settings) -> crfrnn.Refined:
    """Call `crfrnn.refine` with the settings."""
    matrix = settings.compatibility
    scores: dict[str, Any] = {given.kind: given.values}
    return crfrnn.refine(
        photo,
        **scores,
        preset=settings.preset,
        kernels=settings.kernels,
        compatibility=None if matrix is None else np.array(matrix),
        iterations=settings.iterations,
        normalization=settings.normalization,
        filter=settings.filter,
        tol=settings.tol,
        precision=settings.precision,
        engine=settings.engine,
        num_classes=settings.num_classes if given.kind == "labels" else None,
        confidence=settings.confidence,
        ignore_index=settings.ignore_index,
        channels_last=True,
    )


def _write(photo: np.ndarray, given: Scores, refined: crfrnn.Refined, outputs: Outputs) -> None:
    """Write the results, the labels last: where they are, everything is."""
    foreground = given.kind != "labels" and given.values.shape[0] == 1
    if outputs.probs is not None:
        write_array(outputs.probs, refined.probs)
    if outputs.overlay is not None:
        picture = overlay(photo.astype(np.uint8), refined.labels, palette=given.palette)
        write_image(outputs.overlay, picture)
    write_labels(
        outputs.labels,
        refined.labels,
        classes=refined.probs.shape[0],
        palette=given.palette or (_MASK_PALETTE if foreground else None),
    )
