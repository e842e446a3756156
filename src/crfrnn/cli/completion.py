"""Print a script that completes commands, options and files of crfrnn in a shell.

For example
  crfrnn completion bash > ~/.local/share/bash-completion/completions/crfrnn
  crfrnn completion zsh > "${fpath[1]}/_crfrnn"
Then open a new shell.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crfrnn._extras import install

from . import Parser, make_parser

SHELLS = ("bash", "zsh")


def add_arguments(parser: Parser) -> None:
    """Declare the options of `crfrnn completion`."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn completion`."""
    try:
        import shtab
    except ImportError as error:
        raise ImportError(
            f"completion needs shtab; install it with {install('completion')}"
        ) from error
    parser = make_parser()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                command.load()
                _complete_files(command)
    sys.stdout.write(f"{shtab.complete(parser, shell=args.shell)}\n")
    return 0


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Say which arguments are files or folders."""
    import shtab

    for action in parser._actions:
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's way
