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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crfrnn.io.files import describe

from . import say
from ._job import Outputs, refine_file
from ._pairs import Pair, Unmatched, match
from ._progress import progress
from ._resume import is_done, prepare
from ._settings import Settings

#: More files at a time than this would want much memory and gain little.
_MOST_WORKERS = 8
_NAMES_SHOWN = 5

Record = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What is done to each pair of a folder.

    Attributes:
        command: "refine" or "segment".
        done: "refined" or "segmented".
        images: the folder of photographs.
        source: the folder of scores, or the model.
        work: makes the outputs of one pair.
    """

    command: str
    done: str
    images: Path
    source: Path
    work: Callable[[Pair], Record]


def run_folder(args: argparse.Namespace, folders: Outputs, settings: Settings) -> int:
    """Refine all pairs of two folders; returns the exit code."""
    check_workers(args.workers)
    pairs, unmatched = match(args.image, args.scores, folders)

    def work(pair: Pair) -> Record:
        return refine_file(pair.image, pair.scores, pair.outputs, settings)

    task = Task("refine", "refined", args.image, args.scores, work)
    return run_pairs(args, task, pairs, unmatched, folders, settings)


def check_workers(workers: int | None) -> None:
    """Refuse a bad number of workers."""
    if workers is not None and workers < 1:
        raise ValueError(f"--workers must be at least 1; got {workers}")


def run_pairs(
    args: argparse.Namespace,
    task: Task,
    pairs: list[Pair],
    unmatched: Unmatched,
    folders: Outputs,
    settings: Settings,
) -> int:
    """Do a task to all pairs that are not done yet; returns the exit code."""
    prepare(
        task.images,
        task.source,
        pairs,
        folders,
        settings,
        command=task.command,
        overwrite=args.overwrite,
    )
    start = time.perf_counter()
    records = [{"stem": stem, "status": "failed", "error": why} for stem, why in unmatched.clashes]
    waiting = []
    for pair in pairs:
        if not args.overwrite and is_done(pair, task.command):
            records.append(_skipped(pair))
        else:
            waiting.append(pair)
    records += _do_all(waiting, task, args.workers)
    report = {
        **Counter({task.done: 0, "skipped": 0, "failed": 0}),
        **Counter(record["status"] for record in records),
        "seconds": round(time.perf_counter() - start, 3),
        "unmatched": {"images": unmatched.images, "scores": unmatched.scores},
        "parameters": settings.parameters(),
        "outputs": folders.spelled(),
        "files": sorted(records, key=lambda record: record["stem"]),
    }
    _tell(report, task, as_json=args.json)
    return 1 if report["failed"] else 0


def _skipped(pair: Pair) -> Record:
    return {"stem": pair.stem, "status": "skipped", "outputs": pair.outputs.spelled()}


def _do_all(pairs: list[Pair], task: Task, workers: int | None) -> list[Record]:
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

    def work(pair: Pair) -> Record:
        return {} if stopped else _attempt(pair, task)

    records = []
    with (
        _torch_threads(share),
        progress(f"{task.command.removesuffix('e')}ing", len(pairs)) as advance,
    ):
        pool = ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(share))
        try:
            for future in as_completed([pool.submit(work, pair) for pair in pairs]):
                records.append(future.result())
                advance()
        finally:  # after Ctrl-C: files in work are finished, so that none is half written
            stopped = True
            pool.shutdown(wait=True, cancel_futures=True)
    return records


def _attempt(pair: Pair, task: Task) -> Record:
    try:
        record = task.work(pair)
    except Exception as error:  # whatever it is, it must not stop the other files
        return {"stem": pair.stem, "status": "failed", "error": describe(error)}
    return {"stem": pair.stem, "status": task.done, **record}


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tell(report: dict[str, Any], task: Task, *, as_json: bool) -> None:
    """Print the report, and on stderr what deserves a look."""
    for side, other in (("images", "scores"), ("scores", "images")):
        if stems := report["unmatched"][side]:
            say(f"crfrnn {task.command}: note: {len(stems)} {side} without {other}: {_some(stems)}")
    for note, number in Counter(_notes(report["files"])).items():
        say(f"crfrnn {task.command}: note: {number} files: {note}")
    for record in report["files"]:
        if record["status"] == "failed":
            say(f"crfrnn {task.command}: failed: {record['stem']}: {record['error']}")
    if as_json:
        sys.stdout.write(f"{json.dumps(report, indent=2)}\n")
        return
    done = [record for record in report["files"] if record["status"] == task.done]
    pixels = sum(record["pixels"] for record in done)
    relabeled = sum(record["relabeled"] for record in done)
    share = f"{relabeled / pixels:.1%} of pixels relabeled, " if pixels else ""
    engine = f", {done[0]['engine']} engine" if done and "engine" in done[0] else ""
    parts = (
        f"{report[task.done]} {task.done}",
        f"{report['skipped']} already there",
        f"{report['failed']} failed; {share}{report['seconds']:.1f} s{engine}",
    )
    sys.stdout.write(f"{report['outputs']['labels']}: {', '.join(parts)}\n")


def _notes(records: Iterable[Record]) -> Iterator[str]:
    """Yield the notes of all files without their names, so that equal ones can be counted."""
    for record in records:
        for note in record.get("notes", ()):
            yield note.removeprefix(f"{Path(record['scores']).name} ")


def _some(stems: list[str]) -> str:
    rest = len(stems) - _NAMES_SHOWN
    return ", ".join(stems[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
