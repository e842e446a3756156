"""The progress of a long job on stderr: a bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

#: Seconds before the first line, so that a short job prints none, and between later lines.
FIRST, EVERY = 3.0, 30.0

#: Seconds between looks at the clock while a step takes long.
_BEAT = 1.0


class Progress:
    """A bar, or lines, for as long as the `with` block of the job lasts.

    Text that is written to `sys.stderr` in the meantime appears above the bar.

    Args:
        what: the work, such as "training".
        total: number of units in all.
        unit: what is counted, in the plural, such as "steps".
        done: number of units that were done before.
        quiet: show nothing.

    Example:
        >>> from crfrnn.io.progress import Progress
        >>> with Progress("refining", 2, "images") as progress:
        ...     for _ in range(2):
        ...         progress.advance()
    """

    def __init__(
        self, what: str, total: int, unit: str, *, done: int = 0, quiet: bool = False
    ) -> None:
        self.done = done
        self._lock = threading.Lock()
        self._bar = _bar() if not quiet and on_terminal() else None
        self._lines = None
        if self._bar is not None:
            self._task = self._bar.add_task(what, total=total, completed=done, note="")
        elif not quiet:
            self._lines = Lines(what, total, unit, done=done)
        self._stop = threading.Event()
        self._timer: threading.Thread | None = None

    def __enter__(self) -> Progress:
        """Show the bar, or start to watch the clock."""
        if self._bar is not None:
            self._bar.start()
        if self._lines is not None:
            # A step may take an hour; the lines must not wait for it.
            self._timer = threading.Thread(target=self._watch, daemon=True)
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar, or write the last line."""
        if self._bar is not None:
            self._bar.stop()
        if self._timer is not None and self._lines is not None:
            self._stop.set()
            self._timer.join()
            self._lines.close(failed=kind is not None)

    def advance(self) -> None:
        """Count one more unit; any thread may call this."""
        with self._lock:
            self.update(self.done + 1)

    def update(self, done: int, note: str | None = None) -> None:
        """Set the number done and the note next to it; None keeps the note."""
        self.done = done
        if self._bar is not None and note is None:
            self._bar.update(self._task, completed=done)
        elif self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif self._lines is not None:
            self._lines.update(done, note)

    def _watch(self) -> None:
        assert self._lines is not None
        while not self._stop.wait(_BEAT):
            self._lines.beat()


class Lines:
    """Plain lines at intervals: how much is done, how fast, and how long the rest will take.

    Args:
        what: as in `Progress`.
        total: as in `Progress`.
        unit: as in `Progress`.
        done: as in `Progress`.
        clock: returns the time in seconds.
        write: takes a line with its line break; writes to stderr by default.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], object] | None = None,
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.clock = clock
        self.write = _to_stderr if write is None else write
        self.begun, self.before = clock(), done
        self.done, self.note = done, ""
        self.due = self.begun + FIRST
        self.lines = 0
        self._lock = threading.Lock()

    def update(self, done: int, note: str | None = None) -> None:
        """Set the number done and the note next to it; None keeps the note."""
        with self._lock:
            self.done = done
            self.note = self.note if note is None else note
            self._write_if_due()

    def beat(self) -> None:
        """Write a line if one is due."""
        with self._lock:
            self._write_if_due()

    def close(self, *, failed: bool = False) -> None:
        """Write the last line, if there were lines before."""
        seconds = duration(self.clock() - self.begun)
        if self.lines and failed:
            self.write(
                f"{self.what}: stopped at {self.done} of {self.total} {self.unit} after {seconds}\n"
            )
        elif self.lines:
            self.write(f"{self._text()}, in {seconds}\n")

    def _write_if_due(self) -> None:
        now = self.clock()
        if now < self.due:
            return
        self.due = now + EVERY
        self.lines += 1
        elapsed, fresh = now - self.begun, self.done - self.before
        if fresh <= 0:
            self.write(f"{self._text()}, {duration(elapsed)} so far\n")
            return
        left = (self.total - self.done) * elapsed / fresh
        self.write(f"{self._text()}, {self._rate(fresh / elapsed)}, {duration(left)} left\n")

    def _text(self) -> str:
        note = f", {self.note}" if self.note else ""
        return f"{self.what}: {self.done} of {self.total} {self.unit}{note}"

    def _rate(self, rate: float) -> str:
        if rate < 1:
            return f"{1 / rate:.1f} s per {self.unit.removesuffix('s')}"
        return f"{rate:.1f} {self.unit}/s" if rate < 100 else f"{rate:.0f} {self.unit}/s"


def duration(seconds: float) -> str:
    """Spell a time in the two units that matter: "45 s", "3 min 20 s", "2 h 05 min", "3 d 04 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"


def on_terminal() -> bool:
    """Whether stderr is a terminal that can show a bar; FORCE_COLOR does not make it one."""
    if not sys.stderr.isatty():
        return False
    from rich.console import Console

    console = Console(stderr=True)
    return console.is_terminal and not console.is_dumb_terminal


def _bar() -> Any:
    """The bar, of rich."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        *Bar.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


def _to_stderr(line: str) -> None:
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except (OSError, ValueError):  # stderr is closed; the job goes on
        pass
