"""Tables of scores, in percent."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from crfrnn.evaluation.metrics import score_titles

_WIDTH = 100


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print the scores, the IoU per class, and the verdict, on stdout."""
    console = Console(file=sys.stdout, width=_WIDTH, highlight=False)
    console.print(_scores(summary))
    console.print(_classes(summary))
    console.print(
        "Means leave out classes that are in neither truth nor prediction. Trimap scores count "
        "only pixels within this distance of another true label or of void.",
        style="dim",
    )
    for line in summary["verdict"]:
        console.print(line, style="bold", soft_wrap=True)


def _scores(summary: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"{summary['images']} images, percent, with 95 % bootstrap intervals over images",
        title_justify="left",
    )
    table.add_column("score")
    for name in summary["rows"]:
        table.add_column(name, justify="right")
    for name in summary["differences"]:
        title = "difference" if len(summary["differences"]) == 1 else f"{name}: difference"
        table.add_column(title, justify="right")
    for score, title in score_titles(summary["settings"]["widths"]).items():
        cells = [_cell(row[score]) for row in summary["rows"].values()]
        cells += [_cell(row[score], sign="+") for row in summary["differences"].values()]
        table.add_row(title, *cells)
    return table


def _classes(summary: Mapping[str, Any]) -> Table:
    table = Table(title="IoU per class, percent", title_justify="left")
    table.add_column("class")
    for name in summary["rows"]:
        table.add_column(name, justify="right")
    for label in summary["classes"]:
        values = [row["class_iou"][label] for row in summary["rows"].values()]
        table.add_row(label, *("-" if value is None else f"{100 * value:.2f}" for value in values))
    return table


def _cell(entry: Mapping[str, float | None], sign: str = "") -> str:
    value, low, high = (entry[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    text = f"{100 * value:{sign}.2f}"
    if low is None or high is None:
        return text
    return f"{text} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"
