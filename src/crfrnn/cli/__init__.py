"""The command line: `crfrnn COMMAND ...`, one module per command.

Each command's module defines `add_arguments(parser)` and its entry point, `run(args) -> int`; its
docstring is the beginning of the command's help. Where it sets `VERBATIM`, the arguments are not
parsed: `args.arguments` lists them. Only the module of the command that was typed is imported, and
it imports heavy packages where it needs them, so that `crfrnn --help` is quick.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, NoReturn

from crfrnn._extras import require_torch

from ._notes import printable, say, to_line, warnings_at_once

COMMANDS = {
    "refine": "sharpen the scores, labels or mask of a photograph, or of a folder",
    "app": "choose the CRF's parameters by looking, in a page with sliders",
    "train": "train a network, the CRF on top of it, or both",
    "tune": "search for the CRF's parameters on the scores of training images",
    "ablate": "measure what each part adds, from the network alone to end-to-end training",
    "segment": "label a photograph, or a folder, with a trained model",
    "evaluate": "compare labels, scores or a model with ground truth, before and after the CRF",
    "run": "run a program that imports pydensecrf, CRF or bilateralfilter on crfrnn",
    "demo": "refine a real network's scores of two photographs, and draw the results",
    "bench": "time the main calls on this machine, next to pydensecrf if it is installed",
    "info": "show which engines are built, and which would run",
    "completion": "print a script that completes the options of crfrnn in a shell",
}

#: What `crfrnn[torch]` brings; a command that lacks one of these fails with the name of the extra.
TORCH_EXTRA = ("torch", "jaxtyping", "safetensors")

#: Exit codes besides 0 (success) and 1 (some files of a folder failed).
USAGE_ERROR = 2
INTERRUPTED = 130


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help that is never wider than 80 columns, as its descriptions are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(shutil.get_terminal_size().columns, 80) - 2)


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors, whose command and epilog are loaded on demand.

    Attributes:
        command: the command that the parser is for; its module is loaded before the first parse.
        make_epilog: returns the end of the help; called when the help is printed.
    """

    command: str | None = None
    make_epilog: Callable[[], str] | None = None

    def load(self) -> ModuleType:
        """Load the module of the command, and declare its arguments."""
        module = importlib.import_module(f"crfrnn.cli.{self.command}")
        self.command = None
        self.description = module.__doc__
        self.set_defaults(run=module.run)
        module.add_arguments(self)
        return module

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line; argparse calls this only on the parser of the typed command."""
        is_command = self.command is not None
        if self.command is not None:
            module = self.load()
            if getattr(module, "VERBATIM", False) and args[:1] not in (["-h"], ["--help"]):
                return argparse.Namespace(run=module.run, arguments=list(args)), []
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown and is_command:  # argparse would leave them to the parser of all commands
            hint = _did_you_mean(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Print what is wrong on one line and exit."""
        text = to_line(f"{self.prog}: error: {message} (see {self.prog} --help)")
        self.exit(USAGE_ERROR, f"{printable(text)}\n")

    def format_help(self) -> str:
        """Return the help."""
        if self.make_epilog is not None:
            self.epilog = self.make_epilog()
        return super().format_help()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit code: 0; 1 if some files of a folder failed; 2 after a usage or input error, which
        is reported in one line on stderr; 130 after Ctrl-C.
    """
    name = "crfrnn"
    try:
        parser = make_parser()
        arguments = sys.argv[1:] if argv is None else list(argv)
        command = next((text for text in arguments if not text.startswith("-")), None)
        if command is not None and command not in COMMANDS:
            hint = _did_you_mean(command, COMMANDS)
            parser.error(
                f"unknown command {command!r}{hint}; expected one of: {', '.join(COMMANDS)}"
            )
        args = parser.parse_args(arguments)
        name = f"crfrnn {args.command}"
        with warnings_at_once(name):
            code = _run(args)
    except SystemExit as stop:  # argparse has printed its message
        return stop.code if isinstance(stop.code, int) else USAGE_ERROR
    except KeyboardInterrupt:
        say(f"{name}: interrupted")
        return INTERRUPTED
    except Exception as error:  # the Python functions give a traceback; this gives none
        say(f"{name}: error: {to_line(error)}")
        return USAGE_ERROR
    return code


def _run(args: argparse.Namespace) -> int:
    try:
        code: int = args.run(args)
    except ModuleNotFoundError as error:
        if error.name in TORCH_EXTRA:
            require_torch(f"crfrnn {args.command}")
        raise
    return code


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""


class _Version(argparse.Action):
    """Print the version, which takes a moment to look up, and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *_rest: Any) -> None:
        from crfrnn._version import installed_version

        sys.stdout.write(f"{parser.prog} {installed_version()}\n")
        parser.exit()


def make_parser() -> Parser:
    """Make the parser of `crfrnn`; the arguments of a command are declared when it is typed."""
    parser = Parser(
        prog="crfrnn",
        description="Fully connected CRFs for segmentation: sharp masks from coarse scores.",
        formatter_class=Formatter,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show program's version number and exit"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, formatter_class=Formatter)
        command.command = name
    return parser
