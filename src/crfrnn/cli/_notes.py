"""Warnings and notes on stderr: each sentence once, as it comes up, and its count at the end."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def say(line: str) -> None:
    """Write a line to stderr, above the progress bar if there is one."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


def tell(text: str | Sequence[str]) -> None:
    """Write the result of a command to stdout: lines, each of which may name files, or JSON."""
    lines = text.split("\n") if isinstance(text, str) else text
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def printable(line: str) -> str:
    r"""Spell out what is not printable in a line, such as control characters.

    A terminal would obey a control character that stands in the name of a file.

    Example:
        >>> from crfrnn.cli._notes import printable
        >>> printable("a\x1b[2Jb.png")
        'a\\x1b[2Jb.png'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in line
    )


def to_line(error: BaseException | str) -> str:
    """Return a message on one line, with the type of an exception that no check raises.

    Example:
        >>> from crfrnn.cli._notes import to_line
        >>> to_line(OSError(28, "No space left on device", "out/a.png"))
        'out/a.png: No space left on device'
    """
    if isinstance(error, OSError) and error.filename and error.strerror:
        error = f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    expected = isinstance(error, (ValueError, TypeError, OSError, ImportError, Warning, str))
    return text if text and expected else f"{type(error).__name__}: {text}"


class Notes:
    """Prints a sentence when it first comes up, and counts it.

    Args:
        command: the beginning of each line, such as "crfrnn refine".
        kind: "note" or "warning".
        things: what is counted, such as "files".
    """

    def __init__(self, command: str, kind: str, things: str) -> None:
        self.command, self.kind, self.things = command, kind, things
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, text: str, sentence: str | None = None) -> None:
        """Print `text` unless its sentence was printed before.

        Args:
            text: what to print.
            sentence: `text` without the part that differs between images; by default `text`.
        """
        key = text if sentence is None else sentence
        with self._lock:
            self._counts[key] += 1
            first = self._counts[key] == 1
        if first:
            say(f"{self.command}: {self.kind}: {text}")

    def finish(self) -> None:
        """Print the count of each sentence that came up more than once."""
        for sentence, number in self._counts.items():
            if number > 1:
                say(f"{self.command}: {self.kind}: {number} {self.things}: {sentence}")
        self._counts.clear()


@contextmanager
def warnings_at_once(command: str) -> Iterator[None]:
    """Print the library's warnings as they come up, and in the first process only.

    Python's -W and PYTHONWARNINGS keep their usual effect.
    """
    notes = Notes(command, "warning", "times")

    def show(message: Warning | str, *_place: Any, **_more: Any) -> None:
        notes.add(to_line(message), getattr(message, "sentence", None))

    def ignore(*_place: Any, **_more: Any) -> None:
        pass

    with warnings.catch_warnings():
        # Appended, so that the user's filters win; "always", so that repetitions are counted.
        warnings.simplefilter("always", UserWarning, append=True)
        warnings.showwarning = show if _is_first_process() else ignore
        try:
            yield
        finally:
            notes.finish()


def _is_first_process() -> bool:
    """Whether this is the only process, or the first that torchrun started."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"
