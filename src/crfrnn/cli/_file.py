"""Refining one photograph and reporting the result."""

from __future__ import annotations

import argparse
import difflib
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from crfrnn.io.array_files import split_member
from crfrnn.io.files import make_folder, require_writable
from crfrnn.io.paths import AnyPath, Remote, require_store
from crfrnn.jobs.files import refine_file, spell
from crfrnn.jobs.pairs import Outputs, require_apart
from crfrnn.jobs.settings import Settings
from crfrnn.jobs.survey import Understood, settle, survey

from ._notes import say, tell
from ._verdict import flipped, verdict


def run_file(args: argparse.Namespace, outputs: Outputs, settings: Settings) -> int:
    """Refine one photograph; returns the exit code."""
    understood = survey([(args.image, args.scores)], settings)
    if args.dry_run:
        tell_understood(args, understood, settings)
        return 0
    if understood.kind == "masks":
        outputs = replace(outputs, labels=_array_in(outputs.labels, args.scores))
    clamps = () if args.clamp is None else (args.clamp,)
    inputs = (args.image, args.scores, *clamps)
    check_outputs(outputs, inputs, masks=understood.kind == "masks")
    # What is said first is said once it is certain that the files can be used.
    settings = settle(settings, understood)
    with warnings.catch_warnings(record=True) as held:
        result = refine_file(args.image, args.scores, outputs, settings, args.clamp)
    for line in understood.lines():
        say(f"crfrnn refine: {line}")
    for warning in held:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    for note in result.notes:
        say(f"crfrnn refine: note: {note}")
    if args.json:
        report = {**spell(result), "understood": understood.to_json()}
        tell(json.dumps({**report, "parameters": settings.parameters()}, indent=2))
    else:
        head = (
            f"{result.relabeled} of {result.pixels} pixels relabeled "
            f"({result.relabeled / max(result.pixels, 1):.1%}), {flipped([result])}, in "
            f"{result.seconds:.2f} s, {result.engine} engine"
        )
        tell([f"{outputs.labels}: {line}" for line in (head, *verdict(result))])
    return 0


def check_inputs(*paths: AnyPath) -> None:
    """Raise if an input is missing, with the name of one that is there and looks alike."""
    for given in paths:
        if isinstance(given, Remote):  # it is looked up when it is read
            continue
        path = split_member(given)[0]
        if path.exists():
            continue
        there = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, there, 1)
        hint = f" (did you mean {path.with_name(close[0])}?)" if close else ""
        what = {".npy": "a NumPy file", ".npz": "a NumPy file"}.get(path.suffix.lower(), "")
        what = what or ("an image" if path.suffix else "a folder or a file")
        raise FileNotFoundError(f"{path}: expected {what}, but it is missing; check the path{hint}")


def tell_understood(
    args: argparse.Namespace, understood: Understood, settings: Settings, **more: Any
) -> None:
    """Print what was understood, and nothing else, on stdout."""
    if args.json:
        report = {"understood": understood.to_json(), **more}
        tell(json.dumps({**report, "parameters": settings.parameters()}, indent=2))
    else:
        tell([*understood.lines(), *([f"note: {understood.note}"] if understood.note else [])])


def _array_in(output: AnyPath, scores: AnyPath) -> AnyPath:
    """The file for independent masks: as given, or named after the scores in a folder."""
    if isinstance(output, Remote):
        return output if output.suffix else output / f"{scores.stem}.npy"
    if output.suffix and not output.is_dir():
        return output
    make_folder(output)
    return output / f"{scores.stem}.npy"


def check_outputs(outputs: Outputs, inputs: tuple[AnyPath, ...], *, masks: bool = False) -> None:
    """Raise if an output has a wrong suffix, would replace an input, or cannot be written."""
    suffixes = {"labels": (".png",), "probs": (".npy",), "overlay": (".png", ".jpg", ".jpeg")}
    if masks:
        suffixes["labels"] = (".npy",)
    for name, path in outputs.paths().items():
        if path.suffix.lower() not in suffixes[name]:
            option = "--output" if name == "labels" else f"--{name}"
            raise ValueError(f"{option} must be a {' or '.join(suffixes[name])} file; got {path}")
    require_apart(outputs, {"an input": inputs})
    for path in outputs.paths().values():
        if isinstance(path, Path):
            require_writable(path)
        else:
            require_store(path)
