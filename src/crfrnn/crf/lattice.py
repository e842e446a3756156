"""Gaussian filters over free features: the permutohedral lattice and the exact sum."""

from __future__ import annotations

import numpy as np

from crfrnn import _checks
from crfrnn._arrays import Array, cast, is_tensor, place, to_float, to_numpy, to_torch
from crfrnn.core.inference import Points, apply, exact_filter, lattice_filter
from crfrnn.core.limits import check_dimensions
from crfrnn.core.names import NORMALIZATIONS

from . import containers


class Lattice:
    """A permutohedral lattice around a set of points: build once, filter many times.

    Splat, blur and slice of Adams, Baek & Davis (2010) approximate the Gaussian sum
    `out_i = Σ_j exp(-½ |f_i - f_j|²) v_j` in time linear in N. The result is 0.5 to 0.9 of the
    exact sum. Normalization removes this gain; see `gaussian_filter`.

    Args:
        features: (..., N, D) points, already divided by their bandwidths; D from 1 to 32. The
            lattice is not invariant to the order of the D axes; kernels here use (x, y, color...).
            A NumPy array or a torch tensor.
        engine: "reference", "cpu" or "triton"; by default the fastest one for the array.

    Raises:
        ValueError: features are empty or not finite, or reach beyond 2¹⁷ bandwidths (2²³ in
            float64). In the last case a bandwidth is far too small.

    Example:
        >>> import numpy as np
        >>> from crfrnn import Lattice
        >>> lattice = Lattice(np.random.default_rng(0).random((100, 5)))
        >>> lattice.filter(np.ones((100, 3))).shape
        (100, 3)
    """

    kind = "lattice"

    def __init__(self, features: Array, *, engine: str | None = None) -> None:
        _check_features(features)
        check_dimensions(features.shape[-1])
        self.shape = features.shape[:-1]
        self.size = (features.shape[-2],)
        self.place = place(features)
        features, self.engine = containers.for_engine(to_float(features), engine)
        self.dtype = features.dtype
        self.arrays = containers.build(features.reshape(-1, *features.shape[-2:]), self.engine)

    @property
    def vertices(self) -> int:
        """Number of lattice vertices, over all batch items.

        Example:
            >>> import numpy as np
            >>> from crfrnn import Lattice
            >>> Lattice(np.zeros((100, 2))).vertices  # equal points share one simplex
            3
        """
        return int(self.arrays.neighbor.shape[1])

    def filter(self, values: Array, *, reverse: bool = False) -> Array:
        """Filter values at the points.

        Args:
            values: (..., N, C), with the leading sizes of the features, and of their container.
            reverse: blur the axes in reverse order. This is the exact adjoint:
                ⟨filter(u), v⟩ = ⟨u, filter(v, reverse=True)⟩.

        Returns:
            (..., N, C), of the type of `values`.

        Example:
            >>> import numpy as np
            >>> from crfrnn import Lattice
            >>> random = np.random.default_rng(0)
            >>> lattice = Lattice(random.random((50, 3)) * 9)
            >>> u, v = random.random((2, 50, 1))
            >>> forward, adjoint = lattice.filter(u), lattice.filter(v, reverse=True)
            >>> np.allclose((forward * v).sum(), (u * adjoint).sum())
            True
        """
        _check_values(values, self.shape, self.place)
        flat = values.reshape(-1, *values.shape[-2:])
        if self.place == "NumPy" and self.engine != "cpu":
            flat = to_torch(flat)
        out = containers.filter(cast(flat, self.dtype), self.arrays, reverse, self.engine)
        out = to_numpy(out) if self.place == "NumPy" else out
        return cast(out.reshape(values.shape), values.dtype)


def gaussian_filter(
    values: Array,
    features: Array,
    *,
    method: str = "lattice",
    normalization: str = "none",
    engine: str | None = None,
) -> Array:
    """Filter values with a Gaussian over free features: Σ_j exp(-½ |f_i - f_j|²) v_j.

    The sum includes j = i, as in every dense-CRF implementation.

    Args:
        values: (..., N, C) values v to sum; a NumPy array or a torch tensor.
        features: (..., N, D) points, already divided by their bandwidths; likewise.
        method: "lattice", linear in N and approximate (a few percent of a normalized message);
            or "exact", the sum itself, quadratic in N.
        normalization: "none" (default) changes nothing. With n, the filter's response to ones,
            "after" divides the output by n, "before" divides the input by n, and "symmetric"
            divides both by √n. With "none" the gain of the lattice remains in the result.
        engine: "reference", "cpu" or "triton"; by default the fastest one for the array.

    Returns:
        (..., N, C), of the type of `values`. Tensors are differentiable with respect to `values`
        and `features`. With respect to `features`, the lattice has a first derivative only, and
        none on the faces of its simplices.

    Example:
        >>> import numpy as np
        >>> from crfrnn import gaussian_filter
        >>> points = np.array([[0.0], [1.0], [9.0]])
        >>> gaussian_filter(np.eye(3), points, method="exact")[0].round(5)
        array([1.     , 0.60653, 0.     ])
    """
    _checks.one_of("method", method, ("lattice", "exact"))
    _checks.one_of("normalization", normalization, NORMALIZATIONS)
    _check_features(features)
    _check_values(values, features.shape[:-1], place(features))
    wide = to_float(values)
    points = cast(features, wide.dtype)
    points, engine = containers.for_engine(points, engine)
    if is_tensor(points):
        from .filters import filter_points  # late: it needs torch

        out: Array = filter_points(to_torch(wide), points, method, normalization, engine)
        out = out if is_tensor(values) else to_numpy(out)
    else:
        out = _filter_points(wide, points, method, normalization)
    return cast(out, values.dtype)


def _filter_points(
    values: np.ndarray, points: np.ndarray, method: str, normalization: str
) -> np.ndarray:
    """`gaussian_filter` in the compiled core, whose filters take (C, N)."""
    build = lattice_filter if method == "lattice" else exact_filter
    out = [
        apply(build(Points.of_array(of_item), normalization), item.T).T
        for item, of_item in zip(
            values.reshape(-1, *values.shape[-2:]),
            points.reshape(-1, *points.shape[-2:]),
            strict=True,
        )
    ]
    return np.stack(out).reshape(values.shape)


def _check_features(features: Array) -> None:
    if features.ndim < 2 or 0 in features.shape:
        raise ValueError(
            f"features must be (..., N, D) and not empty; got {_checks.shape_text(features)}"
        )
    _checks.floating("features", features)
    _checks.finite("features", features)


def _check_values(values: Array, shape: tuple[int, ...], where: str) -> None:
    if values.ndim < 2 or values.shape[:-1] != shape or values.shape[-1] == 0:
        raise ValueError(
            f"values must be (..., N, C) with the leading sizes of the features {tuple(shape)}; "
            f"got {_checks.shape_text(values)}"
        )
    if place(values) != where:
        raise ValueError(f"values are on {place(values)} but features on {where}; move one of them")
    _checks.floating("values", values)
