"""What a person looks at: the view, the part that is enlarged, and the pictures of them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from crfrnn.io.files import label_picture
from crfrnn.offline.clamp import FREE
from crfrnn.plots.figures import overlay

from .choice import Choice
from .work import Work

#: The views, by what the page calls them.
BOTH = "Before and after"
CHANGED = "What changed"
PROBABILITY = "Probability of a class"
REACH = "Who is alike"
STEPS = "Step by step"
VIEWS = (BOTH, CHANGED, PROBABILITY, REACH, STEPS)

ZOOMS = (1, 2, 4, 8)

#: The least and the most of half the width of a scribble, in pixels.
RADII = (1, 30)

#: The longer side of a picture on the page, in pixels.
_LONGEST = 900

_CHANGED_COLOR, _FLIPPED_COLOR = (255, 140, 0), (214, 0, 120)
#: The colors of 0 to 1: dark blue over green to yellow, brighter all the way.
_HEAT = np.array(
    [(28, 16, 68), (44, 62, 120), (33, 110, 125), (53, 160, 112), (150, 205, 70), (253, 231, 60)],
    np.float32,
)


@dataclass(frozen=True)
class Look:
    """What a person looks at.

    Attributes:
        view: one of `VIEWS`.
        zoom: how many times the part around the point is enlarged.
        label: the class of `PROBABILITY`.
        rings: whether the bandwidths are drawn.
    """

    view: str = BOTH
    zoom: int = 1
    label: int = 0
    rings: bool = True


@dataclass(frozen=True)
class Tool:
    """What the pointer does on the photograph.

    Attributes:
        draws: whether it draws scribbles; else it chooses the point to look at.
        label: the class that it draws, or `FREE` to free pixels.
        radius: half the width of its line, in pixels.
    """

    draws: bool = False
    label: int = FREE
    radius: float = 4.0


@dataclass(frozen=True)
class Part:
    """A part of the photograph, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def rows(self) -> tuple[slice, slice]:
        """The part as an index."""
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )


@dataclass(frozen=True)
class Pictures:
    """What is drawn: one picture, or two that a slider uncovers.

    Attributes:
        part: what they show.
        after: the picture, as a data URL.
        before: the other, or "".
        says: what the picture shows, for those who cannot see it.
        key: (color, text) of each color that needs a word.
    """

    part: Part
    after: str
    before: str
    says: str
    key: tuple[tuple[str, str], ...] = ()


def part_of(work: Work, zoom: int) -> Part:
    """The part around the point that a zoom shows."""
    height, width = work.subject.size
    w, h = max(1, round(width / zoom)), max(1, round(height / zoom))
    x, y = work.point
    left = min(max(x - w // 2, 0), width - w)
    top = min(max(y - h // 2, 0), height - h)
    return Part(left, top, w, h)


def pictures(work: Work, choice: Choice, look: Look) -> Pictures:
    """Draw a view of the result of a choice."""
    part = part_of(work, look.zoom)
    if look.view == CHANGED:
        return _changes(work, choice, part)
    if look.view == PROBABILITY:
        return _probabilities(work, choice, part, look.label)
    if look.view == REACH:
        return _reach(work, choice, part)
    return _both(work, choice, part)


def _both(work: Work, choice: Choice, part: Part) -> Pictures:
    before, after = work.before.labels, work.refine(choice).refined.labels
    shown = [_labels(work, labels, part) for labels in (before, after)]
    present = sorted({*np.unique(before[part.rows]), *np.unique(after[part.rows])})
    names = work.class_names
    key = tuple((_hex(work, int(i)), names[int(i)]) for i in present)
    says = f"{work.subject.name}: labels of the network, and after the CRF"
    return Pictures(part, shown[1], shown[0], says, key)


def _changes(work: Work, choice: Choice, part: Part) -> Pictures:
    result = work.refine(choice)
    moved = (result.refined.labels != work.before.labels)[part.rows]
    sure = work.before.probs.max(0)[part.rows] >= 0.9
    photo = work.subject.photo[part.rows].astype(np.float32)
    pixels = np.repeat(photo.mean(2, keepdims=True), 3, axis=2) * 0.5 + 110
    pixels[moved & ~sure] = _CHANGED_COLOR
    pixels[moved & sure] = _FLIPPED_COLOR
    key = (
        (_css(_CHANGED_COLOR), "new label; the network was unsure"),
        (_css(_FLIPPED_COLOR), "new label, although the network was sure"),
    )
    says = f"{work.subject.name} in gray, with the {int(moved.sum())} relabeled pixels in color"
    return Pictures(part, _url(_scaled(pixels, part)), "", says, key)


def _probabilities(work: Work, choice: Choice, part: Part, label: int) -> Pictures:
    label = min(label, work.num_classes - 1)
    maps = (work.before.probs[label], work.refine(choice).refined.probs[label])
    before, after = (_url(_scaled(_heat(values[part.rows]), part)) for values in maps)
    name = work.class_names[label]
    key = ((_css(_HEAT[0]), "0"), (_css(_HEAT[3]), "a half"), (_css(_HEAT[-1]), "1: certain"))
    return Pictures(part, after, before, f"probability of {name}, before and after the CRF", key)


def _reach(work: Work, choice: Choice, part: Part) -> Pictures:
    weights = work.weights_around(choice)[part.rows][..., None]
    photo = work.subject.photo[part.rows].astype(np.float32)
    faded = np.repeat(photo.mean(2, keepdims=True), 3, axis=2) * 0.35 + 150
    pixels = faded + weights * (np.array([0, 90, 230], np.float32) - faded)
    key = ((_css((0, 90, 230)), "pulls the marked pixel to its own label"), ("#c8c8c8", "does not"))
    says = "pixels that are near the marked one and alike in color, in blue"
    return Pictures(part, _url(_scaled(pixels, part)), "", says, key)


def _labels(work: Work, labels: np.ndarray, part: Part) -> str:
    photo = np.ascontiguousarray(work.subject.photo[part.rows])
    picture = overlay(
        photo, labels[part.rows], palette=work.subject.palette, size=_size(part), outline=2
    )
    return _url(picture)


def _size(part: Part) -> tuple[int, int]:
    scale = _LONGEST / max(part.width, part.height)
    return max(1, round(part.width * scale)), max(1, round(part.height * scale))


def _scaled(pixels: np.ndarray, part: Part) -> Image.Image:
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    size = _size(part)
    larger = size[0] > part.width
    return picture.resize(size, Image.Resampling.NEAREST if larger else Image.Resampling.BOX)


def _heat(values: np.ndarray) -> np.ndarray:
    """Colors of numbers on 0..1."""
    place = np.clip(values, 0, 1).astype(np.float32) * (len(_HEAT) - 1)
    low = np.minimum(place.astype(np.intp), len(_HEAT) - 2)
    share = (place - low)[..., None]
    return np.asarray(_HEAT[low] * (1 - share) + _HEAT[low + 1] * share)


def _url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def labels_url(work: Work, labels: np.ndarray, classes: int) -> str:
    """A label map as the data URL of a PNG of class ids, as `crfrnn refine` writes it."""
    file = io.BytesIO()
    label_picture(labels, classes, work.subject.palette).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def scribbles_picture(work: Work, part: Part) -> str:
    """The scribbles in a part, as the data URL of a transparent PNG; "" if there are none."""
    ids = work.scribbles[part.rows]
    if (ids == work.free).all():
        return ""
    pixels = np.zeros((*ids.shape, 4), np.uint8)
    for label in np.unique(ids[ids != work.free]):
        pixels[ids == label] = (*_rgb(work, int(label)), 230)
    file = io.BytesIO()
    picture = Image.fromarray(pixels).resize(_size(part), Image.Resampling.NEAREST)
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def color_of(work: Work, label: int) -> str:
    """The color of a class, as CSS writes it."""
    return _hex(work, label)


def _hex(work: Work, label: int) -> str:
    return _css(_rgb(work, label))


def _rgb(work: Work, label: int) -> tuple[int, int, int]:
    from crfrnn.io.palette import voc_palette

    palette = (work.subject.palette or b"") + voc_palette()[len(work.subject.palette or b"") :]
    red, green, blue = palette[3 * (label % 256) : 3 * (label % 256) + 3]
    return (red, green, blue) if red or green or blue else (235, 235, 235)  # as it is drawn


def _css(color: Any) -> str:
    red, green, blue = (int(part) for part in color)
    return f"#{red:02x}{green:02x}{blue:02x}"
