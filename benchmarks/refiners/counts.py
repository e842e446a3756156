"""Counts of pixels as short lines of JSON: the places and values of those that are not zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from crfrnn.evaluation.metrics import Counts

Sparse = list[list[int]]


def _thin(array: np.ndarray) -> Sparse:
    places = np.flatnonzero(array)
    return [places.tolist(), array.ravel()[places].tolist()]


def _thick(sparse: Sparse, shape: tuple[int, ...]) -> np.ndarray:
    array = np.zeros(shape, np.int64)
    array.ravel()[sparse[0]] = sparse[1]
    return array


def encode(counts: Counts) -> dict[str, Sparse]:
    """The counts of a photograph as JSON values."""
    return {f.name: _thin(np.asarray(getattr(counts, f.name))) for f in fields(Counts)}


def decode(tree: Mapping[str, Any], classes: int, widths: int) -> Counts:
    """What `encode` was given."""
    shapes = {
        "confusion": (classes, classes),
        "trimap": (widths, classes, classes),
        "band": (2, classes),
        "contour": (4, classes),
    }
    return Counts(**{name: _thick(tree[name], shape) for name, shape in shapes.items()})
