"""Kernels over free points, on NumPy arrays: in the core, or by the reference engine without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crfrnn._arrays import to_torch
from crfrnn.core import inference as core
from crfrnn.core.inference import Options, Points

from .containers import suits_core
from .marginals import refuse_infinite


class PointFilter:
    """A normalized Gaussian over free points, which maps (C, N) to itself.

    Args:
        points: (N, D) float32, divided by their bandwidths.
        size: the grid of the points; (N,) if there is none.
        normalization: "symmetric", "after", "before" or "none".
    """

    def __init__(self, points: np.ndarray, size: tuple[int, ...], normalization: str) -> None:
        self._arguments = points, size, normalization
        self.size = size
        self.in_core = suits_core(None)
        self.filter: Any
        if self.in_core:
            self.filter = core.lattice_filter(Points.of_array(points, size), normalization)
        else:
            from .filters import KernelFilter  # late: it needs torch
            from .lattice import Lattice

            lattice = Lattice(to_torch(points[None]))
            self.filter = KernelFilter.normalized(lattice, (1, len(points)), normalization)

    def __call__(self, q: np.ndarray) -> np.ndarray:
        """Filter q (C, N)."""
        if self.in_core:
            return core.apply(self.filter, q)
        filtered: np.ndarray = self.filter(to_torch(q[None]))[0].numpy()
        return filtered

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
        logits: float32.
        filters: one per kernel, at least one, all on one grid.
        weights: kernel weights, (K, C) or (K, C, C).
        compatibility: (C, C) penalty for one label beside another; None is Potts.
        iterations: number of steps.
    """
    options, size = Options(iterations), filters[0].size
    if filters[0].in_core:
        given = [[filter.filter for filter in filters]]
        result = core.infer(logits[None], given, weights, compatibility, options, row=size[-1])
        refuse_infinite(result.is_finite, result.probs)
        marginals: np.ndarray = result.probs[0]
        return marginals
    from .inference import Pairwise  # late: it needs torch
    from .on_tensors import run

    pairwise = Pairwise(
        [filter.filter for filter in filters],
        to_torch(weights),
        None if compatibility is None else to_torch(compatibility),
    )
    grid = to_torch(logits.reshape(1, len(logits), *size))
    outcome = run(grid, pairwise, options)
    refuse_infinite(outcome.is_finite, outcome.probs)
    return np.asarray(outcome.probs).reshape(logits.shape)
