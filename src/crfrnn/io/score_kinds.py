"""Telling logits, probabilities, energies, labels and masks apart, and checking each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .label_maps import VOID, foreground, is_black_and_white, is_nearly_binary, refuse_lossy_ids
from .notes import Guess, spell_size
from .options import Kind, Size

#: Ids below this, or void, are labels beyond doubt. Higher ones may be the gray of a soft mask.
_PLAIN_IDS = 64
#: With no more values than this, a map with high ones holds ids; with more than _SOFT, gray.
_FEW, _SOFT = 32, 100
#: From here on, the largest id stands for more classes than anybody means.
MANY_CLASSES = 1024
#: How far a value may lie outside 0..1, after resizing, and a sum beside one, after rounding.
_DIP = 0.02
_SUM_TOLERANCE = 0.02

_ASK = "The values alone cannot tell; give {}"


class Ambiguous(ValueError):
    """The values fit several kinds; the message names the options that say which."""


def guess_kind(values: np.ndarray, *, lossy: bool = False) -> Guess:
    """Guess the kind of an array from its type, axes and values.

    Args:
        values: (h, w), or (C, h, w) with the classes first.
        lossy: whether the file's format changes values, as JPEG does.

    Raises:
        Ambiguous: the values fit several kinds, with different results.
    """
    if values.ndim == 3:
        return _guess_maps(values)
    if values.dtype.kind == "b":
        return Guess("mask", "it is Boolean")
    if lossy:
        return _guess_lossy(values)
    if values.dtype.kind != "f":
        return _guess_ids(values)
    low, high = float(values.min()), float(values.max())
    if (values == np.rint(values)).all():
        return _guess_ids(values)
    if low < -_DIP:
        return Guess("logits", "it has negative values")
    if high <= 1 + _DIP:
        return Guess("probs", "all values lie in 0..1")
    raise Ambiguous(
        f"one map of floats in {low:.3g}..{high:.3g}: a soft mask on 0..255, or scores? "
        + _ASK.format("--kind mask, --kind logits or --kind energy")
    )


def _guess_maps(values: np.ndarray) -> Guess:
    """Guess the kind of several maps (C, h, w)."""
    if values.dtype.kind == "b" or (values.dtype.kind != "f" and is_black_and_white(values)):
        if (np.count_nonzero(values, axis=0) == 1).all():
            raise Ambiguous(
                f"{len(values)} maps, of which exactly one is set at each pixel: classes, or masks "
                "that happen not to overlap? Give --kind masks, or save class ids: "
                "np.argmax(maps, axis=0)"
            )
        return Guess("masks", "it holds several maps of two values")
    if values.dtype.kind != "f":
        if values.dtype == np.uint8 and _sums_to(values, 255):
            return Guess("probs", "the classes sum to 255")
        raise Ambiguous(
            f"{len(values)} maps of integers ({values.dtype}): masks on 0..255, or quantized "
            "logits? Give --kind masks; or dequantize the logits, (x - zero) * scale, or store "
            "`logits`, `scale` and `zero` in an .npz"
        )
    low, high = float(values.min()), float(values.max())
    if low < -_DIP:
        return Guess("logits", "it has negative values")
    if high <= 1 + _DIP:
        if _sums_to(values, 1):
            return Guess("probs", "no value is negative and the classes sum to one")
        total = values.sum(axis=0, dtype=np.float64)
        raise Ambiguous(
            f"its values lie in 0..1, but the classes sum to {total.min():.3g}..{total.max():.3g}: "
            "probabilities that are not normalized, masks that may overlap, or logits? Divide "
            "probabilities by their sum over the classes and save them again; or give --kind masks "
            "or --kind logits"
        )
    if high <= 255 and _sums_to(values, 255):
        return Guess("probs", "no value is negative and the classes sum to 255")
    if _sums_to(np.exp(-values), 1):
        return Guess("energy", "the classes sum to one under exp(-x)")
    raise Ambiguous(
        f"no value is negative, the largest is {high:.3g}, and the classes sum neither to one nor "
        "to 255: logits (higher is likelier) or energies (lower is likelier)? "
        + _ASK.format("--kind logits or --kind energy")
    )


def _guess_ids(values: np.ndarray) -> Guess:
    """Guess whether integers (h, w), also those that were saved as floats, are ids or gray."""
    present = np.unique(values)
    low, high = present[0], present[-1]
    if high == 0 == low:
        return Guess("labels", "all values are 0", firm=False)
    if high == VOID == low:
        return Guess("labels", "all values are 255, for unknown", firm=False)
    if is_black_and_white(present):
        return Guess("mask", "only 0 and 255 occur", firm=False)
    if present.size == 2 and low == 0 and high == 65535:
        return Guess("mask", "only 0 and 65535 occur")
    if high >= MANY_CLASSES:
        raise Ambiguous(
            f"values up to {high:.0f} in one map: a mask of 16 bits, or ids of {high + 1:.0f} "
            "classes? Give --kind mask, or renumber the ids; if there are that many classes, give "
            "--kind labels --classes N"
        )
    if (present[present != VOID] < _PLAIN_IDS).all():
        return Guess("labels", f"all values are below {_PLAIN_IDS}, or 255 for unknown")
    if high <= 255 and is_nearly_binary(values / np.float32(255)):
        return Guess("mask", "almost all values are near 0 or 255")
    if 2 < present.size <= _FEW or high > 255:
        return Guess("labels", f"it holds only {present.size} different integers")
    if present.size >= _SOFT:
        return Guess("mask", f"it holds {present.size} shades of gray")
    raise Ambiguous(
        f"{present.size} different integers up to {high:.0f} in one map: class ids, or the gray of "
        "a soft mask? " + _ASK.format("--kind labels or --kind mask")
    )


def _guess_lossy(values: np.ndarray) -> Guess:
    if values.max() <= 1:
        return Guess("labels", "all values are 0", firm=False)
    if is_nearly_binary(values / np.float32(255)):
        return Guess("mask", "almost all values are near 0 or 255")
    if values.max() > 200 and np.unique(values).size >= _SOFT:
        return Guess("mask", "it holds many shades of gray")
    refuse_lossy_ids()
    raise AssertionError


def _sums_to(values: np.ndarray, one: float) -> bool:
    """Whether the classes sum to `one`, up to the rounding of each."""
    total = values.sum(axis=0, dtype=np.float64) / one
    return bool((np.abs(total - 1) <= _tolerance(values, one)).all())


def _tolerance(values: np.ndarray, one: float) -> float:
    """How far a sum may be beside one: half precision rounds, and so do 8 bits, once per class."""
    steps = values * np.float32(255 / one)
    in_bytes = values.dtype == np.uint8 or bool((np.abs(steps - np.rint(steps)) < 1e-3).all())
    return max(_SUM_TOLERANCE, min(len(values) / 255, 0.5) if in_bytes else 0.0)


def as_labels(values: np.ndarray, size: Size, *, lossy: bool = False) -> np.ndarray:
    """Return labels (H, W) as int64; raise unless they are integers of the size of the image."""
    if values.dtype.kind == "f":
        if not (values == np.rint(values)).all():
            raise TypeError(
                f"labels must be integers; got {values.dtype} with fractions. Give the right "
                "--kind: logits, probs or mask"
            )
        values = values.astype(np.int64)
    if values.ndim != 2:
        raise ValueError(f"labels must have two axes, (H, W); got shape {values.shape}")
    if values.shape != size:
        raise ValueError(
            f"labels must have the size of the image, {spell_size(size)} (height x width); got "
            f"{spell_size(values.shape)}. Resize them by nearest neighbor."
        )
    if lossy and values.max() > 1:
        if not is_nearly_binary(values / np.float32(255)):
            refuse_lossy_ids()
        return foreground(values)
    return values.astype(np.int64)


def as_maps(values: np.ndarray, kind: Kind, confidence: float) -> np.ndarray:
    """Return logits or probabilities (C, h, w) as float32; a mask becomes the latter.

    Energies become logits. Independent masks keep their type, unless they are floats.
    """
    if kind == "masks":
        return _masks(values)
    if kind == "mask":
        values = MaskScale.of(values)(values, confidence)
    elif kind == "probs":
        values = _probs(values)
    elif values.dtype.kind != "f":
        raise TypeError(
            f"{kind} must be floating point; got {values.dtype}. Dequantize them (or store "
            "`logits`, `scale` and `zero` in an .npz), or give --kind labels, mask or masks"
        )
    elif kind == "energy":
        if values.ndim == 2:
            raise ValueError("energy must have at least two classes (C, h, w); got one map")
        values = -values
    return np.asarray(values[None] if values.ndim == 2 else values, dtype=np.float32)


def _probs(values: np.ndarray) -> np.ndarray:
    """Return probabilities on 0..1; undo the rounding of their sums."""
    if values.dtype.kind != "f" and values.dtype != np.uint8:
        raise TypeError(
            f"probs must be floating point, or bytes on 0..255; got {values.dtype}. Give the right "
            "--kind, such as labels or mask"
        )
    one = 255.0 if values.dtype == np.uint8 or values.max() > 1.5 else 1.0
    if values.ndim == 2 and values.dtype == np.uint8:
        raise TypeError(
            "probs must be floating point; got one map of uint8. Give --kind labels or --kind mask"
        )
    if values.ndim == 3 and values.min() >= -_DIP * one and _sums_to(values, one):
        values = values.astype(np.float32).clip(0, None)
        return np.asarray(values / values.sum(axis=0))
    if values.dtype.kind == "f" and values.min() >= -_DIP and values.max() <= 1 + _DIP:
        return values.clip(0, 1)
    return values  # `refine` says what is wrong


@dataclass(frozen=True)
class MaskScale:
    """What the values of a mask mean; the parts of a large one share it.

    Attributes:
        top: the value of the foreground: 1, 255 or 65535.
        binary: whether almost all values are 0 or `top`, so that they are right with `confidence`;
            other values are probabilities.

    Example:
        >>> import numpy as np
        >>> from crfrnn.io.score_kinds import MaskScale
        >>> scale = MaskScale.of(np.array([[0, 0, 255]], np.uint8))
        >>> scale, scale(np.array([[255]], np.uint8), 0.75).tolist()
        (MaskScale(top=255, binary=True), [[0.75]])
    """

    top: int
    binary: bool

    @classmethod
    def of(cls, values: np.ndarray) -> MaskScale:
        """Find the scale of a whole mask (h, w).

        Raises:
            ValueError: it has several channels, or values that are on no scale.
        """
        if values.ndim != 2:
            raise ValueError(
                f"a mask must have one channel; got shape {values.shape}. For several masks of one "
                "photograph, give --kind masks"
            )
        top = 1 if values.dtype.kind in "fb" else 255 if values.max() <= 255 else 65535
        if top == 1 and 16 <= values.max() <= 255:
            top = 255  # a mask of bytes that was saved as floats
        if values.min() < 0 or values.max() > top:
            raise ValueError(
                f"a mask of {values.dtype} must lie in 0..{top}; got {values.min()}..{values.max()}"
            )
        top = 1 if values.max() <= 1 else top
        mask = values.astype(np.float32) / np.float32(top)
        binary = bool(((mask == 0) | (mask == 1)).all())
        # Floats on 0..1 that are not all 0 or 1 are probabilities, however sure.
        return cls(top, binary or (top > 1 and is_nearly_binary(mask)))

    def __call__(self, values: np.ndarray, confidence: float) -> np.ndarray:
        """Return the probability of the foreground, float32."""
        mask = values.astype(np.float32) / np.float32(self.top)
        if self.binary:
            if not 0.5 < confidence < 1:
                raise ValueError(
                    f"confidence in a mask must lie between 0.5 and 1, exclusive; got {confidence}"
                )
            mask = (1 - confidence) + (2 * confidence - 1) * mask
        return np.asarray(mask, dtype=np.float32)


def _masks(values: np.ndarray) -> np.ndarray:
    maps = values[None] if values.ndim == 2 else values
    if maps.dtype.kind == "f":
        maps = maps.astype(np.float32)
        if maps.max() > 1 + _DIP and 16 <= maps.max() <= 255 and maps.min() >= 0:
            maps = maps / np.float32(255)
        binary = bool(((maps == 0) | (maps == 1)).all())
        return maps.astype(bool) if binary else maps.clip(0, 1) if maps.min() >= -_DIP else maps
    if maps.dtype.kind == "b" or maps.dtype == np.uint8:
        return maps
    if maps.min() < 0 or maps.max() > 255:
        raise ValueError(
            f"masks must be bools, integers on 0..255, or floats on 0..1; got {maps.dtype} from "
            f"{maps.min()} to {maps.max()}. Save them as bools."
        )
    return maps.astype(np.uint8)
