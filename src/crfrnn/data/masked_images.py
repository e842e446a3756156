"""Photographs and their masks: the common form of all data sets, however they lie on disk."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crfrnn._arrays import Array
from crfrnn._extras import require_torch
from crfrnn.io.files import (
    IMAGE_SUFFIXES,
    Picture,
    open_image,
    read_image,
    shorten,
    stem_of,
)
from crfrnn.io.label_maps import (
    VOID,
    foreground,
    is_black_and_white,
    is_lossy,
    is_nearly_binary,
    one_channel,
    refuse_lossy_ids,
)
from crfrnn.io.options import MAX_PIXELS

#: The label of pixels that count neither in a loss nor in a score.
IGNORE = VOID

#: How many masks must hold nothing but 0 and 255 before 255 is taken for the foreground.
_LOOK_AT = 64


@dataclass(frozen=True)
class Sample:
    """A photograph and its mask, as NumPy arrays or as tensors.

    Attributes:
        name: unique in its data set; file names are derived from it.
        image: (3, H, W) uint8, RGB.
        label: (H, W) int64, class ids or `IGNORE`.

    Example:
        >>> import numpy as np
        >>> from crfrnn.data import Sample
        >>> sample = Sample("a", np.zeros((3, 4, 5), np.uint8), np.zeros((4, 5), np.int64))
        >>> sample.to_torch().image.shape
        torch.Size([3, 4, 5])
    """

    name: str
    image: Array
    label: Array

    def to_torch(self) -> Sample:
        """Return the sample with tensors in place of arrays."""
        require_torch("a sample of tensors")
        import torch

        image = np.ascontiguousarray(self.image)
        return Sample(self.name, torch.from_numpy(image), torch.from_numpy(self.label))


@dataclass(frozen=True)
class Entry:
    """The files of a sample."""

    name: str
    image: Path
    mask: Path


@dataclass
class _Masks:
    """All masks of a data set, and whether they hold nothing but 0 and 255, once that matters."""

    entries: Sequence[Entry]
    black_and_white: bool | None = None


class MaskedImages:
    """A data set of photographs and masks, read from files on demand.

    Its samples hold tensors, as torch's `DataLoader` expects of a data set. `in_numpy` gives a data
    set whose samples hold NumPy arrays, which needs no torch.

    Args:
        entries: the files; all must exist.
        num_classes: C; class ids are 0 .. C - 1.
        classes: their names, if known.
        decode: turns an opened mask, a picture of Pillow, into integer ids (H, W); default is the
            pixel values. Where nothing but 0 and 255 occurs in the masks of two classes, 255 is
            class 1.
        ignore: ids that mean `IGNORE`, besides 255.
        apply_exif: turn photographs as their EXIF orientation says; see
            `crfrnn.io.files.read_image`. Masks are read as they are stored.
        tensors: whether the samples hold tensors; else they hold arrays.

    Attributes:
        names: the names of the samples, in order.
        max_pixels: larger images are refused; they may be decompression bombs.

    Raises:
        FileNotFoundError: files are missing; the message counts them and names some.
        ValueError: there is no entry, or two entries share a name.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        num_classes: int,
        *,
        classes: Sequence[str] | None = None,
        decode: Callable[[Picture], np.ndarray] = one_channel,
        ignore: Sequence[int] = (),
        tensors: bool = True,
        apply_exif: bool = False,
    ) -> None:
        if not entries:
            raise ValueError("expected at least one image; the list of entries is empty")
        if classes is not None and len(classes) != num_classes:
            raise ValueError(f"expected {num_classes} names of classes; got {len(classes)}")
        self.entries = tuple(entries)
        self.names = [entry.name for entry in entries]
        self.num_classes = num_classes
        self.classes = None if classes is None else tuple(classes)
        self._decode = decode
        self._ignore = (*ignore, IGNORE)
        self.tensors = tensors
        self.apply_exif = apply_exif
        self.max_pixels = MAX_PIXELS
        self._masks = _Masks(self.entries)
        twice = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if twice:
            raise ValueError(f"{len(twice)} names are listed twice: {shorten(twice)}")
        for kind in ("image", "mask"):
            paths = [getattr(entry, kind) for entry in entries]
            missing = [path for path in paths if not path.is_file()]
            if missing:
                raise FileNotFoundError(
                    f"{len(missing)} of {len(paths)} {kind}s are missing: {shorten(missing)}"
                )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample, as tensors or as arrays; see `read`.

        Raises:
            ImportError: it would hold tensors, and torch is not installed.
        """
        if not self.tensors:
            return self.read(index)
        require_torch("a data set of tensors (without torch, use `in_numpy`)")
        return self.read(index).to_torch()

    def in_numpy(self) -> MaskedImages:
        """Return the same data set with samples of NumPy arrays."""
        data = copy.copy(self)
        data.tensors = False
        return data

    def read(self, index: int) -> Sample:
        """Read one sample as NumPy arrays.

        Raises:
            ValueError: image and mask differ in size, or the mask holds ids without a class.
        """
        entry = self.entries[index]
        image = self.image(index)
        label = self.label(index)
        if image.shape[1:] != label.shape:
            raise ValueError(
                f"{entry.mask}: the mask is {label.shape[1]}x{label.shape[0]} and the image "
                f"{entry.image.name} {image.shape[2]}x{image.shape[1]} (width x height); they must "
                "have the same size"
            )
        return Sample(entry.name, image, label)

    def image(self, index: int) -> np.ndarray:
        """Read the photograph of one sample: (3, H, W) uint8."""
        pixels = read_image(
            self.entries[index].image, apply_exif=self.apply_exif, max_pixels=self.max_pixels
        )
        return np.moveaxis(np.rint(pixels).astype(np.uint8), 2, 0)

    def label(self, index: int) -> np.ndarray:
        """Read the mask of one sample: (H, W) int64."""
        path = self.entries[index].mask
        ids = self._ids(path)
        if self._decode is one_channel and is_black_and_white(ids):
            self._find_out(path)
        if self._masks.black_and_white and self.num_classes == 2 and _is_subset(ids):
            return foreground(ids)
        # Signed and wide before the comparison: `decode` may return 8-bit ids, or negative ones.
        ids = np.array(ids, dtype=np.int64)
        ids[np.isin(ids, self._ignore)] = IGNORE
        wrong = np.unique(ids[(ids != IGNORE) & ((ids < 0) | (ids >= self.num_classes))])
        if wrong.size:
            raise ValueError(
                f"{path}: ids must be 0..{self.num_classes - 1} or {IGNORE} (ignore); got "
                f"{shorten(wrong.tolist())}. Is the number of classes right?"
            )
        if self._masks.black_and_white and self.num_classes == 2:
            raise ValueError(
                f"{path}: holds ids besides 0 and 255, while other masks hold nothing but these "
                "two, so 255 may mean the foreground or unknown; save all masks in the same way"
            )
        return ids

    def _ids(self, path: Path) -> np.ndarray:
        """Decode a mask; a lossy one only if it is black and white."""
        try:
            picture = open_image(path, max_pixels=self.max_pixels)
            ids: np.ndarray = np.asarray(self._decode(picture))
            lossy = is_lossy(picture) and self._decode is one_channel and ids.ndim == 2
            if lossy and ids.max() > 1:
                if self.num_classes != 2 or not is_nearly_binary(ids / np.float32(255)):
                    refuse_lossy_ids()
                ids = foreground(ids) * VOID
        except ValueError as error:
            text = str(error)
            raise ValueError(text if str(path) in text else f"{path}: {text}") from error
        if ids.ndim != 2:
            raise ValueError(
                f"{path}: expected class ids in one channel; got shape {ids.shape}. For colors, "
                "give a label map that assigns a class to each color"
            )
        return ids

    def _find_out(self, path: Path) -> None:
        """Find out whether 255 is the foreground: nothing but 0 and 255 occurs in the masks.

        The first 64 masks decide. Mostly the first one shows that 255 means unknown.
        """
        if self._masks.black_and_white is not None:
            return
        first = self._masks.entries[:_LOOK_AT]
        self._masks.black_and_white = all(_is_subset(self._ids(entry.mask)) for entry in first)
        if self._masks.black_and_white and self.num_classes != 2:
            warnings.warn(
                f"{path.parent}: the masks hold nothing but 0 and 255, and 255 is ignored. If it "
                f"is the foreground, there are two classes, not {self.num_classes}",
                UserWarning,
                stacklevel=4,
            )

    def select(self, indices: Sequence[int]) -> MaskedImages:
        """Return a data set of the samples at `indices`."""
        chosen = [self.entries[index] for index in indices]
        if not chosen:
            raise ValueError("expected at least one image; the list of indices is empty")
        data = copy.copy(self)  # which shares what was found out about all masks
        data.entries = tuple(chosen)
        data.names = [entry.name for entry in chosen]
        return data


def _is_subset(ids: np.ndarray) -> bool:
    """Whether nothing but 0 and 255 occurs in a mask."""
    return bool(((ids == 0) | (ids == VOID)).all())


def read_list(path: Path, known: Collection[str] = ()) -> list[str]:
    """Read the stem that each line of a text file names; empty lines are skipped.

    A line names one with its first word, which may be a path; or as a whole, if that is among
    `known`, since names may hold spaces.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a text file with one name per line, found none")
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    names = [stem_of(line if stem_of(line) in known else line.split()[0]) for line in lines if line]
    if not names:
        raise ValueError(f"{path}: expected one name per line; the list is empty")
    return names


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder by stem; the suffix may be in capitals. PNG wins over other types."""
    paths = [
        path
        for path in sorted(folder.iterdir(), key=lambda path: (path.suffix.lower() == ".png", path))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    return {path.stem: path for path in paths}


def listed_entries(listed: Path, images: Path, masks: Path, suffix: str) -> list[Entry]:
    """Find the photographs and masks of the stems in a list.

    Args:
        listed: the list, see `read_list`.
        images: folder of the photographs.
        masks: folder of the masks.
        suffix: of photographs, to name one that is missing.
    """
    pictures, by_stem = pictures_by_stem(images), pictures_by_stem(masks)
    return [
        Entry(
            stem,
            pictures.get(stem, images / f"{stem}{suffix}"),
            by_stem.get(stem, masks / f"{stem}.png"),
        )
        for stem in read_list(listed, pictures)
    ]


def require_folder(path: Path, what: str) -> Path:
    """Return a folder, or raise if it is not there."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: expected {what}, found no such folder")
    return path
