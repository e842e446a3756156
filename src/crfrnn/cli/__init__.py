"""The command line: `crfrnn COMMAND ...`, one module a command.

A command's module has `add_arguments(parser)` and `run(args) -> int`. Both are called for the given
command alone and import what is heavy themselves, so that `crfrnn --help` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from crfrnn._version import installed_version

from ._notes import one_line, say, warnings_at_once

COMMANDS = {
    "refine": "sharpen the scores, labels or mask of a photograph, or of a folder of them",
    "train": "train a network, the CRF on top of it, or both",
    "tune": "search the parameters of the dense CRF on scores of training images",
    "ablate": "measure what each part gives: network, CRF attached, tuned, trained, end to end",
    "segment": "label a photograph, or a folder of them, with a trained model",
    "evaluate": "score labels, scores or a model against masks, before and after the CRF",
    "demo": "refine two photographs with a real network's scores, and draw before and after",
    "bench": "time the main calls on this machine, and beside pydensecrf where that is installed",
    "info": "tell which engines are built, and which would run",
}

#: Exit codes: all well (0), some files of a folder failed (1), and these.
USAGE_ERROR = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors take one line, and whose parts are built when needed.

    Attributes:
        add_arguments: declares the options, before the first line is parsed.
        make_epilog: writes the end of the help, when it is read.
    """

    add_arguments: Callable[[Parser], None] | None = None
    make_epilog: Callable[[], str] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a line; argparse calls this of the parser of the given command alone."""
        if self.add_arguments is not None:
            declare, self.add_arguments = self.add_arguments, None
            declare(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong on one line and exit."""
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def format_help(self) -> str:
        """Return the help."""
        if self.make_epilog is not None:
            self.epilog = self.make_epilog()
        return super().format_help()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit code: 0; 1 if some of many files failed; 2 after a usage or input error, which is
        told in one line on stderr; 130 after Ctrl-C.
    """
    name = "crfrnn"
    try:
        args = _parser().parse_args(argv)
        name = f"crfrnn {args.command}"
        with warnings_at_once(name):
            code: int = args.run(args)
    except SystemExit as stop:  # argparse has said it all
        return stop.code if isinstance(stop.code, int) else USAGE_ERROR
    except KeyboardInterrupt:
        say(f"{name}: interrupted")
        return INTERRUPTED
    except Exception as error:  # never a traceback: whoever wants one calls the Python functions
        say(f"{name}: error: {one_line(error)}")
        return USAGE_ERROR
    return code


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
