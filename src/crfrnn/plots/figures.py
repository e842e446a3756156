"""Pictures of label maps: over the photograph, and before next to after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crfrnn.io.palette import voc_palette

_PAPER = (255, 255, 255)
_INK = (32, 33, 36)
_QUIET = (110, 113, 118)
_FRAME = (255, 214, 10)
_MARGIN = 24
_GAP = 14
_TINT = 0.28
_FADE = 0.62


class Box(NamedTuple):
    """A rectangle of pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Column:
    """One column of a figure.

    Attributes:
        title: the text above it.
        labels: the label map drawn over the photograph; None leaves the photograph bare.
    """

    title: str
    labels: np.ndarray | None = None


def overlay(
    image: np.ndarray,
    labels: np.ndarray | None,
    *,
    palette: bytes | None = None,
    size: tuple[int, int] | None = None,
    outline: int = 1,
) -> Image.Image:
    """Draw a label map over its photograph: tinted regions, outlined, on a faded background.

    Args:
        image: the photograph.
        labels: class ids; None draws the photograph alone. Labels that are black in the palette
            (VOC's background) are faded, the others tinted.
        palette: RGB triples; VOC's by default.
        size: width and height of the picture; by default the photograph's.
        outline: thickness of the outline in pixels of the picture.
    """
    photo = Image.fromarray(image)
    size = size or photo.size
    if size != photo.size:
        photo = photo.resize(size, Image.Resampling.LANCZOS)
    if labels is None:
        return photo
    labels = _resize_labels(labels, size)
    colors = _colors(palette)[labels.astype(np.int64) % 256].astype(np.float32)
    tinted = colors.any(axis=2, keepdims=True)
    pixels = np.asarray(photo).astype(np.float32)
    target = np.where(tinted, colors, np.float32(255))
    pixels += np.where(tinted, np.float32(_TINT), np.float32(_FADE)) * (target - pixels)
    pixels[_outline(labels, outline + 2)] = 255
    pixels[_outline(labels, outline)] = 0
    return Image.fromarray(pixels.astype(np.uint8))


def before_after(
    image: np.ndarray,
    columns: Sequence[Column],
    *,
    box: Box,
    caption: str,
    names: Sequence[str] = (),
    palette: bytes | None = None,
    panel: int = 480,
) -> Image.Image:
    """Draw the columns side by side: above the whole picture, below the enlarged `box`.

    Args:
        image: the photograph.
        columns: what to show, from left to right.
        box: the part to enlarge, framed in the whole pictures.
        caption: a line below the pictures.
        names: class names by label, for a legend of the tinted classes that occur.
        palette: RGB triples; VOC's by default.
        panel: width of a column in pixels.
    """
    height, width = image.shape[:2]
    whole = (panel, round(panel * height / width))
    detail = (panel, round(panel * box.height / box.width))
    top = _MARGIN + 32
    total = (
        2 * _MARGIN + len(columns) * panel + (len(columns) - 1) * _GAP,
        top + whole[1] + _GAP + detail[1] + 34 + _MARGIN,
    )
    figure = Image.new("RGB", total, _PAPER)
    draw = ImageDraw.Draw(figure)
    rows = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
    for index, column in enumerate(columns):
        x = _MARGIN + index * (panel + _GAP)
        draw.text((x, top - 12), column.title, fill=_INK, font=_font(20), anchor="ls")
        picture = overlay(image, column.labels, palette=palette, size=whole, outline=2)
        _frame(picture, box, panel / width)
        figure.paste(picture, (x, top))
        part = None if column.labels is None else column.labels[rows]
        enlarged = overlay(image[rows], part, palette=palette, size=detail, outline=3)
        _frame(enlarged, Box(0, 0, *detail), 1)
        figure.paste(enlarged, (x, top + whole[1] + _GAP))
    bottom = total[1] - _MARGIN
    draw.text((_MARGIN, bottom), caption, fill=_QUIET, font=_font(18), anchor="ls")
    _legend(draw, _tinted(columns, names, palette), total[0] - _MARGIN, bottom)
    return figure


@dataclass(frozen=True)
class Row:
    """One photograph of a figure that shows several.

    Attributes:
        image: the photograph.
        columns: what to show, from left to right.
        caption: a line below the pictures.
    """

    image: np.ndarray
    columns: Sequence[Column]
    caption: str


def rows_of_columns(
    rows: Sequence[Row],
    *,
    names: Sequence[str] = (),
    palette: bytes | None = None,
    panel: int = 320,
) -> Image.Image:
    """Draw several photographs below each other, each with its columns side by side.

    Args:
        rows: at least one, all with the same number of columns; the first gives the titles.
        names: class names by label. Each stands on the largest region of its class in a panel.
        palette: RGB triples; VOC's by default.
        panel: width of a column in pixels.
    """
    heights = [round(panel * row.image.shape[0] / row.image.shape[1]) for row in rows]
    count = len(rows[0].columns)
    width = 2 * _MARGIN + count * panel + (count - 1) * _GAP
    below = 32
    figure = Image.new("RGB", (width, 2 * _MARGIN + 28 + sum(heights) + below * len(rows)), _PAPER)
    draw = ImageDraw.Draw(figure)
    top = _MARGIN + 28
    for row, height in zip(rows, heights, strict=True):
        for index, column in enumerate(row.columns):
            x = _MARGIN + index * (panel + _GAP)
            if row is rows[0]:
                draw.text((x, top - 10), column.title, fill=_INK, font=_font(18), anchor="ls")
            labels = column.labels
            picture = overlay(row.image, labels, palette=palette, size=(panel, height), outline=2)
            if labels is not None:
                _name_classes(picture, _resize_labels(labels, (panel, height)), names)
            figure.paste(picture, (x, top))
        bottom = top + height + below - 12
        draw.text((_MARGIN, bottom), row.caption, fill=_QUIET, font=_font(16), anchor="ls")
        top += height + below
    return figure


def _name_classes(picture: Image.Image, labels: np.ndarray, names: Sequence[str]) -> None:
    """Write the name of each class where it is thickest; later names avoid earlier ones."""
    draw, font = ImageDraw.Draw(picture), _font(13)
    taken: list[tuple[float, float, float, float]] = []
    classes, counts = np.unique(labels, return_counts=True)
    for label in classes[np.argsort(-counts)].tolist():
        if not 0 <= label < len(names):
            continue
        x, y = _thickest(labels == label)
        half = draw.textlength(names[label], font=font) / 2 + 4
        x = min(max(x, half), max(picture.width - half, half))
        y = min(max(y, 10), max(picture.height - 10, 10))
        box = (x - half, y - 9, x + half, y + 9)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            continue
        taken.append(box)
        draw.rectangle(box, fill=_PAPER)
        draw.text((x, y), names[label], fill=_INK, font=font, anchor="mm")


def _thickest(region: np.ndarray) -> tuple[float, float]:
    """A pixel (x, y) of a region that is far from its border, by shaving the border off."""
    last = region
    while region.any():
        last = region
        wide = np.pad(region, 2)
        region = (
            wide[2:-2, 2:-2] & wide[4:, 2:-2] & wide[:-4, 2:-2] & wide[2:-2, 4:] & wide[2:-2, :-4]
        )
    rows, columns = np.nonzero(last)
    middle = len(rows) // 2
    return float(columns[middle]), float(rows[middle])


def _tinted(
    columns: Sequence[Column], names: Sequence[str], palette: bytes | None
) -> list[tuple[str, tuple[int, ...]]]:
    """Return the names and colors of the labels that occur and are not black."""
    present = {int(x) for c in columns if c.labels is not None for x in np.unique(c.labels)}
    colors = _colors(palette)
    return [
        (names[x], tuple(colors[x].tolist()))
        for x in sorted(present)
        if colors[x % 256].any() and x < len(names)
    ]


def _legend(
    draw: ImageDraw.ImageDraw, entries: list[tuple[str, tuple[int, ...]]], right: int, bottom: int
) -> None:
    """Write names with patches of their colors, from the right edge to the left."""
    for name, color in reversed(entries):
        draw.text((right, bottom), name, fill=_INK, font=_font(18), anchor="rs")
        right -= round(draw.textlength(name, font=_font(18))) + 22
        draw.rectangle((right, bottom - 14, right + 14, bottom), fill=color)
        right -= 18


def _colors(palette: bytes | None) -> np.ndarray:
    """Return 256 RGB rows; VOC's palette continues a shorter one.

    Pillow cuts palettes after the last used color, but refinement may bring a label beyond it.
    """
    first = palette or b""
    return np.frombuffer((first + voc_palette()[len(first) :])[:768], np.uint8).reshape(256, 3)


def _resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a label map to `size` (width, height) by nearest neighbor."""
    (height, width), (columns, rows) = labels.shape, size
    y = ((np.arange(rows) + 0.5) * height / rows).astype(np.intp)
    x = ((np.arange(columns) + 0.5) * width / columns).astype(np.intp)
    return np.asarray(labels[y[:, None], x])


def _outline(labels: np.ndarray, thickness: int) -> np.ndarray:
    """Mark the pixels within about half of `thickness` of another label."""
    marked = np.zeros(labels.shape, bool)
    for step in range(1, thickness + 1):
        into = slice(step - step // 2, labels.shape[0] - step // 2)
        marked[into] |= labels[step:] != labels[:-step]
        into = slice(step - step // 2, labels.shape[1] - step // 2)
        marked[:, into] |= labels[:, step:] != labels[:, :-step]
    return marked


def _frame(picture: Image.Image, box: Box, scale: float) -> None:
    left, top, width, height = (round(side * scale) for side in box)
    corners = (left, top, left + width - 1, top + height - 1)
    ImageDraw.Draw(picture).rectangle(corners, outline=_FRAME, width=3)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
