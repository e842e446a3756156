"""Turning the arguments of `refine` into logits: containers, layouts and kinds of scores.

The functions take NumPy arrays and tensors alike, and return the same kind as they were given.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crfrnn import _checks
from crfrnn._arrays import (
    Array,
    cast,
    is_floating,
    is_tensor,
    namespace,
    on_cpu,
    to_float,
    to_numpy,
    to_torch,
)
from crfrnn._door import admit
from crfrnn._guards import warn_of_scores
from crfrnn.io.score_grid import is_usual

from .labels import SMALLEST_PROBABILITY, label_logits
from .options import RefineOptions

#: How far the sum of probabilities may be from one: half precision and resizing round.
_SUM_TOLERANCE = 0.02


@dataclass(frozen=True)
class Inputs:
    """The arrays that `refine` takes. See `refine` for the attributes that are not listed here.

    Attributes:
        name: the argument that holds the scores: "logits", "probs", "labels", "energy" or "masks".
        scores: the value of this argument.
        ids: of labels, those that occur in the whole job; default is those that occur in `scores`.
        origin: grid index of the first pixel in the image that this is a tile of; see `Scene`.
    """

    image: Array
    name: str
    scores: Array
    mask: Array | None = None
    clamp: Array | None = None
    features: Sequence[Array] = ()
    channels_last: bool | None = None
    ids: Sequence[int] | None = None
    origin: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """The meaning of the axes of scores and image.

    Attributes:
        batched: whether the first axis counts the images of a batch.
        size: the sizes S of the grid.
        channels: where the channels of the image are: "first", "last" or "none".
    """

    batched: bool
    size: tuple[int, ...]
    channels: str


def to_array(name: str, value: Any) -> Array:
    """Check an argument's type; return a tensor as it is and anything else as a NumPy array."""
    array = admit(name, value)
    return array.detach() if is_tensor(array) else array


def arrange_map(name: str, given: Array, layout: Layout, like: Array) -> Array:
    """Bring one value per pixel to (B, *S), in the container and on the device of `like`."""
    array = to_container(name, given, numpy=not is_tensor(like))
    expected = ((like.shape[0],) if layout.batched else ()) + layout.size
    if tuple(array.shape) != expected:
        raise ValueError(
            f"{name} must have the size of the scores, {expected}; got {tuple(array.shape)}"
        )
    array = array.to(like.device) if is_tensor(array) else array
    return array.reshape(like.shape[0], *layout.size)


def to_container(name: str, value: Any, *, numpy: bool) -> Array:
    """Read an argument as a NumPy array or as a tensor; copy only where a view is impossible."""
    array = to_array(name, value)
    return to_numpy(array) if numpy else to_torch(array)


def find_layout(
    name: str, scores: Array, image: tuple[int, ...] | None, channels_last: bool | None
) -> Layout:
    """Find the batch, class and grid axes that fit the image."""
    if 0 in scores.shape:
        raise ValueError(f"{name} must not be empty; got {_checks.shape_text(scores)}")
    if image == ():
        raise ValueError("image must be an array of pixels, such as (H, W, 3); got one number")
    readings = list(_readings(name, scores))
    if not readings:
        raise ValueError(
            f"{name} must be {_expected(name)}, or a batch; got {_checks.shape_text(scores)}"
        )
    for batched, size in readings:
        if image is None:  # `channels_last` still holds for feature maps
            return Layout(
                batched, size, {None: "none", True: "last", False: "first"}[channels_last]
            )
        channels = _channels(image, scores.shape[:1] if batched else (), size, channels_last)
        if channels:
            layout = Layout(batched, size, channels)
            if channels_last is None:
                _refuse_coincidence(name, scores, image, layout)
            return layout
    raise ValueError(_mismatch(name, scores, image or (), readings[0][1]))


def unary_logits(
    name: str,
    scores: Array,
    layout: Layout,
    options: RefineOptions,
    ids: Sequence[int] | None = None,
) -> Array:
    """Compute the logits (B, C, *S) of the unary term from any kind of scores."""
    if name == "labels":
        labels = scores if layout.batched else scores[None]
        return label_logits(labels, options, ids)
    if not is_floating(scores):
        raise TypeError(
            f"{name} must be floating point; got {scores.dtype}. Class ids go to labels=; "
            f"dequantize quantized scores: (x - zero) * scale."
        )
    if is_tensor(scores) or name == "probs":  # otherwise the core checks, which is faster
        _checks.finite(name, scores)
    scores = to_float(scores)
    scores = scores if layout.batched else scores[None]
    if name != "probs":
        warn_of_scores(name, name, scores)
    if name == "probs":
        return _from_probs(scores, layout.batched)
    if name == "energy":
        if scores.shape[1] == 1:
            raise ValueError(
                "energy must have at least two classes; got one, so every pixel would get its label"
            )
        return -scores
    if scores.shape[1] > 1:
        return scores
    space = namespace(scores)
    return space.concatenate([space.zeros_like(scores), scores], 1)


def mask_logits(masks: Array, confidence: float, scale: float) -> Array:
    """Compute the logits (..., K, *S) of foreground against background from masks (..., K, *S).

    Floats are probabilities. Other types are labels m on 0..`scale`, which are right with
    probability c, the `confidence`. The probability of the foreground is then
    1 - c + (2 c - 1) m / scale.
    """
    space = namespace(masks)
    if is_floating(masks):
        probs = to_float(masks).clip(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    else:
        share = cast(masks, space.float32) * ((2 * confidence - 1) / scale)
        probs = share + (1 - confidence)
    return space.log(probs) - space.log(1 - probs)


def check_masks(masks: Array, confidence: float) -> float:
    """Return the scale of masks: 255 if they are integers beyond 1, otherwise 1.

    Raises ValueError unless they are on 0..1 or 0..255; warns about masks that can hardly change.
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence must lie between 0.5 and 1 for masks; got {confidence}")
    if "bool" in str(masks.dtype):
        return 1.0
    _checks.finite("masks", masks)
    low, high = float(masks.min()), float(masks.max())
    most = 1 + _SUM_TOLERANCE if is_floating(masks) else 255
    if low < (-1e-3 if is_floating(masks) else 0) or high > most:
        remedy = "Give them as bools"
        if is_floating(masks):
            is_logit = low < 0
            remedy = "Apply the sigmoid to logits" if is_logit else "Divide by 255"
        raise ValueError(
            f"masks must be bools, integers on 0..255, or floats on 0..1; got {masks.dtype} from "
            f"{low:.4g} to {high:.4g}. {remedy}."
        )
    if is_floating(masks) and bool(((masks == 0) | (masks == 1)).all()):
        warnings.warn(
            f"masks are floating point and 0 or 1 everywhere, so certain, and the CRF can hardly "
            f"change them. Give bools, which are right with probability confidence={confidence}",
            UserWarning,
            stacklevel=4,  # who called `refine`
        )
    return 255.0 if high > 1 and not is_floating(masks) else 1.0


def arrange_image(name: str, image: Any, layout: Layout, like: Array) -> Array:
    """Bring an image to (B, F, *S) in the container and type of `like`, and on its device.

    Features keep their resolution.
    """
    array = to_container(name, image, numpy=not is_tensor(like))
    batch = (like.shape[0],) if layout.batched else ()
    channels = layout.channels
    if name != "image":
        channels = _feature_channels(name, tuple(array.shape), batch, layout)
    space = namespace(array)
    is_bytes = array.dtype == space.uint8
    array = array.to(like) if is_tensor(array) else cast(array, like.dtype)
    if not is_bytes:
        _checks.finite(name, array)
    array = array if layout.batched else array[None]
    if channels == "none":
        return array[:, None]
    return space.moveaxis(array, -1, 1) if channels == "last" else array


def _readings(name: str, scores: Array) -> Iterator[tuple[bool, tuple[int, ...]]]:
    """Yield possible (batched, grid size) of scores: images, then volumes, then signals."""
    before = 0 if name == "labels" else 1  # the class axis
    for dimensions in (2, 3, 1):
        for batched in (False, True):
            if scores.ndim == before + batched + dimensions:
                yield batched, tuple(scores.shape[before + batched :])


def _channels(
    image: tuple[int, ...],
    batch: tuple[int, ...],
    size: tuple[int, ...],
    channels_last: bool | None,
) -> str:
    """Locate the channels of an image of this shape; "" if it fits neither batch nor grid."""
    if image == (*batch, *size):
        return "none"
    last = image[:-1] == (*batch, *size) and channels_last is not False
    if last and image[-1] > 0:
        return "last"
    rest = image[len(batch) + 1 :] == size and image[: len(batch)] == batch
    first = rest and len(image) == len(batch) + 1 + len(size) and channels_last is not True
    return "first" if first and image[len(batch)] > 0 else ""


def _feature_channels(
    name: str, shape: tuple[int, ...], batch: tuple[int, ...], layout: Layout
) -> str:
    """Locate the channels of a feature map, which may have another resolution than the scores."""
    size = layout.size
    as_image = {"last": True, "first": False}.get(layout.channels)
    exactly = _channels(shape, batch, size, as_image) or _channels(shape, batch, size, None)
    if exactly:
        return exactly
    grid = len(size)
    readings = {
        "none": shape[len(batch) :],
        "first": shape[len(batch) + 1 :],
        "last": shape[len(batch) : -1],
    }
    fitting = [
        channels
        for channels, cells in readings.items()
        if shape[: len(batch)] == batch and len(cells) == grid > 1 and is_usual(cells, size)
    ]
    if len(fitting) == 2 and layout.channels in fitting:
        fitting = [layout.channels]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(
            f"cannot tell which axis of {name} {shape} holds the channels; give channels_last=True "
            f"or False, for image and features"
        )
    raise ValueError(
        f"{name} must have the size of the scores, {size}, or another size of the same proportions "
        f"or a square; got {shape}"
    )


def _refuse_coincidence(name: str, scores: Array, image: tuple[int, ...], layout: Layout) -> None:
    """Refuse a reading whose shapes match only by accident."""
    shape, size = tuple(scores.shape), layout.size
    batched, channels = layout.batched, layout.channels
    if name == "labels" and shape == image and shape[-1] in (3, 4) and min(shape[:-1]) > 4:
        raise ValueError(
            f"image {image} and labels {shape} fit as a volume, but more likely these labels are "
            "colors, or one indicator per class. Give one class number per pixel, (H, W); for "
            "indicators, labels.argmax(-1). If this is a volume, give image[None, ..., None] and "
            "labels[None]."
        )
    advice = ""
    if shape == image and channels == "first" and image[-1] <= 4 < image[batched]:
        advice = (
            f"the class axis comes last, and must come first: np.moveaxis({name}, -1, {batched:d})"
        )
    elif batched and len(size) == 1 and image == (shape[0], *shape[:0:-1]) and shape[0] in (1, 3):
        advice = "height and width are swapped: transpose one of the two"
    if advice:
        count = image[-1] if channels == "last" else image[batched]
        raise ValueError(
            f"image {image} and {name} {shape} fit as {'a batch of ' * batched}grids {size} with "
            f"{count} image channels, but more likely {advice}. "
            f"If the shapes are right, give channels_last={channels == 'last'}."
        )


def _expected(name: str) -> str:
    if name == "labels":
        return "(H, W), (D, H, W) or (W,)"
    first = "K" if name == "masks" else "C"
    return f"({first}, H, W), ({first}, D, H, W) or ({first}, W)"


def _mismatch(name: str, scores: Array, image: tuple[int, ...], size: tuple[int, ...]) -> str:
    text = (
        f"image and {name} must have the same size; got image {image} and {name} "
        f"{_checks.shape_text(scores)}, which is read as a grid of {size}. "
    )
    if 0 in image:
        return text + "The image is empty."
    where = _channels(image, (), tuple(scores.shape[:-1]), None)
    if name != "labels" and {"": 9, "none": 1, "first": image[0], "last": image[-1]}[where] <= 4:
        return text + f"The class axis must come first: np.moveaxis({name}, -1, 0)."
    flat = _flattened(name, scores, image)
    if flat:
        return text + flat
    if name == "labels" and scores.ndim > 2:
        for axis, grid in ((-1, scores.shape[:-1]), (0, scores.shape[1:])):
            if _channels(image, (), tuple(grid), None):
                return text + f"Labels are one class number per pixel: labels.argmax({axis})."
    if name != "labels" and _channels(image, (), tuple(scores.shape), None):
        missing = "mask" if name == "masks" else "class"
        text += f"The {missing} axis is missing: {name} must be {_expected(name)}."
        one = f" Give one {'mask' if name == 'masks' else 'map of the foreground'} as {name}[None]."
        return text + (one if name in ("logits", "probs", "masks") else "")
    swapped = (*size[:-2], *size[:-3:-1])
    if len(size) > 1 and (
        _channels(image, (), swapped, None) or _channels(image[1:], (), swapped, None)
    ):
        return text + "Height and width look swapped: transpose one of the two."
    if name != "labels" and _channels(image, (), tuple(scores.shape[2:]), None):
        first = f"{name}[0]" if scores.shape[0] == 1 else f"one of {name}"
        return text + f"The scores have a batch axis, but the image has none: give {first}."
    if name == "labels":
        return text + "Resize one of them; labels without interpolation."
    if len(size) == 2 and is_floating(scores):
        return text + f"Upsample the scores first, for example with crfrnn.upsample({name}, image)."
    return text + "Resize the scores first."


def _flattened(name: str, scores: Array, image: tuple[int, ...]) -> str:
    """The remedy for scores (C, H*W), as `pydensecrf` has them, or labels (H*W,); "" for others."""
    if scores.ndim != (1 if name == "labels" else 2):
        return ""
    for grid in (image, image[:-1], image[1:]):
        if 1 < len(grid) < 4 and scores.shape[-1] == math.prod(grid):
            sizes = ", ".join(map(str, grid if name == "labels" else (scores.shape[0], *grid)))
            return f"The pixels are in one row: give {name}.reshape({sizes})."
    return ""


def _from_probs(probs: Array, batched: bool) -> Array:
    space = namespace(probs)
    if probs.shape[1] == 1:
        probs = space.concatenate([1 - probs, probs], 1)
    if on_cpu(probs):
        _check_probabilities(to_numpy(probs), batched)
    return space.log(probs.clip(SMALLEST_PROBABILITY, None))


def _check_probabilities(probs: np.ndarray, batched: bool) -> None:
    low, high = float(probs.min()), float(probs.max())
    if low < -1e-3 or high > 1 + _SUM_TOLERANCE:
        raise ValueError(
            f"probs must lie in 0..1; got {low:.4g} to {high:.4g}. "
            f"Scores before softmax go to logits= (--kind logits)."
        )
    total = probs.sum(axis=1) if batched else probs.sum(axis=1)[0]
    wrong = np.abs(total - 1) > _SUM_TOLERANCE
    if wrong.any():
        first = tuple(np.argwhere(wrong)[0].tolist())
        zeros = int((total == 0).sum())
        detail = f"{zeros} of them all-zero; " if zeros else ""
        raise ValueError(
            f"probs must sum to 1 over the classes; {int(wrong.sum())} pixels do not ({detail}the "
            f"first at index {first} with sum {float(total[first]):.4g}). Divide by the sum, or "
            f"give scores before softmax as logits=."
        )
