"""Refining a folder: several pairs at a time, resuming, and telling failures at the end."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from crfrnn.cli import say
from crfrnn.cli._job import Outputs, refine_file
from crfrnn.cli._pairs import Pair, match
from crfrnn.cli._resume import is_done, prepare
from crfrnn.cli._settings import Settings
from crfrnn.files import describe

#: More files at a time than this would want much memory and gain little.
_MOST_WORKERS = 8
_NAMES_SHOWN = 5

Record = dict[str, Any]


def run_folder(args: argparse.Namespace, folders: Outputs, settings: Settings) -> int:
    """Refine all pairs of two folders; returns the exit code."""
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers must be at least 1; got {args.workers}")
    pairs, unmatched = match(args.image, args.scores, folders)
    prepare(args.image, args.scores, pairs, folders, settings, overwrite=args.overwrite)
    start = time.perf_counter()
    records = [{"stem": stem, "status": "failed", "error": why} for stem, why in unmatched.clashes]
    waiting = []
    for pair in pairs:
        if not args.overwrite and is_done(pair):
            records.append(_skipped(pair))
        else:
            waiting.append(pair)
    records += _refine_all(waiting, settings, args.workers)
    report = {
        **Counter({"refined": 0, "skipped": 0, "failed": 0}),
        **Counter(record["status"] for record in records),
        "seconds": round(time.perf_counter() - start, 3),
        "unmatched": {"images": unmatched.images, "scores": unmatched.scores},
        "parameters": settings.parameters(),
        "outputs": folders.spelled(),
        "files": sorted(records, key=lambda record: record["stem"]),
    }
    _tell(report, as_json=args.json)
    return 1 if report["failed"] else 0


def _skipped(pair: Pair) -> Record:
    return {"stem": pair.stem, "status": "skipped", "outputs": pair.outputs.spelled()}


def _refine_all(pairs: list[Pair], settings: Settings, workers: int | None) -> list[Record]:
    """Refine pairs in threads: reading, the engine and writing all release the GIL.

    Each worker gets its share of torch's threads, so that together they use no more than torch
    alone would have: many single-threaded files finish sooner than one file on many threads.
    """
    if not pairs:
        return []
    budget = torch.get_num_threads()
    workers = min(workers or min(budget, _MOST_WORKERS), len(pairs))
    share = max(1, budget // workers)
    stopped = False

    def work(pair: Pair) -> Record:
        return {} if stopped else _attempt(pair, settings)

    records = []
    with _torch_threads(share), _progress(len(pairs)) as advance:
        pool = ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(share))
        try:
            for future in as_completed([pool.submit(work, pair) for pair in pairs]):
                records.append(future.result())
                advance()
        finally:  # after Ctrl-C: files in work are finished, so that none is half written
            stopped = True
            pool.shutdown(wait=True, cancel_futures=True)
    return records


def _attempt(pair: Pair, settings: Settings) -> Record:
    try:
        record = refine_file(pair.image, pair.scores, pair.outputs, settings)
    except Exception as error:  # whatever it is, it must not stop the other files
        return {"stem": pair.stem, "status": "failed", "error": describe(error)}
    return {"stem": pair.stem, "status": "refined", **record}


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar if stderr is a terminal; gives the function that advances it."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("refining", total=total)
        yield lambda: bar.advance(task)


def _tell(report: dict[str, Any], *, as_json: bool) -> None:
    """Print the report, and on stderr what deserves a look."""
    for side, other in (("images", "scores"), ("scores", "images")):
        if stems := report["unmatched"][side]:
            say(f"crfrnn refine: note: {len(stems)} {side} without {other}: {_some(stems)}")
    for note, number in Counter(_notes(report["files"])).items():
        say(f"crfrnn refine: note: {number} files: {note}")
    for record in report["files"]:
        if record["status"] == "failed":
            say(f"crfrnn refine: failed: {record['stem']}: {record['error']}")
    if as_json:
        sys.stdout.write(f"{json.dumps(report, indent=2)}\n")
        return
    done = [record for record in report["files"] if record["status"] == "refined"]
    pixels = sum(record["pixels"] for record in done)
    relabeled = sum(record["relabeled"] for record in done)
    share = f"{relabeled / pixels:.1%} of pixels relabeled, " if pixels else ""
    engine = f", {done[0]['engine']} engine" if done else ""
    sys.stdout.write(
        f"{report['outputs']['labels']}: {report['refined']} refined, {report['skipped']} already "
        f"there, {report['failed']} failed; {share}{report['seconds']:.1f} s{engine}\n"
    )


def _notes(records: Iterable[Record]) -> Iterator[str]:
    """Yield the notes of all files without their names, so that equal ones can be counted."""
    for record in records:
        for note in record.get("notes", ()):
            yield note.removeprefix(f"{Path(record['scores']).name} ")


def _some(stems: list[str]) -> str:
    rest = len(stems) - _NAMES_SHOWN
    return ", ".join(stems[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
