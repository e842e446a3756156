"""How long do people's own calls take on the original and on this library?

Runs the helper families of `tests/golden/pydensecrf_snippets.py` unchanged on both, in turn and in
one process, on the demo photographs, and checks that the results agree.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

import crfrnn
import crfrnn.pydensecrf

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
PHOTOGRAPHS = ("astronaut", "chelsea")
FAMILIES = ("psa", "deeplab", "irn", "stego", "maskcut", "saliency", "manga", "crfasrnn")

Runs = dict[str, Callable[[], Any]]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="pydensecrf_families", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many is kept")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    say(str(crfrnn.info()))
    say(f"{'photograph':<12}{'family':<10}{'original':>10}{'ours':>10}{'ratio':>8}{'equal':>10}")
    for photograph in PHOTOGRAPHS:
        theirs, ours = families(photograph, original=True), families(photograph, original=False)
        for name in options.families:
            before, old = best(theirs[name], options.repeats)
            after, new = best(ours[name], options.repeats)
            say(
                f"{photograph:<12}{name:<10}{before:>9.3f}s{after:>9.3f}s{before / after:>7.1f}x"
                f"{agreement(old, new):>10.3%}"
            )


def say(line: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def families(photograph: str, *, original: bool) -> Runs:
    """The families on one photograph, bound to the one library or the other."""
    with library(original=original):
        scenes, snippets, cases = (
            load(f"pydensecrf_{name}") for name in ("scenes", "snippets", "cases")
        )
    image, probs = scenes.photograph(photograph)
    runs: Runs = cases.families(snippets, image, probs.argmax(axis=0), probs)
    return runs


@contextmanager
def library(*, original: bool) -> Iterator[None]:
    """Let `import pydensecrf` find the original, or this library."""
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


def best(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Seconds of the fastest run, and its result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return min(times), result


def agreement(old: Any, new: Any) -> float:
    """The share of pixels with the same label."""
    old, new = (np.asarray(a) for a in (old, new))
    if old.ndim == 3:
        old, new = old.argmax(axis=0), new.argmax(axis=0)
    return float(np.mean(old == new))


if __name__ == "__main__":
    main()
