"""Refining one photograph from files to files, alone or as part of a folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from crfrnn.io.files import read_image, write_array, write_image, write_labels
from crfrnn.io.notes import Note
from crfrnn.io.scores import Scores, read_scores
from crfrnn.offline.guard import Guarded
from crfrnn.offline.inputs import Inputs
from crfrnn.offline.options import RefineOptions
from crfrnn.offline.refine import Refined, refine_inputs
from crfrnn.offline.verdict import Changed

from ._clamp import read_clamp
from ._settings import Settings

#: Foreground masks are written in black and white.
_MASK_PALETTE = bytes([0, 0, 0, 255, 255, 255])


@dataclass(frozen=True)
class Outputs:
    """The files to write; when refining a folder, the folders to write to."""

    labels: Path
    probs: Path | None = None
    overlay: Path | None = None

    def paths(self) -> dict[str, Path]:
        """Return the requested paths by name."""
        return {name: path for name, path in vars(self).items() if path is not None}

    def to_json(self) -> dict[str, str]:
        """Return the requested paths by name, as JSON values."""
        return {name: str(path) for name, path in self.paths().items()}


class Result(Protocol):
    """The result for one photograph, a dataclass; see `spell`."""

    @property
    def pixels(self) -> int:
        """Number of pixels that had a label."""

    @property
    def relabeled(self) -> int:
        """Number of pixels whose label changed."""

    @property
    def notes(self) -> tuple[Note, ...]:
        """Assumptions that the user should check."""


@dataclass(frozen=True)
class Refinement:
    """The result of `crfrnn refine` for one photograph."""

    image: Path
    scores: Path
    outputs: Outputs
    kind: str
    classes: int
    changed: Changed
    guarded: Guarded
    seconds: float
    engine: str
    notes: tuple[Note, ...]

    @property
    def pixels(self) -> int:
        """Number of pixels that had a label."""
        return self.changed.pixels

    @property
    def relabeled(self) -> int:
        """Number of pixels whose label changed."""
        return self.changed.relabeled


def spell(result: Result) -> dict[str, Any]:
    """Return a result as JSON values; what changed, and what the guard did, are not nested."""
    values: dict[str, Any] = {}
    for name, value in vars(result).items():
        values |= vars(value) if isinstance(value, (Changed, Guarded)) else {name: value}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Outputs):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, (Path, Note)) else value


def refine_file(
    image: Path, scores: Path, outputs: Outputs, settings: Settings, clamp: Path | None = None
) -> Refinement:
    """Refine one photograph's scores and write the results."""
    photo = read_image(image, apply_exif=settings.reading.apply_exif)
    given = read_scores(scores, photo.shape[:2], settings.reading)
    held = None if clamp is None else read_clamp(clamp, photo.shape[:2])
    start = time.perf_counter()
    refined = refine_scores(photo, given, settings.refining, held)
    seconds = time.perf_counter() - start
    _write(photo, given, refined, outputs)
    changed, guarded = refined.changed, refined.guarded
    assert isinstance(changed, Changed)  # of one image
    return Refinement(
        image=image,
        scores=scores,
        outputs=outputs,
        kind=given.kind,
        classes=int(refined.probs.shape[0]),
        changed=changed,
        guarded=guarded if isinstance(guarded, Guarded) else Guarded(False, 0),
        seconds=round(seconds, 4),
        engine=refined.engine,
        notes=given.notes,
    )


def refine_scores(
    photo: np.ndarray, given: Scores, options: RefineOptions, clamp: np.ndarray | None = None
) -> Refined:
    """Refine scores that `read_scores` gave, with a map that `read_clamp` gave."""
    inputs = Inputs(photo, given.kind, given.values, clamp=clamp, channels_last=True)
    return refine_inputs(inputs, options)


def _write(photo: np.ndarray, given: Scores, refined: Refined, outputs: Outputs) -> None:
    """Write the results, labels last: if the label map exists, so does everything else."""
    foreground = given.kind != "labels" and given.values.shape[0] == 1
    if outputs.probs is not None:
        write_array(outputs.probs, refined.probs)
    if outputs.overlay is not None:
        from crfrnn.plots.figures import overlay

        picture = overlay(photo.astype(np.uint8), refined.labels, palette=given.palette)
        write_image(outputs.overlay, picture)
    write_labels(
        outputs.labels,
        refined.labels,
        classes=refined.probs.shape[0],
        palette=given.palette or (_MASK_PALETTE if foreground else None),
    )
