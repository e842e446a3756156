"""Photographs and their masks: the common form of all data sets, however they lie on disk."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crfrnn._arrays import Array
from crfrnn._extras import require_torch
from crfrnn.io.files import Picture, open_image, read_image, shorten

#: The label of pixels that count neither in a loss nor in a score.
IGNORE = 255


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


class MaskedImages:
    """A data set of photographs and masks, read from files on demand.

    Its samples hold tensors, as torch's `DataLoader` expects of a data set. `in_numpy` gives a data
    set whose samples hold NumPy arrays, which needs no torch.

    Args:
        entries: the files; all must exist.
        num_classes: C; class ids are 0 .. C - 1.
        classes: their names, if known.
        decode: turns an opened mask, a picture of Pillow, into integer ids (H, W); default is the
            pixel values.
        ignore: ids that mean `IGNORE`, besides 255.
        tensors: whether the samples hold tensors; else they hold arrays.

    Attributes:
        names: the names of the samples, in order.

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
        decode: Callable[[Picture], np.ndarray] = np.asarray,
        ignore: Sequence[int] = (),
        tensors: bool = True,
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
        pixels = read_image(self.entries[index].image)
        return np.moveaxis(np.rint(pixels).astype(np.uint8), 2, 0)

    def label(self, index: int) -> np.ndarray:
        """Read the mask of one sample: (H, W) int64."""
        path = self.entries[index].mask
        try:
            ids: np.ndarray = np.asarray(self._decode(open_image(path)))
        except ValueError as error:
            text = str(error)
            raise ValueError(text if str(path) in text else f"{path}: {text}") from error
        if ids.ndim != 2:
            raise ValueError(
                f"{path}: expected class ids in one channel; got shape {ids.shape}. For colors, "
                "give a label map that assigns a class to each color"
            )
        # Signed and wide before the comparison: `decode` may return 8-bit ids, or negative ones.
        ids = np.array(ids, dtype=np.int64)
        ids[np.isin(ids, self._ignore)] = IGNORE
        wrong = np.unique(ids[(ids != IGNORE) & ((ids < 0) | (ids >= self.num_classes))])
        if wrong.size:
            raise ValueError(
                f"{path}: ids must be 0..{self.num_classes - 1} or {IGNORE} (ignore); got "
                f"{shorten(wrong.tolist())}. Is num_classes right?"
            )
        return ids

    def select(self, indices: Sequence[int]) -> MaskedImages:
        """Return a data set of the samples at `indices`."""
        chosen = [self.entries[index] for index in indices]
        return MaskedImages(
            chosen,
            self.num_classes,
            classes=self.classes,
            decode=self._decode,
            ignore=self._ignore,
            tensors=self.tensors,
        )


def read_list(path: Path) -> list[str]:
    """Read the first word of each line of a text file; empty lines are skipped."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a text file with one name per line, found none")
    names = [
        line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.split()
    ]
    if not names:
        raise ValueError(f"{path}: expected one name per line; the list is empty")
    return names


def require_folder(path: Path, what: str) -> Path:
    """Return a folder, or raise if it is not there."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: expected {what}, found no such folder")
    return path
