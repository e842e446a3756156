"""How files are read: the options of every reader, defined once for Python and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from crfrnn import _checks

#: Height and width in pixels.
Size = tuple[int, int]
Kind = Literal["auto", "logits", "probs", "labels", "mask"]
ClassAxis = Literal["auto", "first", "last"]


@dataclass(frozen=True)
class Option:
    """What a user is told about an option; its name, type and default are those of its field.

    Attributes:
        help: one sentence for `--help`; where it says nothing of the default, that is added.
        metavar: what the help calls the value.
        choices: all values, if they are few.
        about: "scores": how to read them; "crf": how to refine them.
        python_only: why the command line has no such option.
    """

    help: str = ""
    metavar: str | None = None
    choices: Sequence[str] = ()
    about: Literal["scores", "crf"] = "scores"
    python_only: str = ""


#: A mask gets it when it is read, a label when it is refined: both definitions have it.
Confidence = Annotated[
    float,
    Option(
        "probability that a label, or a pixel of a mask of only 0 and 255, is right", metavar="P"
    ),
]
CONFIDENCE = 0.7


@dataclass(frozen=True)
class ReadOptions:
    """How a photograph and the scores of it are read.

    Attributes:
        kind: what the scores are; "auto" guesses, and a note says how.
        class_axis: see `score_grid.classes_first`.
        canvas: height and width of the padded canvas that the scores cover, with the image in its
            top left corner; None if they cover the image itself.
        align_corners: whether the centers of the corner cells lie on the centers of the corner
            pixels (as in TensorFlow's DeepLab), or, as in PyTorch's default, the outer edges meet.
        apply_exif: see `files.read_image`.
        confidence: probability that a mask of nothing but 0 and 255 is right: no neighbor could
            move a certain pixel.

    Example:
        >>> from crfrnn.io.options import ReadOptions
        >>> ReadOptions(canvas=(513, 513), align_corners=True).kind
        'auto'
    """

    kind: Annotated[
        Kind,
        Option(
            "what SCORES holds; auto (default) guesses and says so on stderr: floats that sum to "
            "one are probs, others logits; palette images are labels; 8-bit gray is labels if all "
            "values are below 64 or 255, else a mask",
            choices=get_args(Kind),
        ),
    ] = "auto"
    class_axis: Annotated[
        ClassAxis,
        Option(
            "the {} axis of SCORES holds the classes (default: the axis that leaves the size of "
            "the image, else the smaller of the first and the last)",
            choices=get_args(ClassAxis),
        ),
    ] = "auto"
    canvas: Annotated[
        Size | None,
        Option(
            "the network saw a padded canvas of this size (or side), the image at its top left",
            metavar="WxH",
        ),
    ] = None
    align_corners: Annotated[
        bool,
        Option("upsample so that corner cells lie on corner pixels (TensorFlow's DeepLab)"),
    ] = False
    apply_exif: Annotated[
        bool,
        Option(
            "turn IMAGE as its EXIF orientation says; default: the pixels as stored, since that "
            "is what networks are fed by Pillow"
        ),
    ] = False
    confidence: Confidence = CONFIDENCE

    def __post_init__(self) -> None:
        """Check what can be checked without a file."""
        _checks.one_of("kind", self.kind, get_args(Kind))
        _checks.one_of("class_axis", self.class_axis, get_args(ClassAxis))
        for side in self.canvas or ():
            _checks.count("canvas", side, least=1)

    def covered(self, size: Size) -> Size:
        """Height and width that the scores of an image of `size` cover."""
        return size if self.canvas is None else self.canvas


#: What readers do unless they are asked for something else.
DEFAULTS = ReadOptions()
