"""The range of the image that guides a CRF: one check and one message for all ways in.

Color bandwidths are in units of the image. Those that are published, and all presets, are meant for
colors on 0..255. On an image of another range, either no edge counts or every edge does, and
nothing in the result shows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from . import _checks
from ._arrays import Array, is_floating, is_tensor, namespace
from ._guards import InputWarning, warn

#: An image is wide if a value is further than this beyond 0..255; sharp resizing overshoots, and so
#: do random numbers in place of a normalized image.
_OVERSHOOT = 150
#: It is small if it spans at most this many of the finest color bandwidths, and no value is large.
_FEW = 2
_LARGE = 16
#: A wide image suits bandwidths of which its span holds at most this many.
_MANY = 64
#: A 16-bit image that uses no value beyond this probably holds 12 bits or fewer.
_TWELVE_BITS = 4095


class GuideWarning(InputWarning):
    """An image whose range hardly suits the color bandwidths, or whose pixels may be turned."""


def finest_color(kernels: Iterable[Any]) -> float | None:
    """Return the smallest color bandwidth of kernels; None if none of them looks at colors."""
    colors = [kernel.bandwidths().get("color") for kernel in kernels]
    numbers = [min(_checks.positive("color", color)) for color in colors if color is not None]
    return min(numbers) if numbers else None  # without `default`, which torch.compile cannot trace


def check_range(image: Array, finest: float | None, name: str = "the image") -> None:
    """Warn of an image whose range does not suit the finest of the color bandwidths.

    A tensor on a device, or one that is traced or mapped, is not read.
    """
    span = None if finest is None else _range(image)
    if finest is None or span is None:
        return
    found = judge_range(*span, finest)
    if found is not None:
        what, remedy = found
        low, high = span
        warn(
            f"{name} has values in {low:.4g}..{high:.4g} {what}: {remedy}",
            f"{name} {what}: {remedy}",
            GuideWarning,
        )


def judge_range(low: float, high: float, finest: float) -> tuple[str, str] | None:
    """Say what is wrong with the range `low`..`high` of an image, and the remedy; None if nothing.

    Args:
        low: the smallest value.
        high: the largest.
        finest: the smallest color bandwidth.
    """
    span = high - low
    if not span > 0:
        return None
    small = max(-low, high) <= _LARGE
    if low < -0.01 and small and (span <= _FEW * finest or finest >= 1):
        return (
            f"that look normalized by a mean and a deviation, but the color bandwidth {finest:g} "
            "is meant for colors on 0..255, so edges hardly count",
            "undo the normalization (image * std + mean), then multiply by 255 if white is 1 "
            "(Segmenter does both, with mean, std and image_range)",
        )
    if small and span <= _FEW * finest:
        return (
            f"and spans at most two color bandwidths of {finest:g}, which are in units of 0..255, "
            "so edges hardly count",
            "multiply an image on 0..1 by 255; scale a dark image of 8 to 16 bits so that white "
            "becomes 255",
        )
    if (low < -_OVERSHOOT or high > 255 + _OVERSHOOT) and span > _MANY * finest:
        return (
            f"beyond 0..255 and spans more than {_MANY} color bandwidths of {finest:g}, so almost "
            "every difference counts as an edge",
            "bring it to 0..255 (12 bits: divide by 16; 16 bits: by 257; CT: choose a window of "
            "Hounsfield units and stretch it; in a Segmenter check mean, std and image_range), or "
            "give color bandwidths in the units of the image",
        )
    return None


def check_depth(high: int, file: str) -> None:
    """Warn of a 16-bit image that uses only the low 12 bits or fewer; `high` is its top value."""
    if 255 < high <= _TWELVE_BITS:
        advice = (
            "uses only the lower part of 0..65535, so it is read as nearly black and edges hardly "
            "count. If white is 4095 or less, rescale the file to 8 or 16 bits"
        )
        warn(f"{file} {advice} (its largest value is {high})", advice, GuideWarning)


def _range(image: Array) -> tuple[float, float] | None:
    """The smallest and largest value; None if reading them would not be free, or says nothing."""
    if str(image.dtype).endswith("uint8") or 0 in image.shape:
        return None  # however dark, nobody scales bytes
    try:
        if is_tensor(image):
            if not _checks.readable(image):
                return None
            torch = namespace(image)
            image = image.detach()
            if type(image) is torch.Tensor and image.dtype != torch.bfloat16:
                image = np.from_dlpack(image)  # see `_checks.plain`
        low, high = float(image.min()), float(image.max())
    except (RuntimeError, NotImplementedError):  # under vmap an image has no value
        return None
    # What float32 cannot hold is an error elsewhere; integers of 0 and 1 are no photograph.
    is_photograph = is_floating(image) or "bool" in str(image.dtype) or high > 1 or low < 0
    return (low, high) if is_photograph and max(-low, high) < 1e30 else None
