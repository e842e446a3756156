"""The methods that `crfrnn evaluate` compares, from labels, scores or a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn.data import MaskedImages, Sample
from crfrnn.evaluation.evaluate import AFTER, BEFORE, Predict
from crfrnn.io.files import IMAGE_SUFFIXES, shorten
from crfrnn.io.label_maps import VOID, foreground
from crfrnn.io.notes import Guess
from crfrnn.io.options import ReadOptions, Size
from crfrnn.io.score_pack import is_pack, read_pack
from crfrnn.io.scores import ARRAY_SUFFIXES, Scores, interpret_scores, read_scores
from crfrnn.jobs.settings import Settings
from crfrnn.jobs.survey import settle, survey

from ._model import is_model, model_labels, model_line, open_model
from ._notes import Notes

_LABELS = ReadOptions(kind="labels")


@dataclass(frozen=True)
class Methods:
    """The methods to compare.

    Attributes:
        predict: returns the labels of a sample per method.
        crf: the CRF between "before" and "after": "refine", "the model's", or None.
        notes: notes on the files that `predict` reads.
        lines: what was understood, to be said before the work.
    """

    predict: Predict
    crf: str | None = None
    notes: Notes = field(default_factory=lambda: Notes("crfrnn evaluate", "note", "images"))
    lines: Sequence[str] = ()


def make_methods(args: argparse.Namespace, settings: Settings, data: MaskedImages) -> Methods:
    """Recognize the sources, and check what can be checked before any work."""
    sources: list[Path] = args.source
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(
                f"{source}: expected labels, scores or a model, but it is missing"
            )
    if len(sources) > 2:
        raise ValueError(
            f"expected one source, or two folders of labels; got {len(sources)} sources"
        )
    kinds = [_kind(source) for source in sources]
    if len(sources) == 2 and kinds != ["labels", "labels"]:
        raise ValueError(
            f"two sources must be folders of labels, before and after; got {kinds[0]} and "
            f"{kinds[1]}"
        )
    if kinds[0] == "labels":
        lines = [
            f"{name}: labels, because {source} holds pictures and no arrays"
            for name, source in zip((BEFORE, AFTER), sources, strict=False)
        ]
        return Methods(_from_labels(sources, data), lines=lines)
    if kinds[0] == "model":
        return _from_model(sources[0], settings, data, refine=args.refine)
    return _from_scores(sources[0], settings, data, refine=args.refine)


def _kind(source: Path) -> str:
    if source.is_file():
        if is_pack(source):
            return "scores"
        raise ValueError(
            f"{source}: a single file must be a .npz with `ids` and `logits` (or `probs`) of many "
            "images; put other files into a folder"
        )
    if is_model(source):
        return "model"
    suffixes = {path.suffix.lower() for path in source.iterdir() if path.is_file()}
    if suffixes & ARRAY_SUFFIXES:
        return "scores"
    if suffixes & IMAGE_SUFFIXES:
        return "labels"
    raise ValueError(f"{source}: this folder holds no label images, score arrays or model")


def _from_labels(folders: Sequence[Path], data: MaskedImages) -> Predict:
    names = (BEFORE, AFTER)[: len(folders)]
    files = [_require_files(folder, data.names, IMAGE_SUFFIXES) for folder in folders]

    def read(path: Path, size: Size) -> np.ndarray:
        labels = read_scores(path, size, _LABELS).labels()
        if data.num_classes == 2 and ((labels == 0) | (labels == VOID)).all():
            labels = foreground(labels)
        return labels

    def predict(sample: Sample) -> dict[str, np.ndarray]:
        size = (sample.label.shape[0], sample.label.shape[1])
        return {
            name: read(by_stem[sample.name], size)
            for name, by_stem in zip(names, files, strict=True)
        }

    return predict


def _from_scores(source: Path, settings: Settings, data: MaskedImages, *, refine: bool) -> Methods:
    pack = read_pack(source) if source.is_file() else None
    files = {} if pack else _require_files(source, data.names, ARRAY_SUFFIXES)
    notes = Notes("crfrnn evaluate", "note", "images")
    if pack:
        pack.require(data.names)
        shape = pack.arrays(data.names[0])[pack.kind].shape
        lines = [
            f"scores: {pack.kind}, because the array is called so; {shape} for each of "
            f"{len(data.names)} images"
        ]
    else:
        images = {entry.name: entry.image for entry in data.entries}
        pairs = [(images[name], files[name]) for name in data.names]
        understood = survey(pairs, settings)
        settings = settle(settings, understood)
        if understood.kind == "labels" and settings.refining.num_classes is None:
            refining = replace(settings.refining, num_classes=data.num_classes)
            settings = replace(settings, refining=refining)
        if understood.kind == "masks":
            raise ValueError(
                f"{source}: holds independent masks, but the truth has one class per pixel; give "
                "the right --kind, or refine the masks with crfrnn refine"
            )
        if understood.kind != "labels" and max(understood.classes, 2) != data.num_classes:
            raise ValueError(_classes_differ(source, data, understood.classes))
        lines = understood.lines()

    def predict(sample: Sample) -> dict[str, np.ndarray]:
        size = (sample.label.shape[0], sample.label.shape[1])
        if pack:
            name = Path(f"{source.name}:{sample.name}")
            given = interpret_scores(pack.arrays(sample.name), name, size, settings.reading)
        else:
            given = read_scores(
                files[sample.name], size, settings.reading, job_kind=settings.job_kind
            )
        _require_classes(given, data, source)
        for note in given.notes:
            if pack or not isinstance(note.what, Guess):  # else it was reported for all
                notes.add(str(note), note.what.sentence)
        labels = {BEFORE: given.labels()}
        if refine:
            from crfrnn.jobs.files import refine_scores  # late: labels need no engine

            photo = np.ascontiguousarray(sample.image.transpose(1, 2, 0))
            labels[AFTER] = refine_scores(photo, given, settings.refining, ids=settings.ids).labels
        return labels

    return Methods(predict, "refine" if refine else None, notes, lines)


def _from_model(source: Path, settings: Settings, data: MaskedImages, *, refine: bool) -> Methods:
    model = open_model(source)
    if model.num_classes != data.num_classes:
        raise ValueError(
            f"{source}: the model must have the {data.num_classes} classes of the data; got "
            f"{model.num_classes}"
        )

    def predict(sample: Sample) -> dict[str, np.ndarray]:
        before, after = model_labels(model, sample.image, settings.refining if refine else None)
        return {BEFORE: before, AFTER: after} if refine else {BEFORE: before}

    crf = "the model's" if model.has_crf else "refine"
    return Methods(predict, crf if refine else None, lines=[model_line(source, model)])


def _require_files(folder: Path, names: Sequence[str], suffixes: set[str] | frozenset[str]) -> Any:
    by_stem: dict[str, Path] = {}
    # An array wins over a picture, and PNG over other pictures.
    for path in sorted(folder.iterdir(), key=lambda p: (p.suffix.lower() in (".png", ".npy"), p)):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            by_stem[path.stem] = path
    missing = [name for name in names if name not in by_stem]
    if missing:
        raise FileNotFoundError(
            f"{folder}: no file ({', '.join(sorted(suffixes))}) for {len(missing)} of "
            f"{len(names)} images: {shorten(missing)}"
        )
    return by_stem


def _require_classes(given: Scores, data: MaskedImages, source: Path) -> None:
    classes = 0 if given.kind == "labels" else len(given.values)
    if given.kind != "labels" and max(classes, 2) != data.num_classes:
        raise ValueError(_classes_differ(source, data, classes))


def _classes_differ(source: Path, data: MaskedImages, classes: int) -> str:
    return (
        f"{source}: the scores must have the {data.num_classes} classes of the data; got {classes}"
    )
