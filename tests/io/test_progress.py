"""The progress of long jobs: exact lines under a clock of the test, and a bar on a terminal."""

import io
import os
import pty
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from crfrnn.io import progress
from crfrnn.io.progress import Lines, Progress, duration


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(clock: Clock) -> tuple[Lines, list[str]]:
    written: list[str] = []
    return Lines("training", 600, "steps", clock=clock, write=written.append), written


def test_lines_come_at_the_start_then_every_half_minute_and_at_the_end(
    clock: Clock, lines: tuple[Lines, list[str]]
) -> None:
    job, written = lines
    for second in range(1, 76):
        clock.now += 1
        job.update(8 * second, f"loss {1 / second:.4f}")
    clock.now += 0.4
    job.close()
    assert written == [
        "training: 24 of 600 steps, loss 0.3333, 8.0 steps/s, 1 min 12 s left\n",
        "training: 264 of 600 steps, loss 0.0303, 8.0 steps/s, 42 s left\n",
        "training: 504 of 600 steps, loss 0.0159, 8.0 steps/s, 12 s left\n",
        "training: 600 of 600 steps, loss 0.0133, in 1 min 15 s\n",
    ]


def test_a_step_that_takes_long_is_seen_to_be_alive(
    clock: Clock, lines: tuple[Lines, list[str]]
) -> None:
    job, written = lines
    for _ in range(40):
        clock.now += 1
        job.beat()
    clock.now += 20
    job.update(1)
    clock.now += 20
    job.beat()
    assert written == [
        "training: 0 of 600 steps, 3 s so far\n",
        "training: 0 of 600 steps, 33 s so far\n",
        "training: 1 of 600 steps, 80.0 s per step, 13 h 18 min left\n",
    ]


def test_a_job_that_goes_on_counts_its_speed_from_there(clock: Clock) -> None:
    written: list[str] = []
    job = Lines("training", 600, "steps", done=500, clock=clock, write=written.append)
    clock.now += 10
    job.update(520)
    assert written == ["training: 520 of 600 steps, 2.0 steps/s, 40 s left\n"]


def test_a_job_that_fails_says_where(clock: Clock, lines: tuple[Lines, list[str]]) -> None:
    job, written = lines
    clock.now += 5
    job.update(7)
    job.close(failed=True)
    assert written[1:] == ["training: stopped at 7 of 600 steps after 5 s\n"]


def test_a_short_job_says_nothing(clock: Clock, lines: tuple[Lines, list[str]]) -> None:
    job, written = lines
    clock.now += progress.FIRST - 0.1
    job.update(600)
    job.close()
    assert written == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3600, "1 h 00 min"),
     (7500, "2 h 05 min"), (273600, "3 d 04 h")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines come with the first step."""
    monkeypatch.setattr(progress, "FIRST", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_log_file_has_plain_lines_though_colors_are_forced(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress("refining", 2, "images") as shown:
        shown.advance()
        shown.advance()
    out, err = capsys.readouterr()
    assert out == ""
    first, last = err.splitlines()
    assert first.startswith("refining: 1 of 2 images, ")
    assert last == "refining: 2 of 2 images, in 0 s"
    assert err.replace("\n", "").isprintable()


@pytest.mark.usefixtures("at_once")
def test_quiet_means_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("refining", 2, "images", quiet=True) as shown:
        shown.advance()
    assert capsys.readouterr() == ("", "")


def test_the_clock_is_looked_at_between_steps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.02)
    monkeypatch.setattr(progress, "_BEAT", 0.01)
    with Progress("refining", 2, "images") as shown:
        assert shown._timer is not None
        while not shown._lines.lines:  # type: ignore[union-attr]
            shown._timer.join(0.01)  # no step is ever done
    assert not shown._timer.is_alive()
    assert capsys.readouterr().err.startswith("refining: 0 of 2 images, 0 s so far\n")


@pytest.mark.usefixtures("at_once")
def test_a_log_that_nobody_reads_does_not_stop_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Broken())
    with Progress("refining", 2, "images") as shown:
        shown.advance()
    assert shown.done == 1


def on_a_terminal(script: str, folder: Path, **environment: str) -> str:
    """What a script writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, "TERM": "xterm", "COLUMNS": "80", **environment}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    process = subprocess.Popen(command, stderr=theirs, stdout=theirs, cwd=folder, env=variables)
    os.close(theirs)
    chunks = []
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(ours)
    assert process.wait() == 0
    return b"".join(chunks).decode()


BAR_AND_WARNING = """
    import warnings
    from crfrnn.cli._notes import warnings_at_once
    from crfrnn.io.progress import Progress

    with warnings_at_once("crfrnn refine"), Progress("refining", 2, "images") as progress:
        for index in range(2):
            warnings.warn("the [bold]image[/bold] spans little " + "of the range " * 9 + "END")
            progress.advance()
"""


def test_a_terminal_has_a_bar_and_warnings_stand_above_it_whole(tmp_path: Path) -> None:
    shown = on_a_terminal(BAR_AND_WARNING, tmp_path)
    assert "\x1b[" in shown
    assert "2/2" in shown
    text = " ".join(shown.split())
    # The line is broken at the width of the terminal, and complete.
    sentence = "the [bold]image[/bold] spans little " + "of the range " * 9 + "END"
    assert f"crfrnn refine: warning: {sentence}" in text
    assert f"crfrnn refine: warning: 2 times: {sentence}" in text
    assert text.count("END") == 2


def test_a_terminal_without_movement_has_lines(tmp_path: Path) -> None:
    shown = on_a_terminal(BAR_AND_WARNING, tmp_path, TERM="dumb")
    assert "\x1b" not in shown
    assert shown.count("END") == 2
