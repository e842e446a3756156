"""Side-by-side timing: two functions in turn, and the ratio of each pair."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import crfrnn.bench

#: The names of the two functions, with the unit.
NAMES = ("ours [s]", "other [s]")

Row = tuple[str, "Pairs", str]


@dataclass(frozen=True)
class Pairs:
    """Seconds of two functions called in turn, A B A B ..., so that a slow moment hits both."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Median, least and largest of theirs / ours, pair by pair."""
        ratios = [b / a for a, b in zip(self.ours, self.theirs, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def in_turn(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int = 7) -> Pairs:
    """Time both functions `pairs` times, after calling each once to warm up."""
    return Pairs(*crfrnn.bench.in_turn((ours, theirs), pairs))


def table(title: str, rows: Sequence[Row], names: tuple[str, str] = NAMES) -> None:
    """Print the medians of each row, their ratio with its spread, and what was checked."""
    printed = Table(title=escape(title), title_justify="left")
    for column in ("case", *names, "ratio", "least", "largest", "checked"):
        left = column in ("case", "checked")
        printed.add_column(escape(column), justify="left" if left else "right")
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


def save_json(path: Path | None, rows: Sequence[Row], names: tuple[str, str] = NAMES) -> None:
    """Save the times of all calls, and the conditions, if there is a path."""
    if path is None:
        return
    facts = crfrnn.info()
    record = {
        "engine": facts.runs["CPU float32"],
        "instructions": facts.instructions,
        "torch": facts.torch,
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "rows": [
            {
                "case": name,
                "checked": checked,
                names[0]: pairs.ours,
                names[1]: pairs.theirs,
                "ratio": dict(zip(("median", "least", "largest"), pairs.ratio, strict=True)),
            }
            for name, pairs, checked in rows
        ],
    }
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
