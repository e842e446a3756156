"""Whole inferences in the compiled core: filters of kernels, then marginals and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from crfrnn import _checks
from crfrnn._arrays import cast

from .limits import EXACT_TOLERANCE, check_dimensions, refuse_far
from .native import core
from .threads import share_out, threads

#: A kernel's normalized filter over the pixels of one image. It does not change.
Filter = Any


class Options(NamedTuple):
    """The options of an inference; all are numbers, so a registered operator takes a list.

    Attributes:
        iterations: mean-field steps; 0 returns the logits.
        tolerance: an image stops when the mean change of its marginals falls below this; 0 never
            stops it.
        half: whether lattices store their values as float16 if the engine supports it.
        save: whether the marginals before each step are kept for the backward pass.
    """

    iterations: int
    tolerance: float = 0.0
    half: bool = False
    save: bool = False

    def flatten(self) -> list[float]:
        """The options as a list of numbers."""
        return [float(number) for number in self]

    @classmethod
    def unflatten(cls, numbers: Sequence[float]) -> Options:
        """The inverse of `flatten`."""
        iterations, tolerance, half, save = numbers
        return cls(int(iterations), tolerance, bool(half), bool(save))


class Inferred(NamedTuple):
    """What `infer` returns.

    Attributes:
        probs: (B C N) marginals.
        labels: (B N) int64, the likeliest class of each pixel.
        steps: the updates computed for each image.
        kept: for each image, the classes that took part; empty if all did.
        bounds: for each image, an upper bound of every message to the other classes.
        is_finite: whether all marginals are finite.
    """

    probs: np.ndarray
    labels: np.ndarray
    steps: list[int]
    kept: list[list[int]]
    bounds: list[float]
    is_finite: bool


class Points(NamedTuple):
    """The points of an image: maps of a grid, divided by their bandwidths.

    Attributes:
        maps: D float32 or float64 arrays, of the size of the grid or broadcasting to it.
        bandwidths: D numbers.
        size: S, the size of the grid.
    """

    maps: Sequence[np.ndarray]
    bandwidths: Sequence[float]
    size: Sequence[int]

    @classmethod
    def of_array(cls, points: np.ndarray, size: Sequence[int] | None = None) -> Points:
        """Take an array (N, D) of points, already divided; N is the product of `size`, if given."""
        size = (len(points),) if size is None else size
        columns = np.moveaxis(points.reshape(*size, -1), -1, 0)
        return cls(list(columns), [1.0] * len(columns), size)

    def array(self) -> np.ndarray:
        """The points as an array (N, D)."""
        with np.errstate(all="ignore"):
            columns = [
                np.broadcast_to(part / part.dtype.type(bandwidth), self.size).ravel()
                for part, bandwidth in zip(self.maps, self.bandwidths, strict=True)
            ]
        return np.stack(columns, axis=1)


def lattice_filter(
    points: Points, normalization: str, mask: np.ndarray | None = None, number: int | None = None
) -> Filter:
    """Build the filter of a kernel on a lattice.

    Args:
        points: of one image.
        normalization: "symmetric", "after", "before" or "none".
        mask: (N,) bool; pixels outside take no part.
        number: of threads; default `threads()`.
    """
    check_dimensions(len(points.maps))
    try:
        return core().lattice_filter(*points, normalization, mask, number or threads())
    except ValueError:  # the core checks the values too, but its message has no remedy
        refuse_points(points)
        raise


def joined_filter(points: Points, normalization: str, held: np.ndarray, spread: float) -> Filter:
    """Build the filter of a kernel on a lattice for inferences with clamped pixels.

    Args:
        points: of one image.
        normalization: as in `lattice_filter`.
        held: (N,) bool, the clamped pixels.
        spread: squares of clamped pixels within which no feature varies by more bandwidths than
            this send as one, from the mean of their points.
    """
    check_dimensions(len(points.maps))
    try:
        return core().joined_filter(*points, normalization, held, spread, threads())
    except ValueError:
        refuse_points(points)
        raise


def refuse_points(points: Points) -> None:
    """Raise with a remedy if points are not finite, or too far for a lattice."""
    array = points.array()
    _checks.finite("features", array)
    refuse_far(float(np.abs(array).max()), array.dtype.name)


def exact_filter(
    points: Points, normalization: str, mask: np.ndarray | None = None, number: int | None = None
) -> Filter:
    """Build the filter of a kernel that sums over all pairs of points; see `lattice_filter`."""
    tolerance = EXACT_TOLERANCE[points.maps[0].dtype.name]
    try:
        return core().exact_filter(*points, normalization, mask, tolerance, number or threads())
    except ValueError:
        _checks.finite("features", points.array())
        raise


def grid_filter(
    size: Sequence[int],
    bandwidths: Sequence[float],
    reach: float,
    normalization: str,
    dtype: np.dtype[Any],
    mask: np.ndarray | None = None,
) -> Filter:
    """Build the filter of a Gaussian of the position: a convolution along each axis of a grid.

    Args:
        size: of the grid.
        bandwidths: in pixels, one per axis in the order of `size`.
        reach: the taps of a convolution end at this many bandwidths.
        normalization: as in `lattice_filter`.
        dtype: float32 or float64.
        mask: as in `lattice_filter`.
    """
    build = core().grid_filter32 if dtype == np.float32 else core().grid_filter64
    return build(list(size), list(bandwidths), reach, normalization, mask, threads())


def apply(filter: Filter, q: np.ndarray) -> np.ndarray:
    """Filter q (C, N)."""
    filtered: np.ndarray = filter.apply(np.ascontiguousarray(q), threads())
    return filtered


def infer(
    logits: np.ndarray,
    filters: Sequence[Sequence[Filter]],
    weights: np.ndarray,
    compatibility: np.ndarray | None,
    options: Options,
    *,
    row: int | None = None,
    held: np.ndarray | None = None,
    prune: bool = True,
) -> Inferred:
    """Run mean-field inference without gradients; see csrc/crf/inference.hpp.

    Args:
        logits: (B, C, N) float32 or float64.
        filters: for each image, the filter of each kernel.
        weights: kernel weights, (K, C) or (K, C, C).
        compatibility: (C, C) penalty for one label beside another; None is Potts.
        options: iterations, tolerance and precision.
        row: pixels in a row of the grid; by default there is no grid.
        held: (B, N) bool, the clamped pixels; see csrc/crf/clamped.hpp.
        prune: leave out classes that provably win no pixel; only Potts with weights >= 0 allows it.
    """
    like = logits.dtype
    try:
        probs, labels, *report = core().infer(
            np.ascontiguousarray(logits),
            logits.shape[2] if row is None else row,
            [list(of_image) for of_image in filters],
            np.ascontiguousarray(cast(weights, like)),
            None if compatibility is None else np.ascontiguousarray(cast(compatibility, like)),
            options.iterations,
            options.tolerance,
            prune,
            options.half,
            None if held is None else np.ascontiguousarray(held),
            *share_out(len(logits), logits.shape[2]),
        )
    except ValueError:  # the core's message does not say where
        _checks.finite("logits", logits)
        raise
    # A view, because C++ and NumPy may name different types of the same size int64.
    return Inferred(probs, labels.view(np.int64), *report)


def infer_masks(
    logits: np.ndarray,
    filters: Sequence[Filter],
    weights: np.ndarray,
    options: Options,
    *,
    row: int,
    out: np.ndarray,
    held: np.ndarray | None = None,
) -> bool:
    """Run the inference of independent masks of one image; see csrc/crf/independent.hpp.

    Args:
        logits: (K, N) of the foreground against the background.
        filters: the filter of each kernel.
        weights: kernel weights (kernels, 2) of background and foreground.
        options: iterations and precision.
        row: pixels in a row of the grid.
        out: (K, N), filled with the marginals of the foreground.
        held: (K, N) bool, the clamped pixels of each mask, which keep their logits.

    Returns:
        Whether the marginals are finite.
    """
    return bool(
        core().infer_masks(
            np.ascontiguousarray(logits),
            row,
            list(filters),
            np.ascontiguousarray(cast(weights, logits.dtype)),
            options.iterations,
            options.half,
            None if held is None else np.ascontiguousarray(held),
            out,
            threads(),
        )
    )
