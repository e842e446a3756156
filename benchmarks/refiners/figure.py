"""Quality over time: a panel for each score, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _QUIET, _GRID = (255, 255, 255), (32, 33, 36), (110, 113, 118), (228, 230, 233)

#: Of Okabe and Ito: ours, the others.
_OURS, _OTHERS = (213, 94, 0), (0, 114, 178)
_PANEL, _HEIGHT, _LEFT, _TOP, _BOTTOM, _LEGEND = 620, 640, 80, 50, 70, 380

#: Distance of a number from its point.
_NEAR = 13


@dataclass(frozen=True)
class Point:
    """A method.

    Attributes:
        title: in the legend.
        seconds: of a photograph.
        scores: in percent, by the title of their panel.
        is_ours: chooses the color.
    """

    title: str
    seconds: float
    scores: Mapping[str, float]
    is_ours: bool


def draw(points: Sequence[Point], network: Mapping[str, float]) -> Image.Image:
    """Draw the scores of methods over their seconds, with that of the network as a dashed line."""
    figure = Image.new("RGB", (_PANEL * len(network) + _LEGEND, _HEIGHT), _PAPER)
    pen = ImageDraw.Draw(figure)
    ordered = sorted(points, key=lambda point: point.seconds)
    for index, (title, plain) in enumerate(network.items()):
        _panel(pen, index * _PANEL, title, plain, ordered)
    left = _PANEL * len(network) + 10
    for number, point in enumerate(ordered, start=1):
        y = _TOP + (number - 1) * min(24, (_HEIGHT - _TOP - 20) / max(1, len(ordered)))
        color = _OURS if point.is_ours else _OTHERS
        pen.text((left + 22, y), str(number), fill=color, font=_font(14), anchor="rm")
        pen.text((left + 32, y), point.title, fill=_INK, font=_font(14), anchor="lm")
    return figure


def _panel(
    pen: ImageDraw.ImageDraw, left: int, title: str, plain: float, points: Sequence[Point]
) -> None:
    start, right, floor = left + _LEFT, left + _PANEL - 20, _HEIGHT - _BOTTOM
    values = [plain, *(point.scores[title] for point in points)]
    step = _step(max(values) - min(values))
    low = math.floor(min(values) / step) * step
    high = max(math.ceil(max(values) / step) * step, low + step)
    times = [math.log10(max(point.seconds, 1e-3)) for point in points] or [0.0]
    first, last = math.floor(min(times) - 0.05), math.ceil(max(times) + 0.05)

    def x_of(exponent: float) -> float:
        return start + (exponent - first) / (last - first) * (right - start)

    def y_of(value: float) -> float:
        return floor - (value - low) / (high - low) * (floor - _TOP)

    for tick in range(round((high - low) / step) + 1):
        y = y_of(low + tick * step)
        pen.line((start, y, right, y), fill=_GRID)
        pen.text((start - 8, y), f"{low + tick * step:g}", fill=_QUIET, font=_font(), anchor="rm")
    for exponent in range(first, last + 1):
        x = x_of(exponent)
        pen.line((x, _TOP, x, floor), fill=_GRID)
        pen.text((x, floor + 10), f"{10.0**exponent:g}", fill=_QUIET, font=_font(), anchor="ma")
    name = "seconds for a photograph, one thread"
    pen.text(((start + right) / 2, floor + 38), name, fill=_INK, font=_font(), anchor="ma")
    pen.text((start, _TOP - 20), f"{title}, %", fill=_INK, font=_font(), anchor="lb")
    for x in range(start, right, 12):
        pen.line((x, y_of(plain), min(x + 6, right), y_of(plain)), fill=_QUIET, width=2)
    pen.text((right, y_of(plain) + 3), "network", fill=_QUIET, font=_font(14), anchor="ra")
    places = [
        (x_of(exponent), y_of(point.scores[title]))
        for point, exponent in zip(points, times, strict=True)
    ]
    taken = list(places)
    for number, (point, (x, y)) in enumerate(zip(points, places, strict=True), start=1):
        color = _OURS if point.is_ours else _OTHERS
        label = _free_place(x, y, taken)
        taken.append(label)
        if math.dist(label, (x, y)) > 1.5 * _NEAR:
            pen.line((x, y, *label), fill=_GRID)
        pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=color, outline=_PAPER)
        pen.text(label, str(number), fill=color, font=_font(13), anchor="mm")


def _free_place(x: float, y: float, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """A place for a number near its point, on growing circles, that no point or number covers."""
    for circle in range(1, 8):
        for turn in range(12):
            angle = math.pi * (turn / 6 - 0.5)
            radius = circle * _NEAR
            place = (x + radius * math.cos(angle), y + radius * math.sin(angle))
            if all(abs(place[0] - a) >= 16 or abs(place[1] - b) >= 13 for a, b in taken):
                return place
    return x, y - _NEAR


def _step(span: float) -> float:
    """A round distance between ticks."""
    rough = max(span, 1e-6) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def _font(size: int = 16) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
