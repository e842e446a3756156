"""Refining a folder: several pairs at a time, resuming, and saying what fails when it does."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from crfrnn.io.files import describe
from crfrnn.io.progress import Progress

from ._job import Outputs, Refinement, Result, refine_file, spell
from ._notes import Notes, say
from ._pairs import Matches, Pair, match
from ._resume import Origin, is_done, prepare
from ._settings import Settings

#: More files at a time than this would want much memory and gain little.
_MOST_WORKERS = 8
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Task:
    """What is done to each pair of a folder.

    Attributes:
        origin: what decides the results.
        doing: "refining" or "segmenting".
        done: "refined" or "segmented".
        folders: where the results go.
        work: makes the outputs of one pair.
    """

    origin: Origin
    doing: str
    done: str
    folders: Outputs
    work: Callable[[Pair], Result]


@dataclass(frozen=True)
class Outcome:
    """What became of one pair.

    Attributes:
        stem: of the pair.
        status: "refined" or "segmented", "skipped", or "failed".
        result: of the work, if it was done.
        error: why it failed.
        outputs: the files that were there, if it was skipped.
    """

    stem: str
    status: str
    result: Result | None = None
    error: str | None = None
    outputs: Outputs | None = None

    def spelled(self) -> dict[str, Any]:
        """Return it as JSON spells it."""
        record: dict[str, Any] = {"stem": self.stem, "status": self.status}
        if self.result is not None:
            record |= spell(self.result)
        if self.error is not None:
            record["error"] = self.error
        if self.outputs is not None:
            record["outputs"] = self.outputs.spelled()
        return record


def run_folder(args: argparse.Namespace, folders: Outputs, settings: Settings) -> int:
    """Refine all pairs of two folders; returns the exit code."""
    check_workers(args.workers)
    matches = match(args.image, args.scores, folders)

    def work(pair: Pair) -> Result:
        return refine_file(pair.image, pair.scores, pair.outputs, settings)

    origin = Origin("refine", args.image, args.scores, settings)
    return run_pairs(args, Task(origin, "refining", "refined", folders, work), matches)


def check_workers(workers: int | None) -> None:
    """Refuse a bad number of workers."""
    if workers is not None and workers < 1:
        raise ValueError(f"--workers must be at least 1; got {workers}")


def run_pairs(args: argparse.Namespace, task: Task, matches: Matches) -> int:
    """Do a task to all pairs that are not done yet; returns the exit code."""
    prepare(task.origin, matches.pairs, task.folders, overwrite=args.overwrite)
    start = time.perf_counter()
    _report_unmatched(task.origin.command, matches)
    outcomes = [Outcome(stem, "failed", error=why) for stem, why in matches.clashes]
    waiting = []
    for pair in matches.pairs:
        if not args.overwrite and is_done(pair, task.origin.command):
            outcomes.append(Outcome(pair.stem, "skipped", outputs=pair.outputs))
        else:
            waiting.append(pair)
    for outcome in outcomes:
        _report_failure(task.origin.command, outcome)
    outcomes += _do_all(waiting, task, args.workers)
    outcomes.sort(key=lambda outcome: outcome.stem)
    seconds = time.perf_counter() - start
    failed = [outcome.stem for outcome in outcomes if outcome.status == "failed"]
    if len(failed) > 1:
        say(f"crfrnn {task.origin.command}: failed: {len(failed)} files: {_some(failed)}")
    if args.json:
        report = _as_json(task, outcomes, matches, seconds)
        sys.stdout.write(f"{json.dumps(report, indent=2)}\n")
    else:
        sys.stdout.write(f"{_as_text(task, outcomes, seconds)}\n")
    return 1 if failed else 0


def _do_all(pairs: list[Pair], task: Task, workers: int | None) -> list[Outcome]:
    """Do pairs in threads: reading, the engine and writing all release the GIL.

    Each worker gets its share of torch's threads, so that together they use no more than torch
    alone would have: many single-threaded files finish sooner than one file on many threads.
    """
    if not pairs:
        return []
    budget = torch.get_num_threads()
    workers = min(workers or min(budget, _MOST_WORKERS), len(pairs))
    share = max(1, budget // workers)
    stopped = False

    def work(pair: Pair) -> Outcome | None:
        return None if stopped else _attempt(pair, task)

    outcomes: list[Outcome] = []
    notes = Notes(f"crfrnn {task.origin.command}", "note", "files")
    with (
        _torch_threads(share),
        Progress(task.doing, len(pairs), "images") as progress,
    ):
        pool = ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(share))
        try:
            for future in as_completed([pool.submit(work, pair) for pair in pairs]):
                outcome = future.result()
                if outcome is not None:
                    outcomes.append(outcome)
                    for note in outcome.result.notes if outcome.result is not None else ():
                        notes.add(str(note), str(note.what))
                    _report_failure(task.origin.command, outcome)
                progress.advance()
        finally:  # after Ctrl-C: files in work are finished, so that none is half written
            stopped = True
            pool.shutdown(wait=True, cancel_futures=True)
            notes.finish()
    return outcomes


def _attempt(pair: Pair, task: Task) -> Outcome:
    try:
        return Outcome(pair.stem, task.done, task.work(pair))
    except Exception as error:  # whatever it is, it must not stop the other files
        return Outcome(pair.stem, "failed", error=describe(error))


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _report_unmatched(command: str, matches: Matches) -> None:
    """Say which files have no partner, and so take no part."""
    for stems, side, other in (
        (matches.images, "images", "scores"),
        (matches.scores, "scores", "images"),
    ):
        if stems:
            say(f"crfrnn {command}: note: {len(stems)} {side} without {other}: {_some(stems)}")


def _report_failure(command: str, outcome: Outcome) -> None:
    if outcome.status == "failed":
        say(f"crfrnn {command}: failed: {outcome.stem}: {outcome.error}")


def _as_json(
    task: Task, outcomes: list[Outcome], matches: Matches, seconds: float
) -> dict[str, Any]:
    return {
        **_count(task, outcomes),
        "seconds": round(seconds, 3),
        "unmatched": {"images": matches.images, "scores": matches.scores},
        "parameters": task.origin.settings.parameters(),
        "outputs": task.folders.spelled(),
        "files": [outcome.spelled() for outcome in outcomes],
    }


def _as_text(task: Task, outcomes: list[Outcome], seconds: float) -> str:
    number = _count(task, outcomes)
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    pixels = sum(result.pixels for result in results)
    relabeled = sum(result.relabeled for result in results)
    share = f"{relabeled / pixels:.1%} of pixels relabeled, " if pixels else ""
    engines = [result.engine for result in results if isinstance(result, Refinement)]
    engine = f", {engines[0]} engine" if engines else ""
    return (
        f"{task.folders.labels}: {number[task.done]} {task.done}, {number['skipped']} already "
        f"there, {number['failed']} failed; {share}{seconds:.1f} s{engine}"
    )


def _count(task: Task, outcomes: list[Outcome]) -> dict[str, int]:
    counts = Counter(outcome.status for outcome in outcomes)
    return {status: counts[status] for status in (task.done, "skipped", "failed")}


def _some(stems: list[str]) -> str:
    rest = len(stems) - _NAMES_SHOWN
    return ", ".join(stems[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
