"""Telling logits, probabilities, labels and masks apart, and checking each."""

from __future__ import annotations

import numpy as np

from .notes import Guess, spell_size
from .options import Kind, Size

#: An 8-bit gray image whose values are below this or void is taken for labels, else for a mask:
#: a mask has bright pixels, and data sets with more classes mostly have palettes or wider types.
_MOST_LABELS = 64
_VOID = 255
#: How far the sum of half-precision probabilities of many classes may be from one.
_SUM_TOLERANCE = 1e-2


def guess_kind(values: np.ndarray) -> Guess:
    """Guess the kind of an array from its type, axes and values."""
    if values.dtype.kind == "f":
        return _guess_float(values)
    if values.ndim == 3:
        return Guess("logits", "it has three axes")
    if values.dtype.kind == "b":
        return Guess("mask", "it is Boolean")
    if values.dtype != np.uint8:
        return Guess("labels", "it holds integers")
    ids = values[values != _VOID]
    # Also labels of background and void alone; masks of 0 and 255 are far more common.
    if ids.size < values.size and not ids.any():
        return Guess("mask", "all values are 0 or 255")
    if ids.size == 0 or ids.max() < _MOST_LABELS:
        return Guess("labels", f"all values are below {_MOST_LABELS}, or 255 for unknown")
    return Guess("mask", f"it has values of {_MOST_LABELS} or more")


def _guess_float(values: np.ndarray) -> Guess:
    low, high = float(values.min()), float(values.max())
    if low < 0:
        return Guess("logits", "it has negative values")
    if values.ndim == 2 and high <= 1:
        return Guess("probs", "all values lie in 0..1")
    if values.ndim == 2:
        return Guess("logits", "it has values above 1")
    if np.allclose(values.sum(axis=0, dtype=np.float64), 1, rtol=0, atol=_SUM_TOLERANCE):
        return Guess("probs", "no value is negative and the classes sum to one")
    return Guess(
        "logits", f"its values lie in {low:.3g}..{high:.3g}, and the classes do not sum to one"
    )


def as_labels(values: np.ndarray, size: Size) -> np.ndarray:
    """Return labels (H, W) as int64; raise unless they are integers of the size of the image."""
    if values.dtype.kind == "f":
        raise TypeError(
            f"labels must be integers; got {values.dtype}. Convert them, or give the right --kind"
        )
    if values.ndim != 2:
        raise ValueError(f"labels must have two axes, (H, W); got shape {values.shape}")
    if values.shape != size:
        raise ValueError(
            f"labels must have the size of the image, {spell_size(size)} (height x width); got "
            f"{spell_size(values.shape)}. Resize them by nearest neighbor."
        )
    return values.astype(np.int64)


def as_maps(values: np.ndarray, kind: Kind, confidence: float) -> np.ndarray:
    """Return logits or probabilities (C, h, w) as float32; a mask becomes the latter."""
    if kind == "mask":
        values = _mask(values, confidence)
    elif values.dtype.kind != "f":
        raise TypeError(
            f"{kind} must be floating point; got {values.dtype}. Dequantize them (or store "
            "`logits`, `scale` and `zero` in an .npz), or give --kind labels or --kind mask"
        )
    return np.asarray(values[None] if values.ndim == 2 else values, dtype=np.float32)


def _mask(values: np.ndarray, confidence: float) -> np.ndarray:
    if values.ndim != 2:
        raise ValueError(f"a mask must have one channel; got shape {values.shape}")
    top = {"f": 1, "b": 1}.get(values.dtype.kind, 65535 if values.dtype == np.uint16 else 255)
    if values.min() < 0 or values.max() > top:
        raise ValueError(
            f"a mask of {values.dtype} must lie in 0..{top}; got {values.min()}..{values.max()}"
        )
    mask = values.astype(np.float32) / np.float32(1 if values.max() <= 1 else top)
    if np.isin(mask, (0, 1)).all():
        if not 0.5 < confidence < 1:
            raise ValueError(
                f"confidence in a mask must lie between 0.5 and 1, exclusive; got {confidence}"
            )
        mask = (1 - confidence) + (2 * confidence - 1) * mask
    return np.asarray(mask, dtype=np.float32)
