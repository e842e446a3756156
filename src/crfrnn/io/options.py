"""The options for reading files, defined once for Python and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from crfrnn import _checks

#: Height and width in pixels.
Size = tuple[int, int]
Kind = Literal["auto", "logits", "probs", "energy", "labels", "mask", "masks"]
ClassAxis = Literal["auto", "first", "last"]


@dataclass(frozen=True)
class Option:
    """The description of an option; its name, type and default are those of its field.

    Attributes:
        help: one sentence for `--help`; the default is appended if the sentence does not give it.
        metavar: what the help calls the value.
        choices: all values, if there are few.
        about: "scores" if it says how to read them, "crf" if it says how to refine them.
        python_only: why the command line lacks the option.
    """

    help: str = ""
    metavar: str | None = None
    choices: Sequence[str] = ()
    about: Literal["scores", "crf"] = "scores"
    python_only: str = ""


#: Used for masks when they are read, and for labels when they are refined.
Confidence = Annotated[
    float,
    Option(
        "how certain SCORES are: probability that a label is right, or that a pixel is right in "
        "a mask that is nearly black and white",
        metavar="P",
    ),
]
CONFIDENCE = 0.7

#: Pillow's limit: a quarter of a gigabyte at 24 bits a pixel, twice.
MAX_PIXELS = 178_956_970


@dataclass(frozen=True)
class ReadOptions:
    """How a photograph and its scores are read.

    Attributes:
        kind: what the scores are; "auto" guesses, and a note reports the guess.
        class_axis: see `score_grid.classes_first`.
        canvas: height and width of the padded canvas that the scores cover, with the image in its
            top left corner; None if they cover the image itself.
        align_corners: True if the centers of the corner cells lie on the centers of the corner
            pixels, as in TensorFlow's DeepLab; False if the outer edges meet, PyTorch's default.
        apply_exif: see `files.read_image`.
        confidence: probability that a pixel is right, for a mask that is nearly black and white.
            It is below 1, because no neighbor could change a certain pixel.
        background: for class activation maps by class, see `pickled.class_maps`. Default 4
            (AffinityNet, Ahn & Kwak, 2018, which also uses 8 to 32).
        max_pixels: refuse larger images before they are decoded.

    Example:
        >>> from crfrnn.io.options import ReadOptions
        >>> ReadOptions(canvas=(513, 513), align_corners=True).kind
        'auto'
    """

    kind: Annotated[
        Kind,
        Option(
            "what SCORES holds. auto (default) infers the kind from the values of all files, "
            "prints it first, and stops where several kinds fit. masks: independent masks "
            "(K, H, W), each against its own background; energy: -log P. Where only 0 and 255 "
            "occur, 255 is the foreground of a mask; beside other ids, it is unknown",
            choices=get_args(Kind),
        ),
    ] = "auto"
    class_axis: Annotated[
        ClassAxis,
        Option(
            "the {} axis of SCORES holds the classes (default: the first or the last axis, "
            "whichever leaves the image's size when removed; otherwise the shorter one)",
            choices=get_args(ClassAxis),
        ),
    ] = "auto"
    canvas: Annotated[
        Size | None,
        Option(
            "size, or side, of the padded canvas that the network saw, with the image at its top "
            "left",
            metavar="WxH",
        ),
    ] = None
    align_corners: Annotated[
        bool,
        Option("upsample with corner cells on corner pixels, as in TensorFlow's DeepLab"),
    ] = False
    apply_exif: Annotated[
        bool,
        Option(
            "turn photographs as their EXIF orientation says (default: keep the pixels as stored, "
            "as Pillow gives them to networks)"
        ),
    ] = False
    confidence: Confidence = CONFIDENCE
    background: Annotated[
        float,
        Option(
            "dictionaries of class maps: the score of the background is (1 - largest map)^A. Give "
            "0 if the background has its own map, under key 0",
            metavar="A",
        ),
    ] = 4.0
    max_pixels: Annotated[
        int,
        Option(
            "refuse images of more than N pixels, which may be decompression bombs",
            metavar="N",
        ),
    ] = MAX_PIXELS

    def __post_init__(self) -> None:
        """Check what can be checked without a file."""
        _checks.one_of("kind", self.kind, get_args(Kind))
        _checks.one_of("class_axis", self.class_axis, get_args(ClassAxis))
        _checks.count("max_pixels", self.max_pixels, least=1)
        if not 0 <= self.background < 1e6:
            raise ValueError(f"background must be an exponent from 0 on; got {self.background}")
        for side in self.canvas or ():
            _checks.count("canvas", side, least=1)

    def covered(self, size: Size) -> Size:
        """Height and width that the scores of an image of `size` cover."""
        return size if self.canvas is None else self.canvas


#: The options of a reader that is given none.
DEFAULTS = ReadOptions()
