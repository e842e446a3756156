"""The arrays of a lattice, and the numerical limits of the filters by torch's float types."""

from __future__ import annotations

import torch

from crfrnn.core import limits
from crfrnn.core.lattice import LatticeArrays

__all__ = ["LatticeArrays", "exact_tolerance", "refuse_far"]

_EXACT_TOLERANCE = {
    getattr(torch, name): tolerance for name, tolerance in limits.EXACT_TOLERANCE.items()
}


def exact_tolerance(dtype: torch.dtype) -> float:
    """Kernel values below this may be left out of an exact sum; half precision as in float32."""
    return _EXACT_TOLERANCE.get(dtype, _EXACT_TOLERANCE[torch.float32])


def refuse_far(reach: float, dtype: torch.dtype) -> None:
    """Raise ValueError for features so large that vertex keys would overflow or lose precision."""
    limits.refuse_far(reach, str(dtype).removeprefix("torch."))
