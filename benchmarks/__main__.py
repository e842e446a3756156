"""Run one benchmark by name, or all that this machine can run."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import torch

_SHARED = ("timing", "memory", "photographs", "results")
NAMES = sorted(
    path.stem
    for path in Path(__file__).parent.glob("[a-z]*")
    if (path.suffix == ".py" or path.is_dir()) and path.stem not in _SHARED
)

#: Those that need photographs with scores, which the command line must name.
_ON_DATA = ("gate", "refiners")


def main() -> None:
    """Run the benchmarks that the command line names; without a name, run all."""
    names, options = [], sys.argv[1:]
    while options and not options[0].startswith("-"):
        names.append(options.pop(0))
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise SystemExit(f"unknown benchmark {unknown[0]}; expected one of: {', '.join(NAMES)}")
    runnable = (name for name in NAMES if name != "gpu" or torch.cuda.is_available())
    for name in names or [name for name in runnable if name not in _ON_DATA]:
        import_module(f"benchmarks.{name}").main(options)


if __name__ == "__main__":
    main()
