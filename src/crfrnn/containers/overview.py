"""A picture of a large image with its labels drawn over it, reduced to what a screen shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crfrnn.io.files import write_image

from .scaling import Scaling
from .source import Source, Window

#: Pixels along the longer side of the picture, at most.
MOST_SIDE = 2048
#: Bytes for a strip of the image while it is reduced, in all its copies.
_STRIP_BYTES = 64 << 20


class Overview:
    """Keeps some of the labels as they are written, and draws them over the reduced image.

    Args:
        size: height and width of the image.

    Attributes:
        step: side of the square of pixels that becomes one.

    Example:
        >>> import numpy as np
        >>> from crfrnn.containers.overview import Overview
        >>> view = Overview((4000, 3000))
        >>> view.step, view.labels.shape
        (2, (2000, 1500))
    """

    def __init__(self, size: tuple[int, ...]) -> None:
        self.size, self.step = size, -(-max(size) // MOST_SIDE)
        # The label of a square is that of its middle; a narrow image has no whole square.
        self._middle = tuple(min(self.step // 2, length - 1) for length in size)
        counts = [
            len(range(first, length, self.step))
            for first, length in zip(self._middle, size, strict=True)
        ]
        self.labels = np.zeros(counts, np.int64)

    def add(self, window: Window, labels: np.ndarray) -> None:
        """Take over the labels (1, h, w) of a window."""
        places, pixels = [], []
        for part, middle in zip(window, self._middle, strict=True):
            first = -((middle - part.start) // self.step)  # rounded up
            start = first * self.step + middle - part.start
            places.append(
                slice(first, first + len(range(start, part.stop - part.start, self.step)))
            )
            pixels.append(slice(start, None, self.step))
        self.labels[tuple(places)] = labels[0][tuple(pixels)]

    def write(self, path: Path, image: Source, scaling: Scaling, palette: bytes | None) -> None:
        """Draw the labels over the first three bands of the image, or over its first one."""
        from crfrnn.plots.figures import overlay

        write_image(path, overlay(self._reduced(image, scaling), self.labels, palette=palette))

    def _reduced(self, image: Source, scaling: Scaling) -> np.ndarray:
        """Return the mean color (h, w, 3) of each square; pixels without data are black."""
        height, width = self.labels.shape
        bands = 3 if image.channels >= 3 else 1
        picture = np.empty((height, width, 3), np.uint8)
        row_bytes = self.step * self.size[1] * (image.channels * (4 + image.dtype.itemsize) + 24)
        rows = max(1, _STRIP_BYTES // row_bytes)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            stop = self.size[0] if bottom == height else bottom * self.step
            window = (slice(top * self.step, stop), slice(0, self.size[1]))
            values, valid = scaling(image.read(window))[:bands], image.valid(window)
            if valid is not None:
                values = np.where(valid, values, 0)
            means = _means(
                _means(values.astype(np.float32), bottom - top, self.step, 1), width, self.step, 2
            )
            picture[top:bottom] = np.moveaxis(means, 0, -1).clip(0, 255)
        return picture


def _means(values: np.ndarray, count: int, step: int, axis: int) -> np.ndarray:
    """Average `count` runs of `step` values along an axis; the last run takes the rest."""
    starts = np.arange(count) * step
    lengths = np.diff(starts, append=values.shape[axis])
    shape = [-1 if place == axis else 1 for place in range(values.ndim)]
    means: np.ndarray = np.add.reduceat(values, starts, axis=axis) / lengths.reshape(shape)
    return means
