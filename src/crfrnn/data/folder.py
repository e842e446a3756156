"""A folder of photographs and a folder of masks: ids, a palette, or colors with a label map."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crfrnn import _checks
from crfrnn.io.files import IMAGE_SUFFIXES, Picture, shorten
from crfrnn.io.label_maps import one_channel

from .masked_images import (
    IGNORE,
    Entry,
    MaskedImages,
    pictures_by_stem,
    read_list,
    require_folder,
)

#: Names in a label map that mean "ignore", in both spellings.
_VOID_NAMES = ("ignore", "unlabeled", "unlabelled", "void")


def open_folder(
    images: str | Path,
    masks: str | Path,
    *,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    label_map: str | Path | None = None,
    ids: str | Path | None = None,
    ignore: Sequence[int] = (),
    apply_exif: bool = False,
) -> MaskedImages:
    """Open photographs and masks, matched by stem; a mask may also be named `<stem>_mask`.

    Args:
        images: folder of photographs.
        masks: folder of masks: gray or palette images whose values are class ids, or RGB images
            with a label map. Beside other ids, 255 means "ignore"; where nothing but 0 and 255
            occurs and there are two classes, 255 is class 1.
        num_classes: C; default is the number of names in `classes` or in the label map.
        classes: names of the classes.
        label_map: a text file for masks in colors, with a line `R G B name` for each class, in the
            order of the ids. The names void, unlabeled and ignore mark pixels to ignore; # starts
            a comment.
        ids: a text file with one stem per line, to open part of the folder; default is all of it.
        ignore: ids that mean "ignore", besides 255.
        apply_exif: turn photographs as their EXIF orientation says; default: as stored.

    Raises:
        ValueError: the number of classes is unknown, or no photograph has a mask.

    Example:
        >>> from crfrnn.data import open_folder
        >>> data = open_folder("photos", "masks", num_classes=2)  # doctest: +SKIP
    """
    pictures = pictures_by_stem(require_folder(Path(images), "a folder of photographs"))
    masks_by_stem = pictures_by_stem(require_folder(Path(masks), "a folder of masks"))
    decode: Callable[[Picture], np.ndarray] = one_channel
    if label_map is not None:
        colors = read_label_map(label_map)
        classes = colors.names if classes is None else classes
        decode = colors.decode
    if num_classes is None:
        if classes is None:
            raise ValueError(
                "the number of classes is unknown: give num_classes, classes or a label map"
            )
        num_classes = len(classes)
    _checks.count("num_classes", num_classes, least=1)
    stems = sorted(pictures) if ids is None else read_list(Path(ids), pictures)
    if not stems:
        raise ValueError(f"{images}: expected photographs, found no image in this folder")
    entries = [
        Entry(
            stem,
            pictures.get(stem, Path(images) / f"{stem}.jpg"),
            masks_by_stem.get(stem, masks_by_stem.get(f"{stem}_mask", Path(masks) / f"{stem}.png")),
        )
        for stem in stems
    ]
    data = MaskedImages(
        entries, num_classes, classes=classes, decode=decode, ignore=ignore, apply_exif=apply_exif
    )
    if ids is None:
        used = {path for entry in entries for path in (entry.image, entry.mask)}
        _warn_of_unused(Path(images), used)
        _warn_of_unused(Path(masks), used)
    return data


@dataclass(frozen=True)
class LabelMap:
    """The colors of masks and the classes that they mean.

    Attributes:
        names: of the classes, by id.
        ids: the id of each color, 0xRRGGBB.
    """

    names: tuple[str, ...]
    ids: dict[int, int]

    def decode(self, image: Picture) -> np.ndarray:
        """Turn colors into ids (H, W)."""
        rgb = np.asarray(image.convert("RGB")).astype(np.int64)
        # A color as one integer 0xRRGGBB: the table is looked up once per color, not per pixel.
        codes = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
        present, where = np.unique(codes, return_inverse=True)
        unknown = [f"{code:06x}" for code in present.tolist() if code not in self.ids]
        if unknown:
            raise ValueError(
                f"{len(unknown)} colors are not in the label map: {shorten(unknown)} (RRGGBB). "
                "Lossy formats such as JPEG change colors; save masks as PNG"
            )
        table = np.array([self.ids[code] for code in present.tolist()])
        return np.asarray(table[where].reshape(codes.shape))


def read_label_map(path: str | Path) -> LabelMap:
    """Read a label map; see `open_folder`.

    Raises:
        ValueError: a line is not `R G B name`, or a color is listed twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a label map, found none")
    names: list[str] = []
    ids: dict[int, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split("#")[0].split(maxsplit=3)
        if not words:
            continue
        channels = [int(word) if word.isdecimal() else -1 for word in words[:3]]
        if len(words) != 4 or not all(0 <= channel <= 255 for channel in channels):
            raise ValueError(
                f"{path}:{number}: expected R G B name, each color 0..255; got {line!r}"
            )
        code = (channels[0] << 16) | (channels[1] << 8) | channels[2]
        if code in ids:
            raise ValueError(f"{path}:{number}: the color {code:06x} is listed twice")
        name = words[3].strip()
        if name.lower() in _VOID_NAMES:
            ids[code] = IGNORE
        else:
            ids[code] = len(names)
            names.append(name)
    if not names:
        raise ValueError(f"{path}: expected lines R G B name; the label map names no class")
    return LabelMap(tuple(names), ids)


def _pictures(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]


def _warn_of_unused(folder: Path, used: Collection[Path]) -> None:
    """Warn of images that are not used: without a partner, or with the stem of another file."""
    names = [path.name for path in _pictures(folder) if path not in used]
    if names:
        warnings.warn(
            f"{folder}: {len(names)} pictures are not used, because they have no partner of the "
            f"same name or share their name with another file: {shorten(names)}",
            UserWarning,
            stacklevel=3,
        )
