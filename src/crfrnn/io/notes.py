"""Assumptions of a reader, for the user to confirm."""

from __future__ import annotations

from dataclasses import dataclass

from .options import Kind, Size


@dataclass(frozen=True)
class Guess:
    """The kind that was guessed for scores, and why.

    Attributes:
        kind: the kind.
        why: what the values show, for "because ...".
        firm: whether other files of the same job may not say otherwise.
    """

    kind: Kind
    why: str
    firm: bool = True

    def __str__(self) -> str:
        """Return the text without the name of the file, for a note on many files."""
        return f"read as {self.kind}, because {self.why}; if that is wrong, give --kind"

    @property
    def sentence(self) -> str:
        """The text without what differs between the files of a job."""
        return str(self)


@dataclass(frozen=True)
class Stretch:
    """Scores of `size` were stretched to the different proportions of `covered`."""

    size: Size
    covered: Size

    def __str__(self) -> str:
        """Return the text without the name of the file."""
        return (
            f"{_stretched(self.size, self.covered)}, which changes their proportions"
            f"{likely_canvas(self.size, max(self.covered))}"
        )

    @property
    def sentence(self) -> str:
        """The text without what differs between the files of a job."""
        return "scores whose proportions change when they are stretched"


@dataclass(frozen=True)
class Remainder:
    """The cells of scores do not divide the image: `padded` would be a whole number of cells."""

    size: Size
    covered: Size
    padded: Size

    def __str__(self) -> str:
        """Return the text without the name of the file."""
        height, width = self.padded
        return (
            f"{_stretched(self.size, self.covered)}, which is not a whole number of pixels per "
            f"cell. If the network saw the image padded to {spell_size(self.padded)}, labels are "
            "off by up to a stride toward the right and bottom; give the size that the network "
            f"saw: --canvas {width}x{height}"
        )

    @property
    def sentence(self) -> str:
        """The text without what differs between the files of a job."""
        return "scores whose cells do not divide the image"


@dataclass(frozen=True)
class Remark:
    """An assumption in words.

    Attributes:
        text: without the name of the file.
        sentence: the text without what differs between the files of a job.
    """

    text: str
    sentence: str

    def __str__(self) -> str:
        """Return the text without the name of the file."""
        return self.text


@dataclass(frozen=True)
class Note:
    """An assumption about a file."""

    file: str
    what: Guess | Stretch | Remainder | Remark

    def __str__(self) -> str:
        """Return the text with the name of the file."""
        return f"{self.file} {self.what}"


def _stretched(size: Size, covered: Size) -> str:
    cells, pixels = spell_size(size), spell_size(covered)
    return f"has scores of {cells} that are stretched to {pixels} pixels (height x width)"


def spell_size(size: Size) -> str:
    """Spell a size as height x width."""
    return f"{size[0]}x{size[1]}"


#: Sides of the canvases of well-known networks, by the number of cells of their scores.
_CANVASES = {60: 473, 90: 713}
_STRIDES = (4, 8, 16, 32)


def likely_canvas(cells: Size, longest: int) -> str:
    """Name the padded canvas that square scores of longer images probably come from."""
    side = canvas_side(cells, longest)
    if side is None:
        return (
            ". If the network saw a padded canvas, or an image resized to other proportions, give "
            "the canvas: --canvas WIDTHxHEIGHT"
        )
    deeplab = side == 513
    whose = ", DeepLab's" * deeplab
    corners = " (and --align-corners for TensorFlow's DeepLab)" * deeplab
    return (
        f". Square scores of an image that is not square mostly come from a padded canvas, here "
        f"probably {side}x{side}{whose}: give --canvas {side}{corners}"
    )


def canvas_side(cells: Size, longest: int) -> int | None:
    """Return the side of the canvas that square scores probably cover; None if none fits.

    Networks pad to a side of n = stride · k pixels for an even number of cells k, and of
    stride · (k - 1) + 1 for an odd one.
    """
    height, width = cells
    if height != width:
        return None
    sides = [s * height if height % 2 == 0 else s * (height - 1) + 1 for s in _STRIDES]
    sides += [_CANVASES[height]] if height in _CANVASES else []
    return min((side for side in sides if side >= longest), default=None)
