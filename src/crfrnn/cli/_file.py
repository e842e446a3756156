"""Refining one photograph and reporting the result."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from crfrnn.io.files import require_writable

from ._job import Outputs, refine_file, spell
from ._notes import say
from ._settings import Settings
from ._verdict import flipped, verdict


def run_file(args: argparse.Namespace, outputs: Outputs, settings: Settings) -> int:
    """Refine one photograph; returns the exit code."""
    clamps = () if args.clamp is None else (args.clamp,)
    check_outputs(outputs, (args.image, args.scores, *clamps))
    result = refine_file(args.image, args.scores, outputs, settings, args.clamp)
    for note in result.notes:
        say(f"crfrnn refine: note: {note}")
    if args.json:
        text = json.dumps({**spell(result), "parameters": settings.parameters()}, indent=2)
    else:
        head = (
            f"{result.relabeled} of {result.pixels} pixels relabeled "
            f"({result.relabeled / max(result.pixels, 1):.1%}), {flipped([result])}, in "
            f"{result.seconds:.2f} s, {result.engine} engine"
        )
        text = "\n".join(f"{args.output}: {line}" for line in (head, *verdict(result)))
    sys.stdout.write(f"{text}\n")
    return 0


def check_outputs(outputs: Outputs, inputs: tuple[Path, ...]) -> None:
    """Raise if an output has a wrong suffix, would replace an input, or cannot be written."""
    suffixes = {"labels": (".png",), "probs": (".npy",), "overlay": (".png", ".jpg", ".jpeg")}
    taken = {path.resolve(): "an input" for path in inputs}
    for name, path in outputs.paths().items():
        if path.suffix.lower() not in suffixes[name]:
            option = "--output" if name == "labels" else f"--{name}"
            raise ValueError(f"{option} must be a {' or '.join(suffixes[name])} file; got {path}")
        if path.resolve() in taken:
            raise ValueError(
                f"{path} is already {taken[path.resolve()]}; write the {name} elsewhere"
            )
        taken[path.resolve()] = f"the output for {name}"
        require_writable(path)
