"""Reading files, and writing them atomically: a file is complete, or it is not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from .palette import voc_palette

#: A picture of Pillow, `PIL.Image.Image`. Pillow is imported when a picture is read or written.
Picture = Any

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

#: A file that is being written is called `.NAME.<8 hex digits>.part`, next to its target.
PART_SUFFIX = ".part"

#: Pillow's modes of 16-bit and 32-bit gray.
_DEEP_GRAY = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def open_image(path: Path) -> Picture:
    """Read and decode an image; every error names the file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected an image, but it is {_absence(path)}; check the path"
        )
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
        return image
    except Exception as error:  # a broken file makes Pillow raise almost anything
        raise ValueError(
            f"{path}: not a readable image: {describe(error)}; replace the file"
        ) from error


def read_image(path: Path, *, apply_exif: bool = False) -> np.ndarray:
    """Read a photograph as RGB on 0..255.

    The image may have any mode that Pillow converts to RGB: gray, palette, alpha (dropped), CMYK.
    16-bit gray is scaled to 0..255 and stays floating point.

    Args:
        path: the file.
        apply_exif: rotate the pixels as the EXIF orientation says. Off by default: Pillow ignores
            the orientation, so most networks saw the stored pixels, and their scores lie on these.

    Returns:
        (H, W, 3) uint8; float32 for 16-bit gray.
    """
    image = open_image(path)
    if apply_exif:
        from PIL import ImageOps

        image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP_GRAY:
        return _deep_gray(np.asarray(image).astype(np.int64), path)
    if image.mode == "F":
        raise ValueError(
            f"{path}: the range of a floating-point image is unknown; save it with 8 or 16 bits"
        )
    return np.array(image.convert("RGB"))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz` by name, or the array of a `.npy` by the name "array"."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a NumPy file, but it is {_absence(path)}; check the path"
        )
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return {"array": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # a broken file makes NumPy and zipfile raise almost anything
        raise ValueError(f"{path}: not a readable NumPy file ({describe(error)})") from error


def _deep_gray(values: np.ndarray, path: Path) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"{path}: gray values must fit 16 bits; got {values.min()}..{values.max()}. "
            "Rescale the image to 8 or 16 bits."
        )
    gray = (values / 257).astype(np.float32)  # 65535 becomes 255
    return np.repeat(gray[..., None], 3, axis=2)


def write_labels(
    path: Path, labels: np.ndarray, *, classes: int, palette: bytes | None = None
) -> None:
    """Write a label map as a PNG: in `palette` (VOC's by default), or as 16-bit gray.

    Args:
        path: the PNG.
        labels: (H, W) class ids.
        classes: number of classes; above 256, which no palette holds, the PNG is 16-bit gray.
        palette: RGB triples, at most 256.
    """
    if classes > 65536:
        raise ValueError(f"a label PNG holds at most 65536 classes; got {classes}")
    from PIL import Image

    if classes > 256:
        image = Image.fromarray(labels.astype(np.uint16))
    else:
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(voc_palette() if palette is None else palette)
    write_image(path, image)


def write_image(path: Path, image: Picture) -> None:
    """Write an image atomically, in the format that the suffix names."""
    from PIL import Image

    kind = Image.registered_extensions()[path.suffix.lower()]
    with replacing(path) as file:
        image.save(file, format=kind)


def write_array(path: Path, values: np.ndarray) -> None:
    """Write a `.npy` file atomically."""
    with replacing(path) as file:
        np.save(file, values, allow_pickle=False)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that replaces `path` only once it is complete and on disk.

    The file lies in the same folder, so that one atomic step moves it. After any failure, also
    Ctrl-C, it is removed and `path` is as before. A system error, such as a full disk, names
    `path`.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(part)):
            error.filename, error.filename2 = str(path), None
        raise


def require_writable(path: Path) -> None:
    """Raise if `path` cannot be written; call this before any long work."""
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected the name of a file to write; got a folder")
    if not path.parent.is_dir():
        raise NotADirectoryError(
            f"{path}: cannot write this file because {path.parent} is {_absence(path.parent)}; "
            "create it first, or choose another path"
        )
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
    try:
        probe.touch(exist_ok=False)
    except OSError as error:
        raise PermissionError(f"{path}: cannot write this file ({describe(error)})") from error
    probe.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"{folder}: cannot create this folder ({describe(error)})") from error


def describe(error: BaseException) -> str:
    """Return the message of an exception, on one line and without its errno."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return " ".join(text.split())


def shorten(names: Sequence[object], most: int = 3) -> str:
    """Spell out the first few names, and count the others."""
    rest = len(names) - most
    return ", ".join(map(str, names[:most])) + (f" and {rest} more" if rest > 0 else "")


def _absence(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    return "not a folder" if path.exists() else "missing"
