"""A line plot over a few integers, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _QUIET, _GRID = (255, 255, 255), (32, 33, 36), (110, 113, 118), (228, 230, 233)

#: The colors of Okabe and Ito, distinct to color-blind readers.
_COLORS = (
    (0, 0, 0), (86, 180, 233), (0, 114, 178), (0, 158, 115), (213, 94, 0), (204, 121, 167),
    (230, 159, 0), (150, 150, 30),
)  # fmt: skip

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 1200, 640, 90, 50, 70
_LEGEND = 420

#: How far apart the points of two lines stand at one number.
_ASIDE = 13


@dataclass(frozen=True)
class Line:
    """A line of the plot.

    Attributes:
        title: in the legend.
        values: one per number on the x axis.
        intervals: the lower and upper end at each value, if known.
    """

    title: str
    values: Sequence[float]
    intervals: Sequence[tuple[float, float]] = ()


def draw_lines(
    numbers: Sequence[int], lines: Sequence[Line], *, x_title: str, y_title: str
) -> Image.Image:
    """Draw lines over evenly spaced numbers, with a legend beside them.

    Lines of equal values stay apart: each is narrower than the one below it, and points and
    intervals of one number stand beside each other.
    """
    figure = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    draw = ImageDraw.Draw(figure)
    ends = [end for line in lines for pair in line.intervals for end in pair]
    ticks = _ticks([*(value for line in lines for value in line.values), *ends])
    right, floor = _WIDTH - _LEGEND, _HEIGHT - _BOTTOM

    def x_of(index: int) -> float:
        return _LEFT + 30 + index * (right - _LEFT - 60) / max(1, len(numbers) - 1)

    def y_of(value: float) -> float:
        return floor - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (floor - _TOP)

    for tick in ticks:
        draw.line((_LEFT, y_of(tick), right, y_of(tick)), fill=_GRID, width=1)
        draw.text((_LEFT - 10, y_of(tick)), f"{tick:g}", fill=_QUIET, font=_font(), anchor="rm")
    for index, number in enumerate(numbers):
        draw.text((x_of(index), floor + 12), str(number), fill=_QUIET, font=_font(), anchor="ma")
    draw.text(((_LEFT + right) / 2, floor + 40), x_title, fill=_INK, font=_font(), anchor="ma")
    draw.text((_LEFT, _TOP - 22), y_title, fill=_INK, font=_font(), anchor="lb")
    marks = []
    for place, line in enumerate(lines):
        color = _COLORS[place % len(_COLORS)]
        aside = (place - (len(lines) - 1) / 2) * _ASIDE
        points = [(x_of(i) + aside, y_of(value)) for i, value in enumerate(line.values)]
        if len(points) > 1:
            width = 3 + 2 * (len(lines) - 1 - place)
            draw.line(points, fill=color, width=width, joint="curve")
        row = _TOP + 10 + place * 30
        draw.line((right + 20, row, right + 48, row), fill=color, width=4)
        draw.text((right + 58, row), line.title, fill=_INK, font=_font(), anchor="lm")
        marks.append((color, points, line.intervals))
    for color, points, intervals in marks:  # above all lines
        for (x, _), (low, high) in zip(points, intervals, strict=False):
            draw.line((x, y_of(low), x, y_of(high)), fill=color, width=2)
            for bar in (y_of(low), y_of(high)):
                draw.line((x - 4, bar, x + 4, bar), fill=color, width=2)
        for x, at in points:
            draw.ellipse((x - 5, at - 5, x + 5, at + 5), fill=color)
    return figure


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers whose range covers the values."""
    low, high = min(values), max(values)
    rough = max(high - low, 0.5) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(16)
