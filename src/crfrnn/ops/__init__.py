"""The registered operators: schema, gradient, and which engine runs them."""

from __future__ import annotations

from .arrays import EXACT_TOLERANCE, LatticeArrays, Term
from .engines import ENGINES, core_missing, resolve_engine
from .filters import build, exact, filter, separable
from .recurrence import class_peaks, marginals, mean_field, response
from .transforms import direct

__all__ = [
    "ENGINES",
    "EXACT_TOLERANCE",
    "LatticeArrays",
    "Term",
    "build",
    "class_peaks",
    "core_missing",
    "direct",
    "exact",
    "filter",
    "marginals",
    "mean_field",
    "resolve_engine",
    "response",
    "separable",
]
