"""The command: its options, and the order of the work."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from . import report
from .data import Folders, Split
from .journal import Journal, Key
from .method import Method
from .pool import Estimate, Pool, grouped
from .table import methods, present
from .tuning import WIDTHS, Plan, tune


def _parser() -> argparse.ArgumentParser:
    import benchmarks.refiners

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks refiners",
        description=benchmarks.refiners.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--photographs", type=Path, metavar="FOLDER", required=True, help="photographs to score on")
    add("--masks", type=Path, metavar="FOLDER", required=True, help="their masks")
    add("--scores", type=Path, metavar="FILE", required=True, help="an .npz with ids and logits")
    add("--train-photographs", type=Path, metavar="FOLDER", help="default: --photographs")
    add("--train-masks", type=Path, metavar="FOLDER", help="default: --masks")
    add("--train-scores", type=Path, metavar="FILE", help="scores to tune on; default: do not tune")
    add("--canvas", type=int, metavar="PIXELS", help="side of the canvas that the scores cover")
    add("--void", type=int, nargs="*", default=[], metavar="ID", help="ids that do not count")
    add("--output", type=Path, metavar="DIR", required=True, help="where results go")
    add("--methods", nargs="+", metavar="NAME", help="methods to run; default: all")
    add("--trained", type=Path, metavar="DIR", help="a saved CRFRNN, for the trained row")
    add("--limit", type=int, metavar="N", help="score the first N photographs; default: all")
    add("--trials", type=int, default=16, help="trials of each method (default: 16)")
    add("--images", type=int, default=40, help="training photographs (default: 40)")
    add("--seed", type=int, default=0)
    add("--jobs", type=int, default=2, help="processes, of one thread each (default: 2)")
    add(
        "--patience", type=float, default=120, metavar="SECONDS", help="for one call (default: 120)"
    )
    add("--reference", default="crfrnn", metavar="NAME", help="row of the differences")
    add("--note", default="", metavar="TEXT", help="a sentence for the report")
    return parser


def main(options: list[str]) -> None:
    """Tune, score, report."""
    parser = _parser()
    chosen = parser.parse_args(options)
    for name, least in (("trials", 1), ("images", 1), ("jobs", 1), ("limit", 1)):
        value = getattr(chosen, name)
        if value is not None and value < least:
            parser.error(f"--{name} must be at least {least}; got {value}")
    try:
        _run(chosen)
    except (ValueError, OSError, RuntimeError) as error:
        parser.exit(2, f"refiners: {error}\n")


def say(text: str) -> None:
    """Write a line of progress."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _run(chosen: argparse.Namespace) -> None:
    test = Folders(
        chosen.photographs, chosen.masks, chosen.scores, chosen.canvas, tuple(chosen.void)
    )
    train = None
    if chosen.train_scores is not None:
        train = Folders(
            chosen.train_photographs or chosen.photographs,
            chosen.train_masks or chosen.masks,
            chosen.train_scores,
            chosen.canvas,
            tuple(chosen.void),
        )
    rows, missing = present(methods(chosen.trained, chosen.methods))
    for line in missing:
        say(line)
    if chosen.reference not in {row.name for row in rows}:
        raise ValueError(f"--reference {chosen.reference}: not among the methods of this run")
    scored, split = Split(test), None if train is None else Split(train)
    photographs = scored.names[: chosen.limit]
    if split is not None:
        _check(scored, split, photographs)
    plan = Plan(chosen.trials if split else 1, min(chosen.images, len(split) if split else 1),
                chosen.seed, chosen.patience)  # fmt: skip
    settings = {
        "test": test.to_dict(),
        "train": None if train is None else train.to_dict(),
        "trained": None if chosen.trained is None else str(chosen.trained),
        "trials": plan.trials,
        "images": plan.images,
        "seed": plan.seed,
        "patience": plan.limit,
        "widths": list(WIDTHS),
        "tuned for": "mean of mean IoU and trimap IoU",
    }
    journal = Journal(chosen.output, settings)
    counts = {row.name: plan.calls(row) + len(photographs) for row in rows}
    estimate = Estimate(chosen.jobs, counts, journal)
    say(
        f"{len(rows)} methods, {len(photographs)} photographs, about {sum(counts.values())} calls"
        f", {sum(max(0, left) for left in estimate.left.values())} of them to do; the time follows"
        " once half of the methods have run"
    )
    config = {**settings, "methods": chosen.methods}
    with Pool(chosen.jobs, config) as pool:
        tuned = tune(rows, plan, split, journal, pool, estimate, say)
        _score(rows, tuned, photographs, plan, journal, pool, estimate)
    facts = {**settings, "note": chosen.note, "missing": missing, "jobs": chosen.jobs}
    league = report.summarize(
        rows, tuned, photographs, scored.num_classes, journal, chosen.reference, facts
    )
    for path in report.write(chosen.output, league):
        say(f"wrote {path}")
    sys.stdout.write(report.markdown(league))


def _check(scored: Split, split: Split, photographs: list[str]) -> None:
    both = sorted(set(split.names) & set(photographs))
    if both:
        raise ValueError(
            f"{len(both)} photographs are both for tuning and for scoring, such as {both[0]}; give "
            "--train-scores of a training split"
        )
    if split.num_classes != scored.num_classes:
        raise ValueError(
            f"the training scores have {split.num_classes} classes, the others {scored.num_classes}"
        )


def _score(
    rows: list[Method],
    tuned: dict[str, dict[str, Any]],
    photographs: list[str],
    plan: Plan,
    journal: Journal,
    pool: Pool,
    estimate: Estimate,
) -> None:
    """Run every method on every photograph, those of one photograph together."""
    decide = tuned.get("rankseg", {}).get("numbers")

    def request(row: Method, photograph: str) -> tuple[Key, dict[str, Any]]:
        source = row.same_as or row.name
        key = Key("test", row.name, tuned[source]["trial"], photograph)
        return key, {
            "stage": "test",
            "photograph": photograph,
            "method": row.name,
            "numbers": tuned[source]["numbers"],
            "decide": decide,
            "limit": plan.limit,
            "widths": WIDTHS,
        }

    def keep(key: Key, answer: dict[str, Any]) -> None:
        if answer["error"]:
            say(f"{key.method} on {key.photograph}: {answer['error']}")
        journal.add(key, answer)
        estimate.add(key, answer)
        estimate.say("scoring", say)

    items = [request(row, photograph) for photograph in photographs for row in rows]
    pool.ask(grouped((k, r) for k, r in items if k not in journal.answers), keep)
