"""Run a program for pydensecrf, CRF or bilateralfilter, unchanged, on crfrnn.

crfrnn run script.py ARGUMENTS
crfrnn run -m module ARGUMENTS

All that follows `run` is passed on to Python as it stands. The program and all
processes that it starts find crfrnn under the name pydensecrf, even if the real
one is installed; and under the names CRF (DenseGaussianCRF, FrankWolfeParams)
and bilateralfilter (of DenseEnergyLoss) unless something else has those.
Arguments, exit code and tracebacks are the program's own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

#: The arguments are another program's; see `crfrnn.cli`.
VERBATIM = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `crfrnn run` takes."""
    parser.usage = "%(prog)s [-h] (SCRIPT | -m MODULE) ..."


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn run`."""
    from crfrnn import bilateralfilter, frankwolfe
    from crfrnn.pydensecrf import install

    if not args.arguments:
        raise ValueError("expected a program; got nothing. Give SCRIPT or -m MODULE.")
    _refuse_shadow(args.arguments[0])
    install(override=True)
    # A module of the program's own may have one of these names, and a compiled original the other.
    for face in (frankwolfe, bilateralfilter):
        if not face.taken():
            face.install()
    command = [sys.executable, *args.arguments]
    if sys.platform != "win32":  # there, exec returns to the shell at once
        os.execv(command[0], command)
    return subprocess.call(command)


def _refuse_shadow(first: str) -> None:
    """Raise if a package pydensecrf lies where Python looks before anywhere else."""
    if first == "-m":
        folder = Path.cwd()
    elif Path(first).is_file():
        folder = Path(first).resolve().parent
    else:
        return
    spec = PathFinder.find_spec("pydensecrf", [str(folder)])
    if spec is not None and spec.origin is not None:
        raise ValueError(
            f"the program would import {spec.origin}, which lies beside it, before crfrnn's "
            f"pydensecrf. Rename or move that folder."
        )
