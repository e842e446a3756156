"""Reading the output of a network: score arrays, label maps and masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .files import IMAGE_SUFFIXES, Picture, open_image, read_arrays
from .notes import Guess, Note, Stretch
from .options import DEFAULTS, ClassAxis, Kind, ReadOptions, Size
from .score_grid import classes_first, require_upright, resample, same_shape
from .score_kinds import as_labels, as_maps, guess_kind

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
SCORE_SUFFIXES = ARRAY_SUFFIXES | IMAGE_SUFFIXES

#: What the name of an array says about its kind.
_KIND_OF: dict[str, Kind] = {
    "logits": "logits",
    "probs": "probs",
    "labels": "labels",
    "mask": "mask",
    "scores": "auto",
}


@dataclass(frozen=True)
class Scores:
    """Scores at the size of their image.

    Attributes:
        values: logits or probabilities (C, H, W) float32, of the foreground if C = 1; or labels
            (H, W) int64.
        kind: "logits", "probs" or "labels".
        palette: RGB triples, if the scores were a palette image.
        notes: assumptions for the user to confirm.
    """

    values: np.ndarray
    kind: Literal["logits", "probs", "labels"]
    palette: bytes | None = None
    notes: tuple[Note, ...] = ()

    def labels(self) -> np.ndarray:
        """Return the labels (H, W) before refinement: the likeliest class of each pixel."""
        if self.kind == "labels":
            return self.values
        if self.values.shape[0] > 1:
            return np.asarray(self.values.argmax(axis=0))
        threshold = 0.5 if self.kind == "probs" else 0.0
        return np.asarray(self.values[0] > threshold, dtype=np.int64)


@dataclass(frozen=True)
class _Raw:
    """Scores as they are in the file."""

    values: np.ndarray
    kind: Kind
    palette: bytes | None = None
    guess: Guess | None = None


def read_scores(path: Path, size: Size, options: ReadOptions = DEFAULTS) -> Scores:
    """Read scores and bring them to the size of their image.

    `.npy` and `.npz` hold logits or probabilities (C, h, w) or (h, w, C) of any float type and
    resolution, integer labels (H, W), or a mask (h, w). If a `.npz` holds several arrays, one is
    named after its kind; unsigned bytes `logits` with a `scale` and a `zero` are dequantized.
    Images hold labels (palette, 8 or 16-bit gray) or a mask (8-bit gray, the foreground is 255).

    Args:
        path: the file.
        size: height and width of the image.
        options: how to read it; the `notes` of the result report what was guessed.
    """
    is_array = path.suffix.lower() in ARRAY_SUFFIXES
    loaded = read_arrays(path) if is_array else open_image(path)
    return interpret_scores(loaded, path, size, options)


def interpret_scores(
    loaded: Mapping[str, Any] | Picture,
    path: Path,
    size: Size,
    options: ReadOptions = DEFAULTS,
) -> Scores:
    """Interpret the arrays of a file, or an image, as `read_scores` does.

    Messages call it `path`; the other arguments are those of `read_scores`.
    """
    covered, kind = options.covered(size), options.kind
    try:
        raw = _pick(loaded, kind) if isinstance(loaded, Mapping) else _from_image(loaded)
        raw = _settle(_upright(raw, covered, options.class_axis), kind)
        notes = tuple(_notes(path.name, raw, covered))
        if raw.kind == "labels":
            return Scores(as_labels(raw.values, size), "labels", raw.palette, notes)
        maps = as_maps(raw.values, raw.kind, options.confidence)
        values = resample(maps, size, options)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {error}") from error
    return Scores(values, "logits" if raw.kind == "logits" else "probs", raw.palette, notes)


def _pick(arrays: Mapping[str, Any], kind: Kind) -> _Raw:
    """Pick an array: the one named after the kind asked for, after any kind, or the only one."""
    if kind in ("auto", "logits") and {"logits", "scale", "zero"} <= set(arrays):
        quantized, scale, zero = (
            arrays[name].astype(np.float32) for name in ("logits", "scale", "zero")
        )
        return _Raw((quantized - zero) * scale, "logits")
    names = [kind] if kind in arrays else [name for name in _KIND_OF if name in arrays]
    if not names and len(arrays) == 1:
        names = list(arrays)
    if len(names) != 1:
        raise ValueError(
            f"expected a single array, or one called {', '.join(_KIND_OF)}; got "
            f"{', '.join(arrays) or 'none'}"
        )
    return _Raw(arrays[names[0]], _KIND_OF.get(names[0], "auto"))


def _from_image(image: Picture) -> _Raw:
    """Take labels or a mask from an image."""
    if image.mode == "P":
        return _Raw(np.array(image), "labels", _palette(image))
    if image.mode == "1":
        return _Raw(np.array(image), "mask")
    if image.mode == "RGB" and _is_gray(image):
        image = image.getchannel(0)
    if image.mode == "L" or image.mode.startswith("I"):
        return _Raw(np.array(image), "auto" if image.mode == "L" else "labels")
    raise ValueError(
        "expected labels or a mask with one channel (palette or gray); got an image of mode "
        f"{image.mode}. Save class ids, not colors."
    )


def _palette(image: Picture) -> bytes:
    return bytes(image.getpalette("RGB") or ())


def _is_gray(image: Picture) -> bool:
    red, green, blue = (np.asarray(band) for band in image.split())
    return bool((red == green).all() and (green == blue).all())


def _upright(raw: _Raw, covered: Size, class_axis: ClassAxis) -> _Raw:
    """Check an array and lay it out as (C, h, w), or as (h, w) if it has a single channel."""
    values = raw.values
    if values.dtype.kind not in "biuf":
        raise TypeError(f"expected numbers; got an array of {values.dtype}")
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim not in (2, 3):
        raise ValueError(
            f"expected (C, h, w), (h, w, C) or (h, w); got shape {raw.values.shape}. "
            "Save the scores of each image in a separate file."
        )
    if values.size == 0:
        raise ValueError(f"the array is empty: shape {raw.values.shape}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise ValueError(
            f"{bad} of {values.size} values are NaN or infinite; repair them, for example with "
            "np.nan_to_num"
        )
    if values.ndim == 3:
        values = classes_first(values, covered, class_axis)
        values = values[0] if values.shape[0] == 1 else values
    require_upright(_size(values), covered)
    return replace(raw, values=values)


def _settle(raw: _Raw, asked: Kind) -> _Raw:
    """Decide the kind: as asked, as the file says, or as the values suggest."""
    if asked != "auto":
        return replace(raw, kind=asked)
    if raw.kind != "auto":
        return raw
    guess = guess_kind(raw.values)
    return replace(raw, kind=guess.kind, guess=guess)


def _notes(file: str, raw: _Raw, covered: Size) -> Iterator[Note]:
    if raw.guess is not None:
        yield Note(file, raw.guess)
    size = _size(raw.values)
    if raw.kind != "labels" and not same_shape(size, covered):
        yield Note(file, Stretch(size, covered))


def _size(values: np.ndarray) -> Size:
    return int(values.shape[-2]), int(values.shape[-1])
