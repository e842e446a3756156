"""Kernels over free points, on NumPy arrays: in the core, or else in the reference engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crfrnn._arrays import to_torch
from crfrnn.core import inference as core
from crfrnn.core.inference import Options, Points
from crfrnn.core.limits import FARTHEST

from .containers import suits_core
from .marginals import refuse_infinite


class PointFilter:
    """A normalized Gaussian over free points, which maps (C, N) to itself.

    Args:
        points: (N, D) float32, divided by their bandwidths.
        size: the grid of the points; (N,) if there is none.
        normalization: "symmetric", "after", "before" or "none".

    Attributes:
        dtype: float32, or float64 if the points reach farther than a lattice in float32 can.
    """

    def __init__(self, points: np.ndarray, size: tuple[int, ...], normalization: str) -> None:
        self._arguments = points, size, normalization
        self.size = size
        self.in_core = suits_core(None)
        is_far = max(points.max(), -points.min()) > FARTHEST["float32"]
        self.dtype = np.dtype(np.float64 if is_far else np.float32)
        self._filters: dict[np.dtype[Any], Any] = {}
        self.filter(self.dtype)

    def filter(self, dtype: np.dtype[Any]) -> Any:
        """The filter in a float type; it is built when it is first asked for."""
        if dtype not in self._filters:
            points, size, normalization = self._arguments
            self._filters[dtype] = self._build(
                points.astype(dtype, copy=False), size, normalization
            )
        return self._filters[dtype]

    def _build(self, points: np.ndarray, size: tuple[int, ...], normalization: str) -> Any:
        if self.in_core:
            return core.lattice_filter(Points.of_array(points, size), normalization)
        from .filters import KernelFilter  # late: it needs torch
        from .lattice import Lattice

        lattice = Lattice(to_torch(points[None]))
        return KernelFilter.normalized(lattice, (1, len(points)), normalization)

    def __call__(self, q: np.ndarray) -> np.ndarray:
        """Filter q (C, N), float32."""
        filter, values = self.filter(self.dtype), q.astype(self.dtype, copy=False)
        if self.in_core:
            filtered = core.apply(filter, values)
        else:
            filtered = filter(to_torch(values[None]))[0].numpy()
        return filtered.astype(q.dtype, copy=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Store the points; the lattice is built again."""
        return PointFilter, self._arguments

    def __deepcopy__(self, memo: dict[int, Any]) -> PointFilter:
        """The filter itself, which does not change."""
        return self


def point_marginals(
    logits: np.ndarray,
    filters: Sequence[PointFilter],
    weights: np.ndarray,
    compatibility: np.ndarray | None,
    iterations: int,
) -> np.ndarray:
    """Marginals (C, N) of `logits` (C, N) after mean-field steps.

    Args:
        logits: float32, like the result. If a filter is in float64, so are the steps between.
        filters: one per kernel, at least one, all on one grid.
        weights: kernel weights, (K, C) or (K, C, C).
        compatibility: (C, C) penalty for one label beside another; None is Potts.
        iterations: number of steps.
    """
    options, size = Options(iterations), filters[0].size
    dtype = np.result_type(*(filter.dtype for filter in filters))
    built = [filter.filter(dtype) for filter in filters]
    values = logits.astype(dtype, copy=False)
    if filters[0].in_core:
        result = core.infer(values[None], [built], weights, compatibility, options, row=size[-1])
        refuse_infinite(result.is_finite, result.probs)
        marginals: np.ndarray = result.probs[0].astype(logits.dtype, copy=False)
        return marginals
    from .inference import Pairwise  # late: it needs torch
    from .on_tensors import run

    grid = to_torch(values.reshape(1, len(logits), *size))
    pairwise = Pairwise(
        built,
        to_torch(weights).to(grid),
        None if compatibility is None else to_torch(compatibility).to(grid),
    )
    outcome = run(grid, pairwise, options)
    refuse_infinite(outcome.is_finite, outcome.probs)
    return np.asarray(outcome.probs).reshape(logits.shape).astype(logits.dtype, copy=False)
