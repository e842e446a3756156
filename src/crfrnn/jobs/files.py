"""Refining one photograph from files to files, alone, as part of a folder, or on a cluster."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from crfrnn.io.array_files import split_member, state_of
from crfrnn.io.clamp import read_clamp
from crfrnn.io.copies import Copies
from crfrnn.io.files import read_image, write_array, write_image, write_labels
from crfrnn.io.notes import Guess, Note
from crfrnn.io.paths import AnyPath, Remote
from crfrnn.io.scores import Scores, read_scores
from crfrnn.offline.device import PROCESSORS, refine_on
from crfrnn.offline.guard import Guarded
from crfrnn.offline.inputs import Inputs
from crfrnn.offline.options import RefineOptions
from crfrnn.offline.refined import Refined
from crfrnn.offline.verdict import Changed

from .pairs import Outputs
from .settings import Settings

#: Foreground masks are written in black and white.
_MASK_PALETTE = bytes([0, 0, 0, 255, 255, 255])


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

    image: AnyPath
    scores: AnyPath
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
    """Return a result as JSON values, with the fields of `changed` and `guarded` at the top."""
    values: dict[str, Any] = {}
    for name, value in vars(result).items():
        values |= vars(value) if isinstance(value, (Changed, Guarded)) else {name: value}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Outputs):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, (Path, Remote, Note)) else value


def refine_file(
    image: AnyPath,
    scores: AnyPath,
    outputs: Outputs,
    settings: Settings,
    clamp: AnyPath | None = None,
) -> Refinement:
    """Refine one photograph's scores and write the results; each path may be a URL."""
    with Copies() as copies:
        given = (image, scores, *((clamp,) if clamp else ()))
        noted = fingerprint_places(given)  # before they are read
        inputs = [copies.fetch(path) for path in given]
        places = {name: copies.output(path) for name, path in outputs.paths().items()}
        result = _refine(inputs, Outputs(**places), settings, noted)
        # Labels last: if the label map exists, so does everything else.
        for path in sorted(outputs.paths().values(), key=lambda path: path == outputs.labels):
            copies.deliver(path)
    return replace(result, image=image, scores=scores, outputs=outputs)


def _refine(inputs: list[Path], outputs: Outputs, settings: Settings, places: str) -> Refinement:
    image, scores, *clamps = inputs
    reading = settings.reading
    photo = read_image(image, apply_exif=reading.apply_exif, max_pixels=reading.max_pixels)
    given = read_scores(scores, photo.shape[:2], reading, job_kind=settings.job_kind)
    held = read_clamp(clamps[0], photo.shape[:2]) if clamps else None
    start = time.perf_counter()
    refined = refine_scores(photo, given, settings.refining, held, settings.ids, settings.device)
    seconds = time.perf_counter() - start
    note = f"{fingerprint(settings, *inputs)} {places}"
    _write(photo, given, refined, outputs, note)
    changed, guarded = refined.changed, refined.guarded
    return Refinement(
        image=image,
        scores=scores,
        outputs=outputs,
        kind=given.kind,
        classes=int(refined.probs.shape[0]),
        changed=changed if isinstance(changed, Changed) else _sum(changed),
        guarded=guarded if isinstance(guarded, Guarded) else Guarded(False, 0),
        seconds=round(seconds, 4),
        engine=refined.engine,
        # The kind was reported for the whole job.
        notes=tuple(note for note in given.notes if not isinstance(note.what, Guess)),
    )


def refine_scores(
    photo: np.ndarray,
    given: Scores,
    options: RefineOptions,
    clamp: np.ndarray | None = None,
    ids: tuple[int, ...] | None = None,
    device: str = PROCESSORS,
) -> Refined[Any]:
    """Refine scores that `read_scores` gave, with a map that `read_clamp` gave.

    `ids` are those of the label maps of a job; `device` is where to refine.
    """
    inputs = Inputs(photo, given.kind, given.values, clamp=clamp, channels_last=True, ids=ids)
    return refine_on(device, inputs, options)


def _sum(verdicts: list[Changed]) -> Changed:
    """Add up what changed in independent masks."""
    counts = ("pixels", "relabeled", "confident", "flipped")
    total = {name: sum(getattr(verdict, name) for verdict in verdicts) for name in counts}
    return Changed(**total, vanished=(), appeared=(), swapped=())


def _write(
    photo: np.ndarray, given: Scores, refined: Refined[Any], outputs: Outputs, note: str
) -> None:
    """Write the results, labels last: if the label map exists, so does everything else."""
    labels_path, probs_path, overlay_path = outputs.labels, outputs.probs, outputs.overlay
    assert isinstance(labels_path, Path)
    masks = given.kind == "masks"
    foreground = given.kind != "labels" and given.values.shape[0] == 1
    if isinstance(probs_path, Path):
        write_array(probs_path, refined.probs)
    if isinstance(overlay_path, Path):
        from crfrnn.plots.figures import overlay

        labels = refined.labels
        if masks:  # a later mask lies over an earlier one
            numbers = np.arange(1, len(labels) + 1)[:, None, None]
            labels = (labels * numbers).max(axis=0)
        picture = overlay(photo.astype(np.uint8), labels, palette=given.palette)
        write_image(overlay_path, picture)
    if masks:
        write_array(labels_path, refined.labels)
        return
    write_labels(
        labels_path,
        refined.labels,
        classes=refined.probs.shape[0],
        palette=given.palette or (_MASK_PALETTE if foreground else None),
        note=note,
    )


def fingerprint(settings: Settings, *files: Path) -> str:
    """Return a hash of what a result depends on: options, and content of the inputs.

    It is stored in the label map, and identifies the result even after its inputs were moved.
    """
    parts = [json.dumps(settings.parameters(), sort_keys=True), *map(digest, dict.fromkeys(files))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def fingerprint_places(files: Sequence[AnyPath]) -> str:
    """Return hashes of the paths, and of the sizes and times, of a result's inputs."""
    return f"{fingerprint_names(files)} {fingerprint_states(map(state, files))}"


def fingerprint_names(files: Iterable[AnyPath]) -> str:
    """Return a hash of the paths of the files that a result comes from."""
    names = json.dumps([str(path.resolve()) for path in files])
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def state(path: AnyPath) -> tuple[int, int] | None:
    """Return size and time of a local file, which may be FILE:NAME; None if there is none."""
    local = isinstance(path, Path) and split_member(path)[0].exists()
    return state_of(path) if isinstance(path, Path) and local else None


def fingerprint_states(states: Iterable[tuple[int | None, int | None] | None]) -> str:
    """Return a hash of the sizes and times of the inputs; None stands for one behind a URL."""
    return hashlib.sha256(json.dumps(list(states)).encode()).hexdigest()[:16]


def digest(path: Path) -> str:
    """Return a hash of the content of a file, or of the names and times in a folder of arrays.

    The hash of FILE:NAME also depends on NAME.
    """
    path, member = split_member(path)
    content = _digest_all(path)
    return content if member is None else f"{content}:{member}"


def _digest_all(path: Path) -> str:
    if path.is_dir():
        files = sorted(part for part in path.rglob("*") if part.is_file())
        entries = [
            (str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files
        ]
        return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _digest(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        total = hashlib.blake2b(digest_size=16)
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
