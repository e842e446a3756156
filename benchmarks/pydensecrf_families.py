"""How long does published code take with the original and with this library?

The helper functions of `tests/golden/pydensecrf_snippets.py` run unchanged with both, in turn, in
the same process, on the demo photographs; the share of equal labels is shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

import crfrnn.pydensecrf
from benchmarks.timing import in_turn, table

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
PHOTOGRAPHS = ("astronaut", "chelsea")
FAMILIES = ("psa", "deeplab", "irn", "stego", "maskcut", "saliency", "manga", "crfasrnn")

Calls = dict[str, Callable[[], Any]]


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table for each photograph."""
    parser = argparse.ArgumentParser(prog="pydensecrf_families", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="pairs of calls, in turn")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for photograph in PHOTOGRAPHS:
        theirs, ours = families(photograph, original=True), families(photograph, original=False)
        rows = []
        for name in options.families:
            equal = f"{agreement(ours[name](), theirs[name]()):.3%} of labels equal"
            rows.append((name, in_turn(ours[name], theirs[name], options.pairs), equal))
        table(f"whole calls, {photograph}, {options.threads} threads, other: pydensecrf2", rows)


def families(photograph: str, *, original: bool) -> Calls:
    """Bind the families to a photograph, and to the original or this library."""
    with library(original=original):
        scenes, snippets, cases = (
            load(f"pydensecrf_{name}") for name in ("scenes", "snippets", "cases")
        )
    image, probs = scenes.photograph(photograph)
    calls: Calls = cases.families(snippets, image, probs.argmax(axis=0), probs)
    return calls


@contextmanager
def library(*, original: bool) -> Iterator[None]:
    """Let `import pydensecrf` import the original, or this library."""
    if original:
        crfrnn.pydensecrf.uninstall()
        if importlib.util.find_spec("pydensecrf") is None:
            raise SystemExit("the original is not installed: pip install pydensecrf2==1.1")
        yield
    else:
        crfrnn.pydensecrf.install(override=True)
        yield
        crfrnn.pydensecrf.uninstall()


def load(name: str) -> ModuleType:
    """Import a module of the golden folder anew."""
    spec = importlib.util.spec_from_file_location(name, GOLDEN / f"{name}.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"{GOLDEN} lacks {name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def agreement(old: Any, new: Any) -> float:
    """Return the share of pixels with the same label."""
    old, new = (np.asarray(a) for a in (old, new))
    if old.ndim == 3:
        old, new = old.argmax(axis=0), new.argmax(axis=0)
    return float(np.mean(old == new))


if __name__ == "__main__":
    main()
