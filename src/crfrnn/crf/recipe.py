"""How the filters of a model are built, whichever engine builds them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from crfrnn.core.names import EngineName, Filter, Normalization

from .edges import Neighborhood
from .kernel import Kernel

#: Taps of the separable filter reach this many bandwidths (error 0.03 % of a message).
_REACH = 3.3


@dataclass(frozen=True)
class Recipe:
    """How the filters of a model are built.

    Attributes:
        kernels: the pairwise kernels.
        normalization: "symmetric", "after", "before" or "none".
        filter: "lattice" or "exact".
        engine: "reference", "cpu" or "triton"; by default the fastest that suits.
        feature_gradients: whether gradients reach the image and the feature maps.
        neighbors: the pairs of pixels of a loss that has no filters.
    """

    kernels: tuple[Kernel, ...]
    normalization: Normalization = "symmetric"
    filter: Filter = "lattice"
    engine: EngineName | None = None
    feature_gradients: bool = False
    neighbors: Neighborhood | None = None

    def reach(self, eps: float) -> float:
        """How many bandwidths the taps of a separable kernel reach.

        In exact mode they end where they vanish beside 1 in a float type of precision `eps`.
        """
        return _REACH if self.filter == "lattice" else math.sqrt(-2 * math.log(eps))
