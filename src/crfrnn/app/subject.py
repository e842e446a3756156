"""Opening what a person looks at: a photograph, its scores and its true mask, within limits."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn.data import MaskedImages
from crfrnn.data.masked_images import Entry
from crfrnn.demo import READING, photograph, scores_file
from crfrnn.io.files import read_image
from crfrnn.io.options import DEFAULTS, ReadOptions
from crfrnn.io.palette import VOC_CLASSES
from crfrnn.io.scores import ARRAY_SUFFIXES, Scores, read_scores

#: More pixels are not opened: the page should answer at once.
MOST_PIXELS = 16_000_000

#: Larger files are not taken, in bytes.
MOST_BYTES = 512 * 2**20

#: More numbers than this, classes times pixels, are not opened.
MOST_NUMBERS = 400_000_000


@dataclass(frozen=True)
class Source:
    """Where a subject came from, for the command and the code that repeat the result.

    Attributes:
        image: the photograph's path, or the name of an uploaded file.
        scores: likewise.
        reading: how the scores were read.
    """

    image: str
    scores: str
    reading: ReadOptions = DEFAULTS

    def words(self) -> tuple[str, ...]:
        """The options of `crfrnn refine` on how to read the scores."""
        words: list[str] = []
        for name, value in self._given().items():
            flag = f"--{name.replace('_', '-')}"
            if name == "class_axis":
                words.append(f"--channels-{value}")
            elif name == "canvas":
                words += [flag, f"{value[1]}x{value[0]}"]
            else:
                words += [flag] if value is True else [flag, str(value)]
        return tuple(words)

    def code(self) -> str:
        """The same, as arguments of `ReadOptions`."""
        return ", ".join(f"{name}={value!r}" for name, value in self._given().items())

    def _given(self) -> dict[str, Any]:
        """The options of `reading` that are not at their default."""
        values = {field.name: getattr(self.reading, field.name) for field in fields(ReadOptions)}
        return {n: value for n, value in values.items() if value != getattr(DEFAULTS, n)}


@dataclass(frozen=True, eq=False)
class Subject:
    """A photograph and its scores.

    Attributes:
        name: what the page calls it.
        image: (H, W, 3) on 0..255, as the CRF sees it.
        kind: "logits", "probs" or "labels", the argument of `refine` that takes the scores.
        values: the scores.
        source: the files, if there are any.
        classes: the names of the classes.
        palette: RGB triples of the labels, if the scores had them.
        notes: what the reader had to guess.
    """

    name: str
    image: np.ndarray
    kind: str
    values: np.ndarray
    source: Source | None = None
    classes: tuple[str, ...] = ()
    palette: bytes | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def photo(self) -> np.ndarray:
        """The photograph to draw on, (H, W, 3) uint8."""
        if self.image.dtype == np.uint8:
            return self.image
        return np.asarray(np.rint(np.clip(self.image, 0, 255)), np.uint8)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (int(self.image.shape[0]), int(self.image.shape[1]))


def open_files(
    image: Path,
    scores: Path,
    *,
    reading: ReadOptions = DEFAULTS,
    names: tuple[str, str] | None = None,
) -> Subject:
    """Open a photograph and its scores.

    Args:
        image: the file of the photograph.
        scores: the file of its scores.
        reading: how to read both.
        names: what to call the files in the command; default their paths.

    Raises:
        ValueError: a file cannot be read, is too large, or does not fit the other.
    """
    source = Source(*(names or (str(image), str(scores))), reading)
    photo = read_photograph(image, apply_exif=reading.apply_exif)
    return _read(photo, scores, source, Path(source.image).stem)


def read_photograph(path: Path, *, apply_exif: bool = False) -> np.ndarray:
    """Read a photograph, (H, W, 3) on 0..255, unless it is too large for the page."""
    _check_picture(path)
    photo: np.ndarray = read_image(path, apply_exif=apply_exif)
    return photo


def open_demo(name: str) -> Subject:
    """Open one of the photographs of `crfrnn demo`; they come with scikit-image."""
    photo = photograph(name)  # raises where scikit-image is missing
    path = Path(str(files("skimage") / "data" / f"{name}.png"))
    with scores_file(name) as scores:
        return _read(photo, scores, Source(str(path), str(scores), READING), name)


def open_mask(path: Path, subject: Subject, num_classes: int) -> np.ndarray:
    """Read a true mask as `crfrnn evaluate --data folder` does: (H, W) ids, 255 for void.

    Raises:
        ValueError: it is not a mask of this photograph's size and classes.
    """
    _check_picture(path)
    label = MaskedImages([Entry(path.stem, path, path)], num_classes).label(0)
    checked_truth(label, subject, path.name)
    if set(np.unique(label)) <= {0, 255} and (label == 255).any():
        raise ValueError(
            f"{path.name}: the mask holds only 0 and 255, and 255 means unknown, so nothing is "
            "left to compare. Save class ids: 1 where the object is, 0 elsewhere"
        )
    return label


def checked_truth(label: np.ndarray, subject: Subject, name: str = "truth") -> np.ndarray:
    """Return true labels; raise unless they have the size of the photograph."""
    if label.shape != subject.size:
        shape = "x".join(map(str, reversed(label.shape)))
        raise ValueError(
            f"{name}: the mask is {shape} and the photograph {subject.size[1]}x{subject.size[0]} "
            "(width x height); they must have the same size"
        )
    return label


def of_arrays(
    image: np.ndarray, kind: str, values: np.ndarray, classes: Sequence[str] = ()
) -> Subject:
    """Make a subject from arrays: an image (H, W, 3), and scores (C, H, W) or labels (H, W)."""
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] != 3:
        image = np.moveaxis(image, 0, -1)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be (H, W, 3), (3, H, W) or (H, W); got {image.shape}")
    _check_size("the photograph", image.shape[1], image.shape[0])
    return Subject(
        "your arrays", np.ascontiguousarray(image), kind, np.asarray(values), classes=tuple(classes)
    )


def _read(photo: np.ndarray, path: Path, source: Source, name: str) -> Subject:
    size = (photo.shape[0], photo.shape[1])
    if path.suffix.lower() in ARRAY_SUFFIXES:
        _check_arrays(path, size)
    else:
        _check_picture(path)
    given: Scores = read_scores(path, size, source.reading)
    counted = 0 if given.kind == "labels" else len(given.values)
    return Subject(
        name,
        photo,
        given.kind,
        given.values,
        source,
        VOC_CLASSES if counted == len(VOC_CLASSES) else (),
        given.palette,
        tuple(
            str(note).replace("give --kind", "start the page with --kind") for note in given.notes
        ),
    )


def _check_picture(path: Path) -> None:
    """Raise if a picture is too large, before its pixels are decoded."""
    from PIL import Image

    if not path.is_file():
        return  # the reader has a message for it
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        width, height = Image.MAX_IMAGE_PIXELS or MOST_PIXELS, 2
    except Exception:  # broken: the reader says how
        return
    _check_size(path.name, width, height)


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{name}: the page opens up to {MOST_PIXELS / 1e6:.0f} megapixels; got "
            f"{width * height / 1e6:.0f}. Make photograph and scores smaller to choose parameters, "
            "and refine the original with the command"
        )


def _check_arrays(path: Path, size: tuple[int, int]) -> None:
    """Raise if arrays are too large, before they are unpacked or resized."""
    shapes = []
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    with archive.open(entry) as file:
                        shapes.append(_shape(file))
        else:
            with path.open("rb") as file:
                shapes.append(_shape(file))
    except Exception:  # broken: the reader says how
        return
    for shape in shapes:
        classes = min(shape[0], shape[-1]) if len(shape) > 2 else 1
        numbers = max(int(np.prod(shape, dtype=object)), classes * size[0] * size[1])
        if numbers > MOST_NUMBERS:
            raise ValueError(
                f"{path.name}: the page opens up to {MOST_NUMBERS / 1e6:.0f} million scores; got "
                f"{numbers / 1e6:.0f}. Make photograph and scores smaller to choose parameters"
            )


def _shape(file: object) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
    reader = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, _, _ = reader(file)  # type: ignore[arg-type]
    return shape
