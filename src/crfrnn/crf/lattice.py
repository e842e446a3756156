"""Gaussian filters over free features: the permutohedral lattice and the exact sum."""

from __future__ import annotations

import numpy as np

from crfrnn import _checks
from crfrnn._arrays import (
    Array,
    Container,
    cast,
    is_tensor,
    namespace,
    place,
    to_float,
    to_numpy,
    to_torch,
)
from crfrnn._door import admit
from crfrnn.core.inference import Points, apply, exact_filter, lattice_filter
from crfrnn.core.limits import check_dimensions
from crfrnn.core.names import FILTERS, NORMALIZATIONS, EngineName, Filter, Normalization

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
        targets: (..., M, D) points to slice at, divided by the same bandwidths; the features are
            then only splat. By default values are sliced where they were splat. The lattice lies
            around both sets, so every target has vertices.
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

    def __init__(
        self, features: Array, *, targets: Array | None = None, engine: EngineName | None = None
    ) -> None:
        features = _points("features", features)
        check_dimensions(features.shape[-1])
        self.shape = features.shape[:-1]
        self.target_shape = self.shape
        self.place = place(features)
        self.has_targets = targets is not None
        points = to_float(features)
        if targets is not None:
            targets = _targets(targets, features)
            self.target_shape = targets.shape[:-1]
            points = _joined(points, cast(targets, points.dtype))
        self.size = (points.shape[-2],)
        points, self.engine = containers.for_engine(points, engine)
        self.dtype = points.dtype
        self.arrays = containers.build(points.reshape(-1, *points.shape[-2:]), self.engine)

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

    def filter(self, values: Container, *, reverse: bool = False) -> Container:
        """Filter values from the points to the targets, which by default are the points.

        Args:
            values: (..., N, C), with the leading sizes of the features, and of their container.
            reverse: from the targets (..., M, C) to the points (..., N, C), blurring the axes in
                reverse order. This is the exact adjoint:
                ⟨filter(u), v⟩ = ⟨u, filter(v, reverse=True)⟩.

        Returns:
            (..., M, C), or (..., N, C) without targets, of the type of `values`.

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
        shape, to = self.shape, self.target_shape
        name = "targets" if self.has_targets and reverse else "features"
        if reverse:
            shape, to = to, shape
        values = _values(values, shape, self.place, name)
        flat = values.reshape(-1, *values.shape[-2:])
        if self.place == "NumPy" and self.engine != "cpu":
            flat = to_torch(flat)
        flat = cast(flat, self.dtype)
        if self.has_targets:  # they send zeros; in reverse, the features do
            zeros = _zeros(flat, to[-1])
            flat = _joined(zeros, flat) if reverse else _joined(flat, zeros)
        out = containers.filter(flat, self.arrays, reverse, self.engine)
        if self.has_targets:
            out = out[:, : to[-1]] if reverse else out[:, shape[-1] :]
        out = to_numpy(out) if self.place == "NumPy" else out
        filtered: Container = cast(out.reshape(*to, values.shape[-1]), values.dtype)
        _checks.finite_result("Lattice.filter", filtered, values=values)
        return filtered


def gaussian_filter(
    values: Container,
    features: Container,
    *,
    targets: Container | None = None,
    method: Filter = "lattice",
    normalization: Normalization = "none",
    engine: EngineName | None = None,
) -> Container:
    """Filter values with a Gaussian over free features: Σ_j exp(-½ |f_i - f_j|²) v_j.

    The sum includes j = i, as in every dense-CRF implementation. With targets t the result i is
    Σ_j exp(-½ |t_i - f_j|²) v_j: values known at some points, wanted at others.

    Args:
        values: (..., N, C) values v to sum; a NumPy array or a torch tensor.
        features: (..., N, D) points, already divided by their bandwidths; likewise.
        targets: (..., M, D) points where the sums are wanted, divided by the same bandwidths; by
            default the features.
        method: "lattice", linear in N + M and approximate (a few percent of a normalized
            message); or "exact", the sum itself: N M terms, N² without targets.
        normalization: "none" (default) changes nothing. With n, the filter's response to ones,
            "after" divides the output by n, "before" divides the input by n, and "symmetric"
            divides both by √n. With "none" the gain of the lattice remains in the result. With
            targets, all n are responses to ones at the features: "after" divides by n at the
            targets (the result is a weighted mean of the values, and 0 where none is in reach),
            "before" by n at the features, and "symmetric" by the square roots of both.
        engine: "reference", "cpu" or "triton"; by default the fastest one for the array.

    Returns:
        (..., N, C), or (..., M, C) with targets, of the type of `values`. Tensors are
        differentiable with respect to `values`, `features` and `targets`. With respect to the
        points, the lattice has a first derivative only, and none on the faces of its simplices.

    Raises:
        ValueError: shapes do not fit, points are empty or not finite, or an unknown option.
        TypeError: values or points are not floating point.

    Example:
        >>> import numpy as np
        >>> from crfrnn import gaussian_filter
        >>> points = np.array([[0.0], [1.0], [9.0]])
        >>> gaussian_filter(np.eye(3), points, method="exact")[0].round(5)
        array([1.     , 0.60653, 0.     ])
        >>> halfway = np.array([[0.5]])
        >>> options = {"method": "exact", "normalization": "after"}
        >>> gaussian_filter(np.array([[0.0], [1.0], [7.0]]), points, targets=halfway, **options)
        array([[0.5]])
    """
    _checks.one_of("method", method, FILTERS)
    _checks.one_of("normalization", normalization, NORMALIZATIONS)
    features = _points("features", features)
    values = _values(values, features.shape[:-1], place(features), "features")
    if targets is not None:
        targets = _targets(targets, features)
    wide = to_float(values)
    points = cast(features, wide.dtype)
    ends = None if targets is None else cast(targets, wide.dtype)
    points, engine = containers.for_engine(points, engine)
    if is_tensor(points):
        wide = to_torch(wide)
    out: Array
    if ends is not None:
        ends = to_torch(ends) if is_tensor(points) else ends
        out = _filter_to_targets(wide, points, ends, method, normalization, engine)
    elif is_tensor(points):
        from .filters import filter_points  # late: it needs torch

        out = filter_points(wide, points, method, normalization, engine)
    else:
        out = _filter_points(wide, points, method, normalization)
    result: Container = cast(out if is_tensor(values) else to_numpy(out), values.dtype)
    _checks.finite_result("gaussian_filter", result, values=values)
    return result


def _filter_to_targets(
    values: Array, points: Array, targets: Array, method: str, normalization: str, engine: str
) -> Array:
    """`gaussian_filter` from points to targets, all in one container."""
    shape = (*targets.shape[:-1], values.shape[-1])
    values, points, targets = (a.reshape(-1, *a.shape[-2:]) for a in (values, points, targets))
    n = points.shape[1]
    if method == "lattice":
        check_dimensions(points.shape[-1])
        arrays = containers.build(_joined(points, targets), engine)

    def send(values: Array, to: Array) -> Array:
        if method == "exact":
            return containers.exact(values, points, to, engine)
        padded = _joined(values, _zeros(values, targets.shape[1]))
        filtered = containers.filter(padded, arrays, False, engine)
        return filtered[:, n:] if to is targets else filtered[:, :n]

    def response(to: Array) -> Array:
        # At the square root of the smallest normal number, 1/n and its derivative are finite.
        smallest = float(namespace(values).finfo(values.dtype).tiny) ** 0.5
        return send(namespace(values).ones_like(values[..., :1]), to).clip(smallest, None)

    power = {"symmetric": 0.5}.get(normalization, 1.0)
    if normalization in ("before", "symmetric"):
        values = values / response(points) ** power
    out = send(values, targets)
    if normalization in ("after", "symmetric"):
        out = out / response(targets) ** power
    return out.reshape(shape)


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


def _joined(first: Array, second: Array) -> Array:
    """Concatenate points, or their values, along the axis before the last."""
    joined: Array = namespace(first).concatenate([first, second], -2)
    return joined


def _zeros(values: Array, rows: int) -> Array:
    """Zeros (B, rows, C) for values (B, N, C)."""
    shape = (values.shape[0], rows, values.shape[2])
    return values.new_zeros(shape) if is_tensor(values) else np.zeros(shape, values.dtype)


def _points(name: str, given: Array) -> Array:
    points = admit(name, given)
    if points.ndim < 2 or 0 in points.shape:
        raise ValueError(
            f"{name} must be (..., N, D) and not empty; got {_checks.shape_text(points)}"
            + f". For one dimension, give {name}[:, None]" * (points.ndim == 1)
        )
    _checks.floating(name, points)
    _checks.finite(name, points)
    return points


def _targets(given: Array, features: Array) -> Array:
    targets = admit("targets", given)
    shape = tuple(targets.shape)
    if len(shape) < 2 or (*shape[:-2], shape[-1]) != (*features.shape[:-2], features.shape[-1]):
        raise ValueError(
            f"targets must be (..., M, D) with the leading sizes and the D of the features "
            f"{_checks.shape_text(features)}; got {shape}"
        )
    if place(targets) != place(features):
        raise ValueError(
            f"targets are on {place(targets)} but features on {place(features)}; move one of them"
        )
    return _points("targets", targets)


def _values(given: Array, shape: tuple[int, ...], where: str, name: str) -> Array:
    values = admit("values", given)
    if values.ndim < 2 or values.shape[:-1] != shape or values.shape[-1] == 0:
        raise ValueError(
            f"values must be (..., N, C) with the leading sizes of the {name} {tuple(shape)}; "
            f"got {_checks.shape_text(values)}"
            + ". For one channel, give values[..., None]"
            * (values.shape == shape)
        )
    if place(values) != where:
        raise ValueError(f"values are on {place(values)} but {name} on {where}; move one of them")
    _checks.floating("values", values)
    return values
