"""Scaling the channels of a guide to 0..255, the units of color bandwidths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Where the range is not given, it spans these percentiles of each channel.
PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True)
class Range:
    """The ends of the range that becomes 0..255.

    Attributes:
        low: becomes 0.
        high: becomes 255.
        percent: whether both are percentiles of a channel, and not values.

    Example:
        >>> from crfrnn.containers.scaling import parse_ranges
        >>> parse_ranges("0..3000,2%..98%")[1]
        Range(low=2.0, high=98.0, percent=True)
    """

    low: float
    high: float
    percent: bool = False

    def __post_init__(self) -> None:
        """Check the ends."""
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise ValueError(
                f"a range must run from a smaller to a larger number; got {self.low:g} to "
                f"{self.high:g}"
            )
        if self.percent and not (self.low >= 0 and self.high <= 100):
            raise ValueError(f"percentiles must lie in 0..100; got {self.low:g}% to {self.high:g}%")


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})(%?)\.\.({_NUMBER})(%?)\s*")


def parse_ranges(text: str) -> tuple[Range, ...]:
    """Read "0..3000", "1%..99%", or one such range per channel with commas between them."""
    ranges = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part)
        if found is None or found[2] != found[4]:
            raise ValueError(
                f"expected LOW..HIGH, such as 0..3000, or percentiles, such as 1%..99%; got "
                f"{part!r}"
            )
        ranges.append(Range(float(found[1]), float(found[3]), percent=bool(found[2])))
    return tuple(ranges)


@dataclass(frozen=True)
class Scaling:
    """What turns the values of each channel into 0..255: clipped ranges, or nothing for bytes.

    Attributes:
        ranges: (low, high) per channel; empty if the values are bytes, which stay as they are.
        how: where the ranges are from, for a note.
    """

    ranges: tuple[tuple[float, float], ...]
    how: str = ""

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return values (F, *S) on 0..255; float32, or the bytes that came in."""
        if not self.ranges:
            return values
        scaled = np.empty(values.shape, np.float32)
        for channel, (low, high), out in zip(values, self.ranges, scaled, strict=True):
            np.subtract(channel, low, out=out, casting="unsafe")
            out *= np.float32(255 / (high - low))
            np.clip(out, 0, 255, out=out)
        return scaled

    def __str__(self) -> str:
        """Return what was done, for a note."""
        if not self.ranges:
            return "bytes, taken as 0..255"
        spans = ", ".join(f"{low:.6g}..{high:.6g}" for low, high in self.ranges)
        return f"scaled to 0..255 from {spans} ({self.how})"


def find_scaling(
    sample: Sequence[np.ndarray],
    dtype: np.dtype,
    ranges: Sequence[Range] = (),
    counted: str = "pixels",
) -> Scaling:
    """Find what scales the channels of a guide to 0..255.

    Args:
        sample: values of each channel for the percentiles; those that are not finite are left out.
        dtype: the type of the file. Unsigned bytes stay as they are unless ranges are given.
        ranges: one for all channels, or one per channel; without any, the percentiles 1 and 99.
        counted: what the sample holds, for the note.

    Raises:
        ValueError: the number of ranges fits neither; a channel holds no finite value.
    """
    count = len(sample)
    if not ranges and dtype == np.uint8:
        return Scaling(())
    if len(ranges) not in (0, 1, count):
        raise ValueError(
            f"expected one range, or one for each of {count} channels; got {len(ranges)}"
        )
    wanted = tuple(ranges) or (Range(*PERCENTILES, percent=True),)
    wanted = wanted * count if len(wanted) == 1 else wanted
    ends = tuple(_ends(values, span) for values, span in zip(sample, wanted, strict=True))
    percents = dict.fromkeys(f"{s.low:g} % and {s.high:g} %" for s in wanted if s.percent)
    how = f"{'; '.join(percents)} of the {counted} of each channel" if percents else "as given"
    return Scaling(ends, how)


def _ends(values: np.ndarray, span: Range) -> tuple[float, float]:
    if not span.percent:
        return span.low, span.high
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if finite.size == 0:
        raise ValueError("a channel has no valid value to take percentiles of")
    low, high = np.percentile(finite, (span.low, span.high)).tolist()
    return (low, high) if low < high else (low, low + 1.0)  # constant: it becomes 0
