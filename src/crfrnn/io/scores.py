"""Reading the output of a network: score arrays, label maps and masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .array_files import STORE_SUFFIXES, split_member
from .arrays import read_arrays
from .files import IMAGE_SUFFIXES, Picture, open_image, read_pages
from .label_maps import is_black_and_white, is_lossy, one_channel
from .notes import Guess, Note, Remainder, Stretch, spell_size
from .options import DEFAULTS, ClassAxis, Kind, ReadOptions, Size
from .pickled import CAM, KEYS, class_maps
from .score_grid import (
    classes_first,
    padded_size,
    require_grid,
    require_upright,
    resample,
    same_shape,
)
from .score_kinds import Ambiguous, as_labels, as_maps, guess_kind

ARRAY_SUFFIXES = frozenset({".npy", ".npz"}) | STORE_SUFFIXES
SCORE_SUFFIXES = ARRAY_SUFFIXES | IMAGE_SUFFIXES

_TENSORS = (
    "Reading one can run code that is hidden in it. If you trust it, load it yourself and save the "
    "tensor as .npy: np.save('scores.npy', tensor.detach().cpu().float().numpy())"
)
_TEXT = "Save the numbers as .npy: np.save('scores.npy', np.loadtxt(FILE))"
#: What to do with files in which others keep scores, but which are not read.
REMEDIES = {
    **dict.fromkeys((".pt", ".pth", ".pkl", ".pickle", ".ckpt"), _TENSORS),
    **dict.fromkeys((".txt", ".csv", ".tsv"), _TEXT),
    ".mat": "Save the array as .npy: np.save('scores.npy', scipy.io.loadmat(FILE)[NAME])",
}

#: What the name of an array says about its kind.
_KIND_OF: dict[str, Kind] = {
    "logits": "logits",
    "probs": "probs",
    "energy": "energy",
    "labels": "labels",
    "mask": "mask",
    "masks": "masks",
    "scores": "auto",
}


@dataclass(frozen=True)
class Scores:
    """Scores at the size of their image.

    Attributes:
        values: logits or probabilities (C, H, W) float32, of the foreground if C = 1; labels
            (H, W) int64; or independent masks (K, H, W), bools, bytes or float32 probabilities.
        kind: "logits" (also of energies), "probs" (also of a mask), "labels" or "masks".
        palette: RGB triples, if the scores were a palette image.
        notes: assumptions for the user to confirm.
    """

    values: np.ndarray
    kind: Literal["logits", "probs", "labels", "masks"]
    palette: bytes | None = None
    notes: tuple[Note, ...] = ()

    def labels(self) -> np.ndarray:
        """Return the labels (H, W) before refinement: the likeliest class of each pixel."""
        if self.kind == "labels":
            return self.values
        if self.kind == "masks":
            raise ValueError("independent masks have no labels (H, W); expected scores of classes")
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
    lossy: bool = False


def read_scores(
    path: Path, size: Size, options: ReadOptions = DEFAULTS, *, job_kind: Kind | None = None
) -> Scores:
    """Read scores and bring them to the size of their image.

    Files of arrays hold logits, probabilities or energies (C, h, w) or (h, w, C) of any float
    type and resolution, integer labels (H, W), a mask (h, w), or independent masks (K, h, w). If a
    `.npz` holds several arrays, one is named after its kind; unsigned bytes `logits` with a `scale`
    and a `zero` are dequantized. Dictionaries of class activation maps become probabilities, see
    `class_maps`. Images hold labels (palette, 8 or 16-bit gray) or a mask (gray, the foreground is
    255); several pages of a TIFF are classes.

    Args:
        path: the file.
        size: height and width of the image.
        options: how to read it; the `notes` of the result report what was guessed.
        job_kind: the kind of all files of the job, where `options` leave it open. A file that is
            clearly of another kind is refused.
    """
    return interpret_scores(load_scores(path, options), path, size, options, job_kind=job_kind)


def load_scores(path: Path, options: ReadOptions = DEFAULTS) -> Mapping[str, Any] | Picture:
    """Read the arrays of a file by name, or the picture in it."""
    suffix = split_member(path)[0].suffix.lower()
    if suffix in ARRAY_SUFFIXES:
        return read_arrays(path)
    if suffix in REMEDIES and path.is_file():
        raise ValueError(f"{path}: scores are not read from {suffix} files. {REMEDIES[suffix]}")
    pages = read_pages(path, max_pixels=options.max_pixels)
    if pages is not None:
        return {"scores": pages}
    return open_image(path, max_pixels=options.max_pixels)


def interpret_scores(
    loaded: Mapping[str, Any] | Picture,
    path: Path,
    size: Size,
    options: ReadOptions = DEFAULTS,
    *,
    job_kind: Kind | None = None,
) -> Scores:
    """Interpret the arrays of a file, or an image, as `read_scores` does.

    Messages call it `path`; the other arguments are those of `read_scores`.
    """
    covered, kind = options.covered(size), options.kind
    try:
        raw = _pick(loaded, options) if isinstance(loaded, Mapping) else _from_image(loaded)
        raw = _settle(_upright(raw, covered, options.class_axis), kind, job_kind)
        notes = tuple(_notes(path.name, raw, covered, options))
        if raw.kind == "labels":
            labels = as_labels(raw.values, size, lossy=raw.lossy)
            return Scores(labels, "labels", raw.palette, notes)
        maps = as_maps(raw.values, raw.kind, options.confidence)
        if raw.kind != "masks" or maps.dtype.kind == "f":
            maps = resample(maps, size, options)
        elif maps.shape[1:] != size:
            raise ValueError(
                f"masks of two values, or of integers, must have the size of the image, "
                f"{spell_size(size)} (height x width); got {spell_size(_size(maps))}. Resize them, "
                "or save probabilities as floats, which are resampled"
            )
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {error}") from error
    return Scores(maps, _REFINED_AS[raw.kind], raw.palette, notes)


#: What the kinds of files become.
_REFINED_AS: dict[Kind, Literal["logits", "probs", "masks"]] = {
    "logits": "logits",
    "energy": "logits",
    "probs": "probs",
    "mask": "probs",
    "masks": "masks",
}


@dataclass(frozen=True)
class Glance:
    """What the values of a file show, before anything is done with them.

    Attributes:
        kind: what they are read as.
        why: what that was concluded from.
        firm: whether other files of the job may not say otherwise.
        shape: in the file.
        classes: C or K, with the classes first; 1 for one map; None for labels.
        low: the smallest value.
        high: the largest.
        ids: those that occur, if it may be a label map.
        cells: height and width of the maps.
        note: an assumption about their place in the image; "" if there is none.
    """

    kind: Kind
    why: str
    firm: bool
    shape: tuple[int, ...]
    classes: int | None
    low: float
    high: float
    ids: tuple[int, ...] = ()
    cells: Size = (0, 0)
    note: str = ""


def glance(path: Path, size: Size, options: ReadOptions = DEFAULTS) -> Glance:
    """Look at a file of scores as `read_scores` would read it; raise as it would.

    Raises:
        Ambiguous: the values fit several kinds.
    """
    loaded = load_scores(path, options)
    try:
        raw = _pick(loaded, options) if isinstance(loaded, Mapping) else _from_image(loaded)
        shape = raw.values.shape
        raw = _settle(_upright(raw, options.covered(size), options.class_axis), options.kind, None)
    except Ambiguous as error:
        raise Ambiguous(f"{path}: {error}") from error
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {error}") from error
    values = raw.values
    why = "its name says so" if raw.guess is None else raw.guess.why
    why = "--kind says so" if options.kind != "auto" else why
    ids: tuple[int, ...] = ()
    if values.ndim == 2 and (raw.kind == "labels" or values.dtype.kind != "f"):
        ids = tuple(int(i) for i in np.unique(values).tolist())
    return Glance(
        raw.kind,
        why,
        raw.guess is None or raw.guess.firm,
        shape,
        None if raw.kind == "labels" else 1 if values.ndim == 2 else len(values),
        float(values.min()),
        float(values.max()),
        ids,
        _size(values),
        next((str(what) for what in _assumptions(raw, options.covered(size), options)), ""),
    )


def _pick(arrays: Mapping[str, Any], options: ReadOptions) -> _Raw:
    """Pick an array: the one named after the kind asked for, after any kind, or the only one."""
    kind = options.kind
    if are_class_maps(arrays, kind):
        return _from_class_maps(arrays, options.background)
    if are_quantized(arrays, kind):
        return _Raw(dequantize(arrays), "logits")
    names = [kind] if kind in arrays else [name for name in _KIND_OF if name in arrays]
    if not names and len(arrays) == 1:
        names = list(arrays)
    if len(names) != 1:
        raise ValueError(
            f"expected a single array, or one called {', '.join(_KIND_OF)}; got "
            f"{', '.join(arrays) or 'none'}. Rename one, or choose it by FILE:NAME"
        )
    return _Raw(arrays[names[0]], _KIND_OF.get(names[0], "auto"))


def _from_class_maps(arrays: Mapping[str, Any], background: float) -> _Raw:
    maps, why = from_class_maps(arrays, background)
    return _Raw(maps, "probs", guess=Guess("probs", why))


def are_quantized(arrays: Mapping[str, Any], kind: Kind) -> bool:
    """Whether arrays are quantized logits with their `scale` and `zero`, and wanted as logits."""
    return {"logits", "scale", "zero"} <= set(arrays) and kind in ("auto", "logits")


def dequantize(arrays: Mapping[str, Any]) -> np.ndarray:
    """Return quantized logits as float32."""
    quantized, scale, zero = (
        arrays[name].astype(np.float32) for name in ("logits", "scale", "zero")
    )
    return np.asarray((quantized - zero) * scale)


def are_class_maps(arrays: Mapping[str, Any], kind: Kind) -> bool:
    """Whether arrays are those of a dictionary of class maps, and asked for as such."""
    return {CAM, KEYS} <= set(arrays) and kind in ("auto", "probs")


def from_class_maps(arrays: Mapping[str, Any], background: float) -> tuple[np.ndarray, str]:
    """Return the probabilities of a dictionary of class maps, and how they were computed."""
    maps = class_maps(arrays[CAM], arrays[KEYS], background)
    how = (
        f"the label of a map is its key + 1, and the background (1 - maximum)^{background:g}"
        if background > 0
        else "the label of a map is its key, and the background has a map"
    )
    return maps, f"it is a dictionary of class maps: {how}"


def _from_image(image: Picture) -> _Raw:
    """Take labels or a mask from an image."""
    values, lossy = one_channel(image), is_lossy(image)
    if image.mode == "P":
        mask = is_black_and_white(values)
        guess = Guess(
            "mask" if mask else "labels", "only 0 and 255 occur" if mask else "", not mask
        )
        palette = None if mask else bytes(image.getpalette("RGB") or ())
        return _Raw(values, guess.kind, palette, guess if mask else None)
    if values.dtype == bool:
        return _Raw(values, "mask")
    return _Raw(values, "auto", lossy=lossy)


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
    require_grid(_size(values), covered)
    require_upright(_size(values), covered)
    return replace(raw, values=values)


def _settle(raw: _Raw, asked: Kind, job_kind: Kind | None) -> _Raw:
    """Decide the kind: as asked, as the file says, as the values suggest, or as the job is."""
    if asked != "auto":
        return replace(raw, kind=asked, guess=None)
    if raw.kind == "auto":
        try:
            guess = guess_kind(raw.values, lossy=raw.lossy)
        except Ambiguous:
            if job_kind is None:
                raise
            guess = Guess(job_kind, "the other files of the job are")
        raw = replace(raw, kind=guess.kind, guess=guess)
    if job_kind in (None, raw.kind):
        return raw
    if raw.guess is not None and raw.guess.firm:
        raise ValueError(
            f"looks like {raw.kind}, because {raw.guess.why}, but the files of this job are "
            f"{job_kind}; put files of another kind into their own folder, or give --kind"
        )
    if raw.guess is None and not {raw.kind, job_kind} <= {"labels", "mask"}:
        raise ValueError(f"holds {raw.kind}, but the files of this job are {job_kind}")
    return replace(raw, kind=job_kind)


def _notes(file: str, raw: _Raw, covered: Size, options: ReadOptions) -> Iterator[Note]:
    if raw.guess is not None:
        yield Note(file, raw.guess)
    for what in _assumptions(raw, covered, options):
        yield Note(file, what)


def _assumptions(raw: _Raw, covered: Size, options: ReadOptions) -> Iterator[Stretch | Remainder]:
    """Yield what is assumed about the place of the maps in the image."""
    size = _size(raw.values)
    if raw.kind == "labels" or size == covered:
        return
    if not same_shape(size, covered):
        yield Stretch(size, covered)
    elif options.align_corners or options.canvas is not None:
        return
    elif (padded := padded_size(size, covered)) != covered:
        yield Remainder(size, covered, padded)


def _size(values: np.ndarray) -> Size:
    return int(values.shape[-2]), int(values.shape[-1])
