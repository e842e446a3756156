"""`--import`: networks and kernels of the user's own packages."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence


def add_import(parser: argparse.ArgumentParser) -> None:
    """Declare `--import`."""
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        default=[],
        help="import this module first, which defines a network or a kernel of your own; may be "
        "repeated",
    )


def import_modules(names: Sequence[str]) -> None:
    """Import what `--import` names, also from the working folder."""
    if names and "" not in sys.path:
        sys.path.append("")
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise ValueError(
                f"--import {name}: there is no such module, neither installed nor in the working "
                "folder"
            ) from None
