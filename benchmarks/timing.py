"""Side-by-side timing: two functions in turn, and the ratio of each pair."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Pairs:
    """Seconds of two functions run in turn, A B A B ..., so that a slow moment hits both."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Median, least and largest of theirs / ours, pair by pair."""
        ratios = [b / a for a, b in zip(self.ours, self.theirs, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def in_turn(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int = 7) -> Pairs:
    """Time both functions `pairs` times after one warm-up each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    ours()
    theirs()
    for _ in range(pairs):
        for run, kept in zip((ours, theirs), seconds, strict=True):
            gc.collect()
            start = time.perf_counter()
            run()
            kept.append(time.perf_counter() - start)
    return Pairs(*seconds)


def table(title: str, rows: list[tuple[str, Pairs, str]]) -> None:
    """Print a row for each question: medians, the ratio with its spread, and what was checked."""
    printed = Table(title=title, title_justify="left")
    for column in ("case", "ours [s]", "other [s]", "ratio", "least", "largest", "checked"):
        printed.add_column(column, justify="left" if column in ("case", "checked") else "right")
    for name, pairs, checked in rows:
        middle, least, largest = pairs.ratio
        printed.add_row(
            name,
            f"{statistics.median(pairs.ours):.3f}",
            f"{statistics.median(pairs.theirs):.3f}",
            f"{middle:.2f}x",
            f"{least:.2f}x",
            f"{largest:.2f}x",
            checked,
        )
    Console(width=120).print(printed)
