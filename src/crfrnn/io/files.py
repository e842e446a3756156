"""Reading files, and writing them atomically: a file is complete, or it is not there."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from crfrnn._guards import warn
from crfrnn._guide import GuideWarning, check_depth

from .options import MAX_PIXELS
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


def open_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read and decode an image of one page; every error names the file.

    Args:
        path: the file.
        max_pixels: refuse a larger image before it is decoded; it may be a decompression bomb.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected an image, but it is {absence(path)}; check the path"
        )
    try:
        with open_header(path) as image:
            _require_size(image.size, path, max_pixels)
            _require_one_page(image, path)
            if image.format == "TIFF" and image.tag_v2.get(274, 1) >= 5:
                image.filename = ""  # else Pillow maps gray ones to memory as if already turned
            image.load()
        return image
    except Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a broken file makes Pillow raise almost anything
        remedy = "replace the file"
        if path.suffix.lower() in (".npy", ".npz"):
            remedy = "NumPy files hold scores; give the photograph first, then its scores"
        if type(error).__name__ == "UnidentifiedImageError" and path.suffix.lower()[:4] == ".tif":
            remedy = (
                "replace the file. Of TIFFs, only those with one, three or four bands of 8 bits or "
                "one of 16 bits are read; of another, save the three bands that show the edges "
                "best as an 8-bit PNG. In Python, refine takes an array with any number of channels"
            )
        raise ValueError(f"{path}: not a readable image: {describe(error)}; {remedy}") from error


class Refused(Exception):
    """An image that could be read, but is not."""


#: Pillow's own limit is one number for the whole process; ours is checked for each image.
_PILLOWS_LIMIT = threading.Lock()


def open_header(path: Path) -> Picture:
    """Open an image without decoding it."""
    from PIL import Image

    with _PILLOWS_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def image_size(path: Path, *, apply_exif: bool = False) -> tuple[int, int]:
    """Return height and width of an image without decoding it; every error names the file."""
    try:
        with open_header(path) as image:
            width, height = image.size
            # Pillow turns TIFFs by itself.
            turned = apply_exif and image.format != "TIFF" and image.getexif().get(274, 1) >= 5
    except Exception:
        open_image(path)  # says what is wrong
        raise
    return (width, height) if turned else (height, width)


def _require_size(size: tuple[int, int], path: Path, max_pixels: int) -> None:
    pixels = size[0] * size[1]
    if pixels > max_pixels:
        raise Refused(
            f"{path}: {size[0]}x{size[1]} (width x height) are {pixels / 1e6:.0f} million pixels. "
            f"The limit is {max_pixels / 1e6:.0f} million, to guard against decompression bombs. "
            "Cut the image into tiles, or, if you trust the file and have "
            f"the memory, give --max-pixels {pixels}"
        )


def _require_one_page(image: Picture, path: Path) -> None:
    if image.format == "MPO":  # a JPEG of a camera, with smaller versions behind it
        return
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format == "TIFF":
        count = _full_pages(image, count)
    if count > 1:
        raise Refused(
            f"{path}: holds {count} pages or frames, of which only the first would be used. Save "
            "each one in its own file, for example with PIL.ImageSequence; in Python, refine "
            "takes a batch or a volume as one array"
        )


def _full_pages(image: Picture, count: int) -> int:
    """Count the pages that are no smaller versions, and no masks, of another page."""
    pages = len(_page_numbers(image, count))
    image.seek(0)
    return pages


def _page_numbers(image: Picture, count: int) -> list[int]:
    numbers = []
    for index in range(count):
        image.seek(index)
        if not int(image.tag_v2.get(254, 0)) & 0b101:
            numbers.append(index)
    return numbers


def read_pages(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray | None:
    """Read the pages (P, h, w) of a TIFF that has several of one channel and size, else None."""
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        return None
    try:
        with open_header(path) as image:
            count = getattr(image, "n_frames", 1)
            numbers = _page_numbers(image, count) if image.format == "TIFF" and count > 1 else []
            if len(numbers) < 2:
                return None
            _require_size((image.size[0], image.size[1] * len(numbers)), path, max_pixels)
            pages = []
            for number in numbers:
                image.seek(number)
                pages.append(np.array(image))
    except Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a broken file makes Pillow raise almost anything
        raise ValueError(
            f"{path}: not a readable image ({describe(error)}). If it is a raster with a band for "
            "each class, IMAGE and LABELS must be .tif files, too"
        ) from error
    if any(page.ndim != 2 or page.shape != pages[0].shape for page in pages):
        raise ValueError(
            f"{path}: its {len(pages)} pages must be maps of the same size, one per class; got "
            f"{shorten(sorted({str(page.shape) for page in pages}))}"
        )
    return np.stack(pages)


def read_image(path: Path, *, apply_exif: bool = False, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a photograph as RGB on 0..255.

    The image may have any mode that Pillow converts to RGB: gray, palette, alpha (dropped), CMYK.
    16-bit gray is scaled to 0..255 and becomes floating point. Of 16-bit colors, Pillow gives the
    upper byte. Of either, a file that uses only the lower 12 bits causes a warning.

    Args:
        path: the file.
        apply_exif: turn the pixels as the EXIF orientation says. Off by default: Pillow ignores
            the orientation, so most networks saw the stored pixels, and their scores fit these.
            A photograph with such an orientation causes a warning. A TIFF is always turned, as
            Pillow gives it.
        max_pixels: as in `open_image`.

    Returns:
        (H, W, 3) uint8; float32 for 16-bit gray.
    """
    image = open_image(path, max_pixels=max_pixels)
    if apply_exif:
        from PIL import ImageOps

        image = ImageOps.exif_transpose(image)
    else:
        _warn_of_orientation(image, path)
    if image.mode in _DEEP_GRAY:
        return _deep_gray(np.asarray(image).astype(np.int64), path)
    if image.mode == "F":
        raise ValueError(
            f"{path}: the range of a floating-point image is unknown; save it with 8 or 16 bits"
        )
    pixels = np.array(image.convert("RGB"))
    high = int(pixels.max())
    if 0 < high < 16 and _has_deep_colors(path):
        check_depth(high * 256 + 255, path.name)
    return pixels


def _has_deep_colors(path: Path) -> bool:
    """Whether a file has 16 bits per color, judged by the raw mode that Pillow decodes."""
    with open_header(path) as image:
        deep = "65535" if image.format == "PPM" else ";16"
        return any(deep in str(part[3]) for part in image.tile)


def _warn_of_orientation(image: Picture, path: Path) -> None:
    """Warn of a photograph that is stored turned or mirrored: its scores may be upright."""
    orientation = image.getexif().get(274, 1)
    if orientation not in (0, 1):
        advice = (
            "has an EXIF orientation, so viewers show it turned, but it is read as stored. If its "
            "scores or masks are turned as viewers show it, give --apply-exif (in Python "
            "apply_exif=True)"
        )
        warn(f"{path.name} {advice} (orientation {orientation})", advice, GuideWarning)


def _deep_gray(values: np.ndarray, path: Path) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"{path}: gray values must fit 16 bits; got {values.min()}..{values.max()}. "
            "Rescale the image to 8 or 16 bits."
        )
    check_depth(int(values.max()), path.name)
    gray = (values / 257).astype(np.float32)  # 65535 becomes 255
    return np.repeat(gray[..., None], 3, axis=2)


def write_labels(
    path: Path,
    labels: np.ndarray,
    *,
    classes: int,
    palette: bytes | None = None,
    note: str = "",
) -> None:
    """Write a label map as a PNG: in `palette` (VOC's by default), or as 16-bit gray.

    Args:
        path: the PNG.
        labels: (H, W) class ids.
        classes: number of classes; above 256, which no palette holds, the PNG is 16-bit gray.
        palette: RGB triples, at most 256.
        note: kept in the file, for `note_of`.
    """
    image = label_picture(labels, classes, palette)
    if not note:
        write_image(path, image)
        return
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text(_NOTE, note)
    write_image(path, image, pnginfo=chunks)


def label_picture(labels: np.ndarray, classes: int, palette: bytes | None = None) -> Picture:
    """Return a label map as a picture; see `write_labels`."""
    if classes > 65536:
        raise ValueError(f"a label PNG holds at most 65536 classes; got {classes}")
    from PIL import Image

    if classes > 256:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(palette or voc_palette())
    return image


#: The name of the note in a PNG.
_NOTE = "crfrnn"


def note_of(path: Path) -> str:
    """Return the note that `write_labels` kept in a PNG; "" if there is none."""
    try:
        with open_header(path) as image:
            return str(image.info.get(_NOTE, ""))
    except (OSError, ValueError, SyntaxError):
        return ""


def write_image(path: Path, image: Picture, **options: Any) -> None:
    """Write an image atomically, in the format that the suffix names, with options of Pillow."""
    from PIL import Image

    kind = Image.registered_extensions()[path.suffix.lower()]
    with replacing(path) as file:
        image.save(file, format=kind, **options)


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
        if isinstance(error, OSError) and error.errno is None:  # NumPy's, of a short write
            raise OSError(errno.EIO, describe(error), str(path)) from error
        if isinstance(error, OSError) and error.filename in (None, str(part)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def require_writable(path: Path) -> None:
    """Raise if `path` cannot be written; call this before any long work."""
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected the name of a file to write; got a folder")
    if not path.parent.is_dir():
        raise NotADirectoryError(
            f"{path}: cannot write this file because {path.parent} is {absence(path.parent)}; "
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


def absence(path: Path) -> str:
    """Say why a path is no file, for an error."""
    if path.is_dir():
        return "a folder"
    return "not a folder" if path.exists() else "missing"


def stem_of(name: str) -> str:
    """Return the name that files of one image share: without folders, and without a known suffix.

    Unlike `Path.stem`, it keeps what stands behind the last dot of a name that has no suffix.

    Example:
        >>> from crfrnn.io.files import stem_of
        >>> stem_of("scans/LIDC-0001_1.3.6.7"), stem_of("scans/a.PNG")
        ('LIDC-0001_1.3.6.7', 'a')
    """
    path = Path(name)
    known = path.suffix.lower() in IMAGE_SUFFIXES | {".npy", ".npz"}
    return path.stem if known else path.name
