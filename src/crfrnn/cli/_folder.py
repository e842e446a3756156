"""Working through a folder: pairs in parallel, resumed after Ctrl-C, failures reported."""

from __future__ import annotations

import argparse
import errno
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

from crfrnn.core.threads import limit_threads, limited_threads, threads
from crfrnn.io.files import describe, shorten
from crfrnn.io.locks import claimed
from crfrnn.io.progress import Progress
from crfrnn.io.scores import SCORE_SUFFIXES

from ._file import tell_understood
from ._job import Outputs, Refinement, Result, refine_file, spell
from ._notes import Notes, say, tell
from ._pairs import Matches, Pair, as_arrays, match, with_clamps
from ._resume import Origin, is_done, make_folders, prepare
from ._settings import Settings
from ._survey import Understood, settle, survey
from ._verdict import flipped, summarize, summary_lines

#: More files at a time would need much memory and gain little.
_MOST_WORKERS = 8
_NAMES_SHOWN = 5

#: Errors after which no other file can be written either: a full disk, a quota, a read-only disk.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Task:
    """The work on the pairs of a folder.

    Attributes:
        origin: everything that the results depend on.
        activity: "refining" or "segmenting".
        status: of a finished pair, "refined" or "segmented".
        folders: where the results go.
        work: writes the outputs of one pair.
        understood: what the files hold, if there was something to find out.
        lines: what else to say at the beginning.
    """

    origin: Origin
    activity: str
    status: str
    folders: Outputs
    work: Callable[[Pair], Result]
    understood: Understood | None = None
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """The outcome for one pair.

    Attributes:
        stem: the stem of the pair's files.
        status: "refined" or "segmented", "skipped", or "failed".
        result: what the work returned, if the pair was finished.
        error: why the pair failed.
        outputs: the existing files, if the pair was skipped.
    """

    stem: str
    status: str
    result: Result | None = None
    error: str | None = None
    outputs: Outputs | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        record: dict[str, Any] = {"stem": self.stem, "status": self.status}
        if self.result is not None:
            record |= spell(self.result)
        if self.error is not None:
            record["error"] = self.error
        if self.outputs is not None:
            record["outputs"] = self.outputs.to_json()
        return record


def run_folder(args: argparse.Namespace, folders: Outputs, settings: Settings) -> int:
    """Refine all pairs of two folders; returns the exit code."""
    check_workers(args.workers)
    check_folders(folders)
    matches = with_clamps(match(args.image, args.scores, folders), args.clamp)
    understood = None
    if matches.pairs:
        understood = survey([(pair.image, pair.scores) for pair in matches.pairs], settings)
        settings = settle(settings, understood)
        if understood.kind == "masks":
            matches = as_arrays(matches)
    if args.dry_run and understood is not None:
        _report_unmatched("refine", matches)
        tell_understood(args, understood, settings, pairs=len(matches.pairs))
        return 0

    def work(pair: Pair) -> Result:
        return refine_file(pair.image, pair.scores, pair.outputs, settings, pair.clamp)

    origin = Origin("refine", args.image, args.scores, settings, args.clamp)
    task = Task(origin, "refining", "refined", folders, work, understood)
    return run_pairs(args, task, matches)


def check_folders(folders: Outputs) -> None:
    """Raise if an output of a folder job is named like a file."""
    for name, folder in folders.paths().items():
        option = "--output" if name == "labels" else f"--{name}"
        if folder.suffix.lower() in SCORE_SUFFIXES and not folder.is_dir():
            raise ValueError(
                f"IMAGE is a folder, so {option} names a folder too; got {folder}, which looks "
                f"like a file. Give {option} {folder.with_suffix('')}"
            )
        if folder.is_file():
            raise ValueError(
                f"IMAGE is a folder, so {option} names a folder too; got the file {folder}"
            )


def check_workers(workers: int | None) -> None:
    """Raise if the number of workers is below 1."""
    if workers is not None and workers < 1:
        raise ValueError(f"--workers must be at least 1; got {workers}")


def run_pairs(args: argparse.Namespace, task: Task, matches: Matches) -> int:
    """Do a task for all pairs that are not done yet; returns the exit code."""
    make_folders(task.origin, task.folders)
    with claimed(task.folders.labels, task.origin.command, args.shard):
        return _run_claimed(args, task, matches)


def _run_claimed(args: argparse.Namespace, task: Task, matches: Matches) -> int:
    moved = prepare(task.origin, matches.pairs, task.folders, overwrite=args.overwrite)
    start = time.perf_counter()
    understood = [] if task.understood is None else task.understood.lines()
    for line in (*task.lines, *understood):
        say(f"crfrnn {task.origin.command}: {line}")
    _report_unmatched(task.origin.command, matches)
    matches = replace(
        matches, pairs=args.shard.part(matches.pairs), clashes=args.shard.part(matches.clashes)
    )
    outcomes = [Outcome(stem, "failed", error=why) for stem, why in matches.clashes]
    waiting = []
    for pair in matches.pairs:
        if not args.overwrite and is_done(pair, task.origin, moved=moved):
            outcomes.append(Outcome(pair.stem, "skipped", outputs=pair.outputs))
        else:
            waiting.append(pair)
    for outcome in outcomes:
        _report_failure(task.origin.command, outcome)
    outcomes += _work_on(waiting, task, args.workers)
    outcomes.sort(key=lambda outcome: outcome.stem)
    seconds = time.perf_counter() - start
    failed = [outcome.stem for outcome in outcomes if outcome.status == "failed"]
    if len(failed) > 1:
        names = shorten(failed, _NAMES_SHOWN)
        say(f"crfrnn {task.origin.command}: {len(failed)} files failed: {names}")
    if args.json:
        report = _as_json(task, outcomes, matches, seconds)
        tell(json.dumps(report, indent=2))
    else:
        tell(_as_text(task, outcomes, seconds))
    return 1 if failed else 0


def _work_on(pairs: list[Pair], task: Task, workers: int | None) -> list[Outcome]:
    """Work on pairs in threads; reading, the engine and writing all release the GIL.

    The workers divide the threads among themselves, so together they use no more than a single
    call would. Four files on one thread each finish sooner than one after another on four threads.
    """
    if not pairs:
        return []
    budget = threads()
    workers = min(workers or min(budget, _MOST_WORKERS), len(pairs))
    share = max(1, budget // workers)
    stopped = False

    def work(pair: Pair) -> Outcome | None:
        nonlocal stopped
        try:
            return None if stopped else _attempt(pair, task)
        except OSError:
            stopped = True
            raise

    outcomes: list[Outcome] = []
    notes = Notes(f"crfrnn {task.origin.command}", "note", "files")
    with (
        limited_threads(share),
        Progress(task.activity, len(pairs), "images") as progress,
    ):
        # The limit is that of the calling thread, so every worker sets its share.
        pool = ThreadPoolExecutor(workers, initializer=limit_threads, initargs=(share,))
        try:
            for future in as_completed([pool.submit(work, pair) for pair in pairs]):
                outcome = future.result()
                if outcome is not None:
                    outcomes.append(outcome)
                    for note in outcome.result.notes if outcome.result is not None else ():
                        notes.add(str(note), note.what.sentence)
                    _report_failure(task.origin.command, outcome)
                progress.advance()
        finally:
            # Only the main thread sees Ctrl-C. Workers finish the files they have begun, so that
            # none is half written. `stopped` holds back a pair that a worker takes before
            # `cancel_futures` removes it.
            stopped = True
            pool.shutdown(wait=True, cancel_futures=True)
            notes.finish()
    return outcomes


def _attempt(pair: Pair, task: Task) -> Outcome:
    try:
        return Outcome(pair.stem, task.status, task.work(pair))
    except Exception as error:  # no other failure may stop the other files
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise OSError(
                f"{error.filename or pair.outputs.labels}: {describe(error)}. The job stops here; "
                "free some space and give the same command again to continue"
            ) from error
        return Outcome(pair.stem, "failed", error=describe(error))


def _report_unmatched(command: str, matches: Matches) -> None:
    """Report the files without a partner, which are left out."""
    for stems, side, other in (
        (matches.images, "images", "scores"),
        (matches.scores, "scores", "images"),
    ):
        if stems:
            say(
                f"crfrnn {command}: note: {side} without {other} ({len(stems)}): "
                f"{shorten(stems, _NAMES_SHOWN)}"
            )


def _report_failure(command: str, outcome: Outcome) -> None:
    if outcome.status == "failed":
        say(f"crfrnn {command}: failed: {outcome.stem}: {outcome.error}")


def _as_json(
    task: Task, outcomes: list[Outcome], matches: Matches, seconds: float
) -> dict[str, Any]:
    refined = _refinements(outcomes)
    return {
        **_count(task, outcomes),
        "seconds": round(seconds, 3),
        **({"understood": task.understood.to_json()} if task.understood else {}),
        **({"changed": summarize(refined)} if refined else {}),
        "unmatched": {"images": matches.images, "scores": matches.scores},
        "parameters": task.origin.settings.parameters(),
        "outputs": task.folders.to_json(),
        "files": [outcome.to_json() for outcome in outcomes],
    }


def _as_text(task: Task, outcomes: list[Outcome], seconds: float) -> list[str]:
    counts = _count(task, outcomes)
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    pixels = sum(result.pixels for result in results)
    relabeled = sum(result.relabeled for result in results)
    share = f"{relabeled / pixels:.1%} of pixels relabeled, " if pixels else ""
    refined = _refinements(outcomes)
    engine = ""
    if refined:
        engine = f", {next(iter(refined.values())).engine} engine"
        share += f"{flipped(list(refined.values()))}, "
    head = (
        f"{task.folders.labels}: {counts[task.status]} {task.status}, {counts['skipped']} "
        f"already there, {counts['failed']} failed; {share}{seconds:.1f} s{engine}"
    )
    lines = summary_lines(summarize(refined)) if refined else []
    return [head, *(f"{task.folders.labels}: {line}" for line in lines)]


def _refinements(outcomes: list[Outcome]) -> dict[str, Refinement]:
    """Return the results of `crfrnn refine` by stem."""
    return {
        outcome.stem: outcome.result
        for outcome in outcomes
        if isinstance(outcome.result, Refinement)
    }


def _count(task: Task, outcomes: list[Outcome]) -> dict[str, int]:
    counts = Counter(outcome.status for outcome in outcomes)
    return {status: counts[status] for status in (task.status, "skipped", "failed")}
