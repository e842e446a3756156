"""The filters of the recurrence, each with the arrays and buffers for all steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crfrnn.ops.arrays import LatticeArrays, exact_tolerance
from crfrnn.ops.model import Term
from crfrnn.ops.reference import transpose_band

from . import gaussian_sum
from .convolution import Grid
from .lattice_filter import Blur, slice
from .ordering import arrange


class Source:
    """The output of a filter, as the Triton kernels in `update` read it.

    It is either the filtered values, or the blurred table of a lattice that those kernels slice.
    """

    def __init__(self, kind: str, like: Tensor) -> None:
        """Set the kind, "lattice", "dense" or "none"; `like` stands for arrays that are absent."""
        self.kind = kind
        self.tensor = like
        self.vertex = self.weight = self.starts = self.after = like
        self.scaled = False
        self.corners = 1
        self.gain = 1.0

    def arguments(self) -> tuple[Tensor, ...]:
        """The first arguments of the Triton kernels in `update`."""
        return self.tensor, self.vertex, self.weight, self.starts, self.after

    def options(self) -> dict[str, Any]:
        """The compile-time options of these Triton kernels."""
        return {
            "KIND": self.kind,
            "SCALED": self.scaled,
            "CORNERS": self.corners,
            "GAIN": self.gain,
        }


class Filtering:
    """One kernel's filter F = D_after G D_before on marginals (B N width), or its adjoint."""

    def __init__(
        self,
        term: Term,
        like: Tensor,
        size: Sequence[int],
        adjoint: bool,
        storage: torch.dtype | None,
    ) -> None:
        """Prepare for values laid out as `like` (B N width) on a grid of `size`."""
        # Fᵀ = D_before Gᵀ D_after: for the adjoint the factors swap places.
        first, last = (term.after, term.before) if adjoint else (term.before, term.after)
        self.kind = term.kind
        self.adjoint = adjoint
        self.before = None if first is None else first.detach().contiguous()
        self.after = None if last is None else last.detach().contiguous()
        self.like = like
        self.dense: Tensor | None = None
        arrays = [array.detach().contiguous() for array in term.arrays]
        if term.kind == "lattice":
            self.lattice = LatticeArrays(*arrays)
            self.blur = Blur(self.lattice, self.before, like.shape[2], storage)
        elif term.kind == "grid":
            bands = [transpose_band(band).contiguous() for band in arrays] if adjoint else arrays
            self.grid = Grid(tuple(size), bands)
        else:
            # The kernel is symmetric, so the adjoint is the filter itself.
            tolerance = exact_tolerance(like.dtype)
            self.tiles = arrange(arrays[0], tolerance, gaussian_sum.TILE[like.dtype])

    def source(self, values: Tensor) -> Source:
        """Filter values (B N width), but leave the slice and `after` to the reader."""
        # A lattice applies `before` in the weights of its splat, and the exact sum as it loads
        # values. Only a grid needs a scaled copy.
        source = Source("dense", self.like)
        if self.after is not None:
            source.after, source.scaled = self.after, True
        if self.kind == "lattice":
            source.kind = "lattice"
            source.tensor, source.gain = self.blur.run(values, self.like.shape[2], self.adjoint)
            source.vertex, source.weight = self.lattice.vertex, self.lattice.weight
            source.starts, source.corners = self.lattice.starts, self.lattice.vertex.shape[2]
        elif self.kind == "grid":
            source.tensor = self.grid.run(self._scaled(values), self._dense())
        else:
            source.tensor = gaussian_sum.run(values, self.tiles, self.before, self._dense())
        return source

    def result(self, values: Tensor) -> Tensor:
        """Filter values (B N width), with the slice and `after`."""
        source = self.source(values)
        if self.kind == "lattice":
            slice(source.tensor, self.lattice, source.gain, self._dense(), self.after)
            return self._dense()
        return source.tensor if self.after is None else source.tensor.mul_(self.after[:, :, None])

    def weigh(self, values: Tensor, weights: Tensor, message: Tensor, add: bool) -> None:
        """Filter on a grid, and write the result times weights (C) to the message, or `add` it."""
        self.grid.run(self._scaled(values), message, after=self.after, weights=weights, add=add)

    def _scaled(self, values: Tensor) -> Tensor:
        return values if self.before is None else values * self.before[:, :, None]

    def _dense(self) -> Tensor:
        """The buffer for results, allocated at first use: a fused lattice needs none."""
        if self.dense is None:
            self.dense = torch.empty_like(self.like, memory_format=torch.contiguous_format)
        return self.dense
