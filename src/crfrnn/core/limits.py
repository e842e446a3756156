"""The numerical limits of the filters, by float type, and the error beyond them."""

from __future__ import annotations

#: An exact filter may leave out a pair of points whose kernel value is below this. It is less than
#: the rounding error of the value 1 at distance zero.
EXACT_TOLERANCE = {"float32": 1e-8, "float64": 1e-16}

#: Farthest feature of a lattice, in bandwidths. Up to here, rounding leaves useful weights, and the
#: coordinates of vertices fit 32 bits in any number of dimensions.
FARTHEST = {"float32": 2.0**17, "float64": 2.0**23}

#: Largest number of feature dimensions of a lattice, in every engine.
MAX_DIMENSIONS = 32


def refuse_far(reach: float, dtype: str) -> None:
    """Raise ValueError for features so large that vertex keys would overflow or lose precision."""
    if reach > FARTHEST[dtype]:
        raise ValueError(
            f"features reach {reach:.3g} bandwidths, beyond the {FARTHEST[dtype]:.0f} "
            f"that a lattice in {dtype} can tell apart. Is a bandwidth too small? Use a "
            f"larger bandwidth, or the exact filter."
        )


def check_dimensions(dimensions: int) -> None:
    """Raise ValueError for a number of feature dimensions that no lattice takes."""
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise ValueError(
            f"a lattice takes 1 to {MAX_DIMENSIONS} feature dimensions; got "
            f"{dimensions}. Use the exact filter for more."
        )
