"""Clamped pixels of `refine`: bool maps, maps of classes, and the band around label changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from crfrnn._arrays import Array, cast, is_floating, is_tensor, namespace

from .inputs import Layout, arrange_map

#: The value of free pixels in an arranged map of classes; in a given one, see `free_value`.
FREE = -1

#: How far below the class of a seed the logits of the others are. Their marginals are zero, to the
#: bit, in every float type.
_CERTAIN = 1000.0


def free_value(classes: int) -> int:
    """The value of free pixels in a map of classes, which is no class: 255 or, where it is, 65535.

    Example:
        >>> from crfrnn.offline.clamp import free_value
        >>> free_value(255), free_value(256)
        (255, 65535)
    """
    return 255 if classes < 256 else 65535


def arrange_clamp(
    clamp: Array, layout: Layout, like: Array, classes: int, *, part: bool = False
) -> Array:
    """Bring `clamp` to (B, *S): bool, or int64 classes and `FREE`.

    Args:
        clamp: as `refine` takes it.
        layout: of the scores.
        like: the unary logits, or any array of their batch, container and device.
        classes: the number of classes; 0 if only a bool map makes sense.
        part: whether it is cut from a larger map, which leaves pixels free elsewhere.
    """
    array = arrange_map("clamp", clamp, layout, like)
    if "bool" in str(array.dtype):
        return array
    if is_floating(array):
        raise TypeError(
            f"clamp must be bool, True where a pixel keeps its scores, or integers, the classes of "
            f"clamped pixels and {free_value(classes)} for free ones; got {array.dtype}"
        )
    if classes == 0:
        raise TypeError(
            f"clamp must be bool for masks, which have no classes; got {array.dtype}. Write floats "
            f"0 or 1 into the masks where they are certain, and give clamp != {free_value(2)}."
        )
    space = namespace(array)
    labels, free = cast(array, space.int64), free_value(classes)
    held = labels != free
    low = high = None
    if bool(held.any()):
        low, high = int(labels[held].min()), int(labels[held].max())
    check_seeds(low, high, classes, some_free=part or bool((~held).any()))
    return space.where(held, labels, FREE)


def check_seeds(low: int | None, high: int | None, classes: int, *, some_free: bool) -> None:
    """Raise unless a map of classes leaves pixels free, and clamps the others to classes.

    Args:
        low: the smallest class of a clamped pixel; None if none is clamped.
        high: the largest.
        classes: the number of classes.
        some_free: whether a pixel is free.
    """
    free = free_value(classes)
    if not some_free:
        raise ValueError(
            f"clamp leaves no pixel free: in a map of {classes} classes, {free} marks free pixels. "
            f"If yours marks clamped pixels with 1, convert it to bool: clamp != 0."
        )
    if low is not None and high is not None and (low < 0 or high >= classes):
        raise ValueError(
            f"clamp must hold classes 0..{classes - 1}, or {free} for free pixels; got {low} to "
            f"{high}"
        )


def put_seeds(unary: Array, clamp: Array) -> Array:
    """Return logits (B, C, *S) that are certain of the class of each clamped pixel.

    Args:
        unary: the logits; not changed.
        clamp: what `arrange_clamp` returns. Only a map of classes changes logits.
    """
    if "bool" in str(clamp.dtype):
        return unary
    space = namespace(unary)
    classes = space.arange(unary.shape[1])
    if is_tensor(unary):
        classes = classes.to(unary.device)
    classes = classes.reshape(-1, *[1] * (unary.ndim - 2))
    certain = cast(clamp[:, None] != classes, unary.dtype) * -_CERTAIN
    return space.where((clamp != FREE)[:, None], certain, unary)


def held_pixels(
    unary: Array,
    clamp: Array | None,
    band: float | None,
    *,
    inside: Array | None = None,
    known: Array | None = None,
) -> Array | None:
    """The clamped pixels (B, *S); None if all are free.

    Args:
        unary: (B, C, *S), seeds included.
        clamp: what `arrange_clamp` returns.
        band: pixels farther than this from a label change are clamped.
        inside: (B, *S) bool, the pixels that take part. All others count as clamped.
        known: (B, *S) bool, the pixels that have a label. All others are a label of their own, and
            no band clamps them.
    """
    if clamp is None and band is None:
        return None
    held = None
    if clamp is not None:
        held = clamp if "bool" in str(clamp.dtype) else clamp != FREE
    if band is not None:
        labels = unary.argmax(1) if unary.shape[1] > 2 else unary[:, 1] > unary[:, 0]
        if known is not None:
            known = known if held is None or held is clamp else known | held  # a seed is a label
            labels = namespace(labels).where(known, labels, unary.shape[1])
        beyond = beyond_band(labels, band, inside)
        beyond = beyond if known is None else beyond & known
        held = beyond if held is None else held | beyond
    return held if inside is None else held | ~inside


def held_masks(
    masks: Array,
    to_logits: Callable[[Array], Array],
    clamp: Array | None,
    band: float | None,
    *,
    inside: Array | None = None,
) -> Array | None:
    """The clamped pixels (B, K, *S) of independent masks, each with its own band; or None.

    Args:
        masks: (B, K, *S).
        to_logits: gives the logits of the foreground for masks.
        clamp: (B, *S) bool, for all masks.
        band: see `held_pixels`; this and `inside`.
        inside: see there.
    """
    if clamp is None and band is None:
        return None
    space = namespace(masks)
    if clamp is not None and band is None:
        held = clamp if inside is None else clamp | ~inside
        return space.broadcast_to(held[:, None], masks.shape)
    of_masks = []
    for k in range(masks.shape[1]):
        z = to_logits(masks[:, k : k + 1])
        both = space.concatenate([space.zeros_like(z), z], 1)
        of_masks.append(held_pixels(both, clamp, band, inside=inside))
    return space.stack(of_masks, 1)


def free_pixels(counted: Array | None, held: Array | None) -> Array | None:
    """The pixels of `counted` that are not clamped; None stands for all pixels in both."""
    if held is None or counted is None:
        return counted if held is None else ~held
    return counted & ~held


def beyond_band(labels: Array, band: float, inside: Array | None = None) -> Array:
    """The pixels that are at least `band` pixels from every label change.

    A pixel lies at a label change if a neighbor along an axis has another label. Distances are
    Euclidean, between the centers of pixels. So on each side of a straight edge, `band` rows of
    pixels are not beyond the band.

    Args:
        labels: (B, *S) integers.
        band: in pixels.
        inside: (B, *S) bool; changes are seen only between pixels inside.

    Returns:
        (B, *S) bool.

    Example:
        >>> import numpy as np
        >>> from crfrnn.offline.clamp import beyond_band
        >>> beyond_band(np.array([[0, 0, 0, 1, 1, 1]]), 2).astype(int)
        array([[1, 0, 0, 0, 0, 1]])
    """
    space = namespace(labels)
    edge = labels != labels  # nowhere, on the same device
    for axis in range(1, labels.ndim):
        for low, high in _shifts(axis, 1):
            changes = labels[low] != labels[high]
            if inside is not None:
                changes = changes & inside[low] & inside[high]
            edge[low] |= changes
            edge[high] |= changes
    # The squared distance to the nearest of them, if that is below the limit: axis by axis, the
    # smallest sum of what the axes before gave at some pixel and the square of the way to it.
    limit = band * band
    small = limit <= 10000  # then all sums fit 16 bits
    far, dtype = (16384, space.int16) if small else (1 << 30, space.int32)
    distance = cast(space.where(edge, 0, far), dtype)
    for axis in range(1, labels.ndim):
        nearest = space.clip(distance, 0, far)  # a copy
        for step in range(1, min(math.ceil(band), labels.shape[axis])):
            for low, high in _shifts(axis, step):
                space.minimum(nearest[low], distance[high] + step * step, out=nearest[low])
                space.minimum(nearest[high], distance[low] + step * step, out=nearest[high])
        distance = nearest
    beyond: Array = distance >= limit
    return beyond


def _shifts(axis: int, step: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """The slices of all pixels but the last, and but the first, `step` along an axis."""
    before = (slice(None),) * axis
    yield (*before, slice(None, -step)), (*before, slice(step, None))
