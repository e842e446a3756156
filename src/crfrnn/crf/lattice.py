"""Gaussian filters over free features: the permutohedral lattice and the exact sum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from crfrnn import _checks, ops
from crfrnn.core.names import MAX_DIMENSIONS, NORMALIZATIONS


class Lattice:
    """A permutohedral lattice around a set of points: build once, filter many times.

    Splat, blur and slice of Adams, Baek & Davis (2010) approximate the Gaussian sum
    `out_i = Σ_j exp(-½ |f_i - f_j|²) v_j` in time linear in N. The result is 0.5 to 0.9 of the
    exact sum. Normalization removes this gain; see `gaussian_filter`.

    Args:
        features: (..., N, D) points, already divided by their bandwidths; D from 1 to 32. The
            lattice is not invariant to the order of the D axes; kernels here use (x, y, color...).
        engine: "reference", "cpu" or "triton"; by default the fastest one for the tensor.

    Raises:
        ValueError: features are empty or not finite, or reach beyond 2¹⁷ bandwidths (2²³ in
            float64). In the last case a bandwidth is far too small.

    Example:
        >>> import torch
        >>> from crfrnn import Lattice
        >>> lattice = Lattice(torch.rand(100, 5))
        >>> lattice.filter(torch.ones(100, 3)).shape
        torch.Size([100, 3])
    """

    kind = "lattice"

    def __init__(self, features: Float[Tensor, "*B N D"], *, engine: str | None = None) -> None:
        _check_features(features)
        if not 1 <= features.shape[-1] <= MAX_DIMENSIONS:
            raise ValueError(
                f"a lattice takes 1 to {MAX_DIMENSIONS} feature dimensions; got "
                f"{features.shape[-1]}. Use the exact filter for more."
            )
        if features.dtype not in ops.FARTHEST:
            features = features.float()
        self.shape = features.shape[:-1]
        self.size = (features.shape[-2],)
        self.dtype = features.dtype
        self.device = features.device
        self.engine = ops.resolve_engine(engine, features.device, features.dtype)
        flat = features.reshape(-1, *features.shape[-2:])
        self.arrays = ops.build(flat, self.engine)

    @property
    def vertices(self) -> int:
        """Number of lattice vertices, over all batch items.

        Example:
            >>> import torch
            >>> from crfrnn import Lattice
            >>> Lattice(torch.zeros(100, 2)).vertices  # equal points share one simplex
            3
        """
        return self.arrays.neighbor.shape[1]

    def filter(self, values: Float[Tensor, "*B N C"], *, reverse: bool = False) -> Tensor:
        """Filter values at the points.

        Args:
            values: (..., N, C), with the leading sizes of the features.
            reverse: blur the axes in reverse order. This is the exact adjoint:
                ⟨filter(u), v⟩ = ⟨u, filter(v, reverse=True)⟩.

        Returns:
            (..., N, C), of the type of `values`.

        Example:
            >>> import torch
            >>> from crfrnn import Lattice
            >>> lattice = Lattice(torch.rand(50, 3, dtype=torch.float64) * 9)
            >>> u, v = torch.rand(2, 50, 1, dtype=torch.float64)
            >>> forward, adjoint = lattice.filter(u), lattice.filter(v, reverse=True)
            >>> torch.allclose((forward * v).sum(), (u * adjoint).sum())
            True
        """
        _check_values(values, self.shape, self.device)
        flat = values.to(self.dtype).reshape(-1, *values.shape[-2:])
        out = ops.filter(flat, self.arrays, reverse, self.engine)
        return out.reshape(values.shape).to(values.dtype)


def gaussian_filter(
    values: Float[Tensor, "*B N C"],
    features: Float[Tensor, "*B N D"],
    *,
    method: str = "lattice",
    normalization: str = "none",
    engine: str | None = None,
) -> Float[Tensor, "*B N C"]:
    """Filter values with a Gaussian over free features: Σ_j exp(-½ |f_i - f_j|²) v_j.

    The sum includes j = i, as in every dense-CRF implementation.

    Args:
        values: (..., N, C) values v to sum.
        features: (..., N, D) points, already divided by their bandwidths.
        method: "lattice", linear in N and approximate (a few percent of a normalized message);
            or "exact", the sum itself, quadratic in N.
        normalization: "none" (default) changes nothing. With n, the filter's response to ones,
            "after" divides the output by n, "before" divides the input by n, and "symmetric"
            divides both by √n. With "none" the gain of the lattice remains in the result.
        engine: "reference", "cpu" or "triton"; by default the fastest one for the tensor.

    Returns:
        (..., N, C), of the type of `values`. Differentiable with respect to `values` and
        `features`. With respect to `features`, the lattice has a first derivative only, and none on
        the faces of its simplices.

    Example:
        >>> import torch
        >>> from crfrnn import gaussian_filter
        >>> points = torch.tensor([[0.0], [1.0], [9.0]])
        >>> gaussian_filter(torch.eye(3), points, method="exact")[0]
        tensor([1.0000e+00, 6.0653e-01, 2.5768e-18])
    """
    _checks.one_of("method", method, ("lattice", "exact"))
    _checks.one_of("normalization", normalization, NORMALIZATIONS)
    _check_features(features)
    _check_values(values, features.shape[:-1], features.device)
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    if method == "lattice":
        gaussian = Lattice(features.to(dtype), engine=engine).filter
    else:
        gaussian = ExactFilter(features.to(dtype), engine=engine).filter
    if normalization == "none":
        return gaussian(values.to(dtype)).to(values.dtype)
    ones = values.new_ones(*values.shape[:-1], 1, dtype=dtype)
    before, after = ops.factors(gaussian(ones), normalization)
    return (after * gaussian(before * values.to(dtype))).to(values.dtype)


class ExactFilter:
    """The exact Gaussian sum, with the interface of `Lattice`."""

    kind = "exact"

    def __init__(self, features: Tensor, *, engine: str | None = None) -> None:
        _checks.finite("features", features)
        self.features = features.reshape(-1, *features.shape[-2:])
        self.size = (features.shape[-2],)
        self.engine = ops.resolve_engine(engine, features.device, features.dtype)
        self.arrays = (self.features,)
        self.tolerance = ops.EXACT_TOLERANCE.get(features.dtype, 1e-8)

    def filter(self, values: Tensor, *, reverse: bool = False) -> Tensor:
        """Filter values (..., N, C); the kernel is symmetric, so `reverse` changes nothing."""
        del reverse
        flat = values.reshape(-1, *values.shape[-2:])
        return ops.exact(flat, self.features, self.tolerance, self.engine).reshape(values.shape)


def _check_features(features: Tensor) -> None:
    if features.dim() < 2 or features.numel() == 0:
        raise ValueError(
            f"features must be (..., N, D) and not empty; got {_checks.shape_text(features)}"
        )
    _checks.floating("features", features)
    _checks.finite("features", features)


def _check_values(values: Tensor, shape: torch.Size, device: torch.device) -> None:
    if values.dim() < 2 or values.shape[:-1] != shape or values.shape[-1] == 0:
        raise ValueError(
            f"values must be (..., N, C) with the leading sizes of the features {tuple(shape)}; "
            f"got {_checks.shape_text(values)}"
        )
    if values.device != device:
        raise ValueError(
            f"values are on {values.device} but features on {device}; move one of them"
        )
    _checks.floating("values", values)
