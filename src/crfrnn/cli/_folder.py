"""Working through a folder: pairs in parallel, resumed after Ctrl-C, failures reported."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crfrnn.io.files import shorten
from crfrnn.io.locks import claimed
from crfrnn.io.progress import Progress
from crfrnn.io.scores import SCORE_SUFFIXES
from crfrnn.jobs.files import Refinement, Result, refine_file
from crfrnn.jobs.manifest import check_outputs, read_manifest
from crfrnn.jobs.pairs import Matches, Outputs, Pair, as_arrays, match, with_clamps
from crfrnn.jobs.resume import Origin, make_folders, prepare, record_of
from crfrnn.jobs.settings import Settings
from crfrnn.jobs.survey import Understood, settle, survey
from crfrnn.jobs.work import Outcome, attempt, split_done, work_in_threads
from crfrnn.offline.device import require_suited

from ._file import tell_understood
from ._notes import Notes, say, tell
from ._paths import cluster_of
from ._verdict import flipped, summarize, summary_lines

_NAMES_SHOWN = 5
_OF_FILES = SCORE_SUFFIXES | {".nii", ".gz"}


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
        elsewhere: works on pairs in place of the threads of this process.
    """

    origin: Origin
    activity: str
    status: str
    folders: Outputs
    work: Callable[[Pair], Result]
    understood: Understood | None = None
    lines: Sequence[str] = ()
    elsewhere: Callable[[Sequence[Pair]], Generator[Outcome, None, None]] | None = None


def run_folder(args: argparse.Namespace, folders: Outputs, settings: Settings) -> int:
    """Refine all pairs of two folders, or of a manifest; returns the exit code."""
    check_workers(args.workers)
    check_folders(folders)
    cluster = cluster_of(args) if args.on == "ray" else None
    if cluster is not None:
        require_suited(cluster.device, settings.refining.engine)
        settings = replace(settings, device=cluster.device)
    manifest = None
    if args.manifest is not None:
        manifest = read_manifest(args.manifest, folders, args.storage_options or "")
        matches = Matches(manifest.pairs)
    else:
        matches = with_clamps(match(args.image, args.scores, folders), args.clamp)
    understood = None
    if matches.pairs:
        files = [(pair.image, pair.scores) for pair in matches.pairs]
        understood = survey(files, settings, here=cluster is None)
        settings = settle(settings, understood)
        masks = understood.kind == "masks"
        if manifest is not None:
            check_outputs(manifest, masks=masks)
        if masks:
            matches = as_arrays(matches)
    if args.dry_run and understood is not None:
        report_unmatched("refine", matches)
        tell_understood(args, understood, settings, pairs=len(matches.pairs))
        return 0

    def work(pair: Pair) -> Result:
        return refine_file(pair.image, pair.scores, pair.outputs, settings, pair.clamp)

    if manifest is not None:
        origin = Origin("refine", args.manifest, args.manifest, settings, by_row=True)
    else:
        origin = Origin("refine", args.image, args.scores, settings, args.clamp)
    lines = []
    if manifest is not None and manifest.unused:
        lines.append(f"note: columns that are not used: {shorten(manifest.unused, _NAMES_SHOWN)}")
    elsewhere = None
    if cluster is not None:
        from crfrnn.distributed.pool import refine_pairs

        def elsewhere(pairs: Sequence[Pair]) -> Generator[Outcome, None, None]:
            with redirect_stdout(sys.stderr):  # Ray's own messages are no part of --json
                yield from refine_pairs(pairs, origin, folders, cluster)

    task = Task(origin, "refining", "refined", folders, work, understood, lines, elsewhere)
    return run_pairs(args, task, matches)


def check_folders(folders: Outputs) -> None:
    """Raise if an output of a folder job is named like a file."""
    for name, folder in folders.paths().items():
        option = "--output" if name == "labels" else f"--{name}"
        if folder.suffix.lower() in _OF_FILES and not (
            isinstance(folder, Path) and folder.is_dir()
        ):
            raise ValueError(
                f"IMAGE is a folder, so {option} names a folder too; got {folder}, which looks "
                f"like a file. Give {option} {folder.with_suffix('')}"
            )
        if isinstance(folder, Path) and folder.is_file():
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
    labels = task.folders.labels
    # A store has no locks. Two jobs in one bucket do some work twice, and lose none.
    held = (
        claimed(labels, task.origin.command, args.shard, task.origin.settings_hash())
        if isinstance(labels, Path)
        else nullcontext()
    )
    with held:
        return _run_claimed(args, task, matches)


def _run_claimed(args: argparse.Namespace, task: Task, matches: Matches) -> int:
    moved, looks = prepare(task.origin, matches.pairs, task.folders, overwrite=args.overwrite)
    start = time.perf_counter()
    understood = [] if task.understood is None else task.understood.lines()
    for line in (*task.lines, *understood):
        say(f"crfrnn {task.origin.command}: {line}")
    report_unmatched(task.origin.command, matches)
    matches = replace(
        matches, pairs=args.shard.part(matches.pairs), clashes=args.shard.part(matches.clashes)
    )
    outcomes = [Outcome(stem, "failed", error=why) for stem, why in matches.clashes]
    waiting = matches.pairs
    if not args.overwrite:
        record = record_of(task.origin, task.folders)
        done, waiting = split_done(waiting, task.origin, record, moved=moved, looks=looks)
        outcomes += done
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
    """Work on pairs, and report failures and notes as they come up."""
    outcomes: list[Outcome] = []
    notes = Notes(f"crfrnn {task.origin.command}", "note", "files")

    def work(pair: Pair) -> Outcome:
        return attempt(pair, task.work, task.status)

    source = task.elsewhere(pairs) if task.elsewhere else work_in_threads(pairs, work, workers)
    with (
        Progress(task.activity, len(pairs), "images", quiet=not pairs) as progress,
        closing(source) as coming,
    ):
        try:
            for outcome in coming:
                outcomes.append(outcome)
                for note in outcome.result.notes if outcome.result is not None else ():
                    notes.add(str(note), note.what.sentence)
                _report_failure(task.origin.command, outcome)
                progress.advance()
        finally:
            notes.finish()
    return outcomes


def report_unmatched(command: str, matches: Matches) -> None:
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
