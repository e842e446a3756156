"""The command line: `crfrnn COMMAND ...`, one module per command.

Each command's module defines `add_arguments(parser)` and its entry point, `run(args) -> int`. Both
are called only for the command that was typed, and import heavy packages themselves, so that
`crfrnn --help` stays quick.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from crfrnn._version import installed_version

from ._notes import say, to_line, warnings_at_once

COMMANDS = {
    "refine": "sharpen the scores, labels or mask of a photograph, or of a folder",
    "train": "train a network, the CRF on top of it, or both",
    "tune": "search for the CRF's parameters on the scores of training images",
    "ablate": "measure what each part adds, from the network alone to end-to-end training",
    "segment": "label a photograph, or a folder, with a trained model",
    "evaluate": "compare labels, scores or a model with ground truth, before and after the CRF",
    "demo": "refine a real network's scores of two photographs, and draw the results",
    "bench": "time the main calls on this machine, next to pydensecrf if it is installed",
    "info": "show which engines are built, and which would run",
}

#: Exit codes besides 0 (success) and 1 (some files of a folder failed).
USAGE_ERROR = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors, whose options and epilog are built on demand.

    Attributes:
        add_arguments: declares the options; called before the first parse.
        make_epilog: returns the end of the help; called when the help is printed.
    """

    add_arguments: Callable[[Parser], None] | None = None
    make_epilog: Callable[[], str] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line; argparse calls this only on the parser of the typed command."""
        is_command = self.add_arguments is not None
        if self.add_arguments is not None:
            declare, self.add_arguments = self.add_arguments, None
            declare(self)
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown and is_command:  # argparse would leave them to the parser of all commands
            hint = _did_you_mean(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Print what is wrong on one line and exit."""
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

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
        parser = _parser()
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
            code: int = args.run(args)
    except SystemExit as stop:  # argparse has printed its message
        return stop.code if isinstance(stop.code, int) else USAGE_ERROR
    except KeyboardInterrupt:
        say(f"{name}: interrupted")
        return INTERRUPTED
    except Exception as error:  # the Python functions give a traceback; this gives none
        say(f"{name}: error: {to_line(error)}")
        return USAGE_ERROR
    return code


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _parser() -> Parser:
    parser = Parser(
        prog="crfrnn",
        description="Fully connected CRFs for segmentation: sharp masks from coarse scores.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {installed_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        module = importlib.import_module(f"crfrnn.cli.{name}")
        command = commands.add_parser(
            name,
            help=text,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments = module.add_arguments
        command.set_defaults(run=module.run)
    return parser
