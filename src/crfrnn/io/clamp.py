"""Reading maps of clamped pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .arrays import read_arrays
from .options import ReadOptions, Size
from .scores import ARRAY_SUFFIXES, read_scores

_LABELS = ReadOptions(kind="labels")


def read_clamp(path: Path, size: Size) -> np.ndarray:
    """Read a map (H, W): bool, or the classes of clamped pixels and `free_value`."""
    if path.suffix.lower() in ARRAY_SUFFIXES:
        arrays = list(read_arrays(path).values())
        if len(arrays) == 1 and arrays[0].dtype == np.bool_:
            if arrays[0].shape != size:
                raise ValueError(
                    f"{path}: a map must have the size of the image, {size}; got {arrays[0].shape}"
                )
            return arrays[0]
    return read_scores(path, size, _LABELS).labels()
