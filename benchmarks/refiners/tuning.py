"""The same search for every method: drawn numbers, on more and more training photographs.

Each method tries the same number of proposals: those it starts from, then seeded draws. All are
scored on a quarter of the photographs, the better half of them on half, and the better half of
those on all. The defaults always go on, so that tuned numbers are no worse there than the defaults.
The score is the mean of mean IoU and trimap IoU, as in `crfrnn tune`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crfrnn.tuning.gains import WIDTH, combined, scores_of
from crfrnn.tuning.search import balanced

from .counts import decode
from .data import Split
from .journal import Journal, Key
from .method import Method, Numbers
from .pool import Estimate, Pool, grouped

#: Widths of the trimap in pixels: that of `crfrnn tune`, and of the experiment.
WIDTHS = (WIDTH,)


@dataclass(frozen=True)
class Plan:
    """How to tune.

    Attributes:
        trials: for each method with numbers to choose.
        images: training photographs.
        seed: of the draws, and of the photographs.
        limit: seconds for one method on one photograph.
    """

    trials: int
    images: int
    seed: int
    limit: float

    def rungs(self) -> list[int]:
        """Photographs seen after each rung."""
        return sorted({max(1, self.images >> halvings) for halvings in (2, 1, 0)})

    def calls(self, method: Method) -> int:
        """How often a method runs."""
        alive, calls, before = len(proposals(method, self)), 0, 0
        if alive < 2:
            return 0
        for rung in self.rungs():
            calls += alive * (rung - before)
            alive, before = max(1, alive // 2), rung
        return calls


def proposals(method: Method, plan: Plan) -> list[Numbers]:
    """The numbers that a method tries."""
    return method.proposals(plan.trials if method.space else 1, plan.seed)


def survivors(scores: Mapping[int, float], count: int) -> list[int]:
    """The best trials, and always the first, which has the defaults."""
    order = sorted(scores, key=lambda trial: (-scores[trial], trial))
    return sorted({*order[: max(1, count)]} | ({0} & set(scores)))


def tune(
    rows: Sequence[Method],
    plan: Plan,
    split: Split | None,
    journal: Journal,
    pool: Pool,
    estimate: Estimate,
    say: Any,
) -> dict[str, dict[str, Any]]:
    """Return the numbers of each method with `trial`, and the scores `before` and `after`.

    Without training photographs, all numbers are the defaults.
    """
    tuned = {row.name: {"numbers": dict(row.start[0]), "trial": 0} for row in rows}
    searched = [row for row in rows if len(proposals(row, plan)) > 1]
    if split is None or plan.trials < 2 or not searched:
        return tuned
    chosen = [split.names[index] for index in balanced(split, plan.seed)[: plan.images]]  # type: ignore[arg-type]
    tried = {row.name: proposals(row, plan) for row in searched}
    alive = {name: list(range(len(numbers))) for name, numbers in tried.items()}
    scores: dict[str, dict[int, float]] = {}
    start = 0
    rungs = [rung for rung in plan.rungs() if rung <= len(chosen)] or [len(chosen)]
    for step, rung in enumerate(rungs):
        items = [
            (
                Key("train", name, trial, photograph),
                _request(name, tried[name][trial], photograph, plan),
            )
            for photograph in chosen[start:rung]
            for trial in range(plan.trials)
            for name in alive
            if trial in alive[name]
        ]
        pending = [(key, request) for key, request in items if key not in journal.answers]

        def keep(key: Key, answer: dict[str, Any]) -> None:
            journal.add(key, answer)
            estimate.add(key, answer)
            estimate.say("tuning", say)

        pool.ask(grouped(pending), keep)
        for name in alive:
            scores[name] = {
                trial: _score(journal, name, trial, chosen[:rung], split.num_classes)
                for trial in alive[name]
            }
            if step + 1 < len(rungs):
                alive[name] = survivors(scores[name], len(tried[name]) >> (step + 1))
        start = rung
    for name, numbers in tried.items():
        best = max(scores[name], key=lambda trial: (scores[name][trial], -trial))
        tuned[name] = {
            "numbers": dict(numbers[best]),
            "trial": best,
            "before": scores[name][0],
            "after": scores[name][best],
        }
    return tuned


def _request(name: str, numbers: Numbers, photograph: str, plan: Plan) -> dict[str, Any]:
    return {
        "stage": "train",
        "photograph": photograph,
        "method": name,
        "numbers": dict(numbers),
        "decide": None,
        "limit": plan.limit,
        "widths": WIDTHS,
    }


def _score(
    journal: Journal, name: str, trial: int, photographs: Sequence[str], classes: int
) -> float:
    keys = [Key("train", name, trial, photograph) for photograph in photographs]
    counts = [decode(journal.answers[key]["counts"][name], classes, len(WIDTHS)) for key in keys]
    pairs = np.array([[one.confusion, one.trimap[0]] for one in counts])
    return combined(scores_of(pairs), "both")
