"""What the page shows for the values of its components, computed without Gradio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crfrnn.offline.clamp import FREE
from crfrnn.presets import PRESETS

from . import markup
from .choice import Choice, limits
from .desk import Page
from .look import PROBABILITY, RADII, STEPS, ZOOMS, Look, Tool
from .work import Work

#: What the pointer does on the photograph.
LOOK, DRAW = "choose the point to look at", "draw scribbles"

#: The pen that frees pixels.
ERASE = "erase"

#: A line of more points is cut.
_MOST_POINTS = 20_000


@dataclass(frozen=True)
class Shown:
    """What the page shows.

    Attributes:
        message: what happened last.
        board: the picture.
        plots: the plots of the steps; "" if they are not shown.
        verdict: what the CRF did.
        links: what can be saved.
        copies: the result as a command and as Python, to copy.
        label: the class whose probability is shown.
        pen: the class that is drawn, or `ERASE`.
        classes: names and ids of the classes, for menus.
        picks_class: whether the view shows one class.
    """

    message: str
    board: str
    plots: str
    verdict: str
    links: str
    copies: str
    label: int
    pen: int | str
    classes: list[tuple[str, int]]
    picks_class: bool


def choice_of(values: Mapping[str, Any], start: Choice) -> Choice:
    """The parameters that the components hold; a number field that was cleared is 0.

    What a browser sends need not come from the page: a bandwidth or number of steps beyond the
    sliders could keep the server busy for ever, and a preset could be the name of any file.

    Raises:
        ValueError: a number lies beyond its slider, or the preset is not in the menu.
    """
    for name, (low, high) in limits(start).items():
        value = values[name] or 0
        if not low <= value <= high:  # also of NaN
            raise ValueError(f"{name} must be {low:g} to {high:g}, as its slider; got {value}")
    if values["preset"] not in (*PRESETS, start.preset):
        raise ValueError(f"preset must be one of the menu's; got {values['preset']!r}")
    real = ("position", "color", "weight", "near", "smoothness")
    return Choice(
        preset=str(values["preset"]),
        normalization=values["normalization"],
        filter=values["filter"],
        guard=bool(values["guard"]),
        iterations=int(values["iterations"] or 0),
        band=int(values["band"] or 0),
        **{name: float(values[name] or 0) for name in real},
    )


def look_of(values: Mapping[str, Any], work: Work) -> Look:
    """The view that the components hold."""
    label = values["label"]
    label = _common(work) if label is None else min(int(label), work.num_classes - 1)
    if values["zoom"] not in ZOOMS:
        raise ValueError(f"the enlargement must be one of {ZOOMS}; got {values['zoom']}")
    return Look(str(values["view"]), int(values["zoom"]), label, bool(values["rings"]))


def tool_of(values: Mapping[str, Any], work: Work) -> Tool:
    """What the pointer does."""
    pen = values["pen"]
    low, high = RADII
    if not low <= values["radius"] <= high:
        raise ValueError(f"half the width must be {low} to {high} pixels; got {values['radius']}")
    known = pen not in (None, ERASE) and int(pen) < work.num_classes
    return Tool(values["pointer"] == DRAW, int(pen) if known else FREE, float(values["radius"]))


def answer(page: Page, values: Mapping[str, Any], message: str = "") -> Shown:
    """Compute what the page shows."""
    work, choice = page.work, choice_of(values, page.start.choice)
    look, tool = look_of(values, work), tool_of(values, work)
    return Shown(
        message=markup.message(message),
        board=markup.board(work, choice, look, tool),
        plots=markup.plots(work.steps(choice)) if look.view == STEPS else "",
        verdict=markup.verdict(work, choice),
        links=markup.links(work, choice),
        copies=markup.copies(page.command(choice), page.python(choice)),
        label=look.label,
        pen=ERASE if tool.label == FREE else tool.label,
        classes=[(name, index) for index, name in enumerate(work.class_names)],
        picks_class=look.view == PROBABILITY,
    )


def pick(page: Page, x: float, y: float) -> str:
    """Look at the pixel at (x, y)."""
    height, width = page.work.subject.size
    page.work.point = min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1)
    return ""


def stroke(page: Page, values: Mapping[str, Any], points: Any) -> str:
    """Draw a scribble through points (x, y)."""
    tool = tool_of(values, page.work)
    line = np.asarray(points[:_MOST_POINTS], np.float64).reshape(-1, 2)
    if not np.isfinite(line).all():
        raise ValueError("the points of a line must be finite")
    size = np.array(page.work.subject.size[::-1])
    line = np.clip(line, -size, 2 * size)  # drawing what lies farther off would take for ever
    page.work.scribble([(x, y) for x, y in line.tolist()], tool.radius, tool.label)
    return ""


def _common(work: Work) -> int:
    """The most common label but 0, before the CRF; 0 if there is no other."""
    counts = np.bincount(work.before.labels.ravel(), minlength=1)
    counts[0] = 0
    return int(counts.argmax())
