"""Segmenting one photograph, or a folder of them, with a model."""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn.io.files import IMAGE_SUFFIXES, read_image, write_image, write_labels
from crfrnn.io.notes import Note
from crfrnn.io.paths import require_local
from crfrnn.jobs.files import fingerprint, fingerprint_places, spell
from crfrnn.jobs.pairs import Matches, Outputs, Pair
from crfrnn.jobs.resume import Origin
from crfrnn.jobs.settings import Settings
from crfrnn.plots.figures import overlay

from . import _folder
from ._model import Model, model_labels, model_line
from ._notes import say, tell
from ._settings import make_settings


@dataclass(frozen=True)
class SegmentSettings(Settings):
    """How to segment: the parameters of the CRF, and whether to use one."""

    crf: bool = True

    def parameters(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {**super().parameters(), "crf": self.crf}


@dataclass(frozen=True)
class Segmentation:
    """The result of `crfrnn segment` for one photograph; `found` names the classes in it."""

    image: Path
    outputs: Outputs
    classes: int
    found: tuple[str, ...]
    pixels: int
    relabeled: int
    seconds: float
    notes: tuple[Note, ...] = ()


def make_segment_settings(args: argparse.Namespace) -> SegmentSettings:
    """Turn the options into settings; the scores are a model's, logits with the classes first."""
    settings = make_settings(args)
    reading = replace(settings.reading, kind="logits", class_axis="first")
    return SegmentSettings(reading, settings.refining, crf=args.crf)


def run_file(
    args: argparse.Namespace, outputs: Outputs, settings: SegmentSettings, model: Model
) -> int:
    """Segment one photograph; returns the exit code."""
    result = _segment_file(args.image, outputs, settings, model)
    say(f"crfrnn segment: {model_line(args.model, model)}")
    if args.json:
        tell(json.dumps({**spell(result), "parameters": settings.parameters()}, indent=2))
    else:
        share = result.relabeled / result.pixels
        crf = f"the CRF relabeled {share:.1%} of pixels" if settings.crf else "without a CRF"
        tell([f"{args.output}: {', '.join(result.found)}; {crf}; {result.seconds:.2f} s"])
    return 0


def run_folder(
    args: argparse.Namespace, folders: Outputs, settings: SegmentSettings, model: Model
) -> int:
    """Segment every photograph of a folder that is not done yet; returns the exit code."""
    _folder.check_workers(args.workers)
    _folder.check_folders(folders)
    source = Path(args.model)
    matches = _photographs(args.image, _newest_file(source), folders)

    def work(pair: Pair) -> Segmentation:
        image = require_local(pair.image)
        files = (image, require_local(pair.scores))
        note = f"{fingerprint(settings, *files)} {fingerprint_places(files)}"
        return _segment_file(image, pair.outputs, settings, model, note)

    origin = Origin("segment", args.image, source, settings)
    lines = [model_line(args.model, model)]
    task = _folder.Task(origin, "segmenting", "segmented", folders, work, lines=lines)
    return _folder.run_pairs(args, task, matches)


def _segment_file(
    path: Path, outputs: Outputs, settings: SegmentSettings, model: Model, note: str = ""
) -> Segmentation:
    reading = settings.reading
    photo = read_image(path, apply_exif=reading.apply_exif, max_pixels=reading.max_pixels)
    photo = np.rint(photo).astype(np.uint8)
    start = time.perf_counter()
    before, labels = model_labels(
        model, photo.transpose(2, 0, 1), settings.refining if settings.crf else None
    )
    seconds = time.perf_counter() - start
    if outputs.overlay is not None:
        write_image(require_local(outputs.overlay), overlay(photo, labels))
    write_labels(require_local(outputs.labels), labels, classes=model.num_classes, note=note)
    names = model.classes or [str(index) for index in range(model.num_classes)]
    return Segmentation(
        image=path,
        outputs=outputs,
        classes=model.num_classes,
        found=tuple(names[index] for index in np.unique(labels).tolist()),
        pixels=int(labels.size),
        relabeled=int((before != labels).sum()),
        seconds=round(seconds, 4),
    )


def _photographs(folder: Path, weights: Path | None, folders: Outputs) -> Matches:
    """Pair each photograph of a folder with the newest file of the model.

    A result that is older than this file is redone, as `crfrnn refine` does with newer scores.
    """
    by_stem = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            by_stem[path.stem].append(path)
    if not by_stem:
        raise ValueError(f"{folder}: this folder holds no photographs")
    pairs, clashes = [], []
    for stem, paths in by_stem.items():
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            clashes.append((stem, f"cannot tell which file to use: {names}; keep one of them"))
            continue
        overlay_path = folders.overlay and folders.overlay / f"{stem}.png"
        outputs = Outputs(folders.labels / f"{stem}.png", None, overlay_path)
        pairs.append(Pair(stem, paths[0], weights or paths[0], outputs))
    return Matches(pairs, clashes=clashes)


def _newest_file(source: Path) -> Path | None:
    """Find the newest file of a model's directory; None for a name on a hub."""
    if not source.is_dir():
        return None
    files = [path for path in source.iterdir() if path.is_file()]
    return max(files, key=lambda path: path.stat().st_mtime_ns)
