"""The registered operators: schema, gradient, and which engine runs them."""

from __future__ import annotations

from .arrays import EXACT_TOLERANCE, LatticeArrays, Term
from .engines import ENGINES, core_missing, resolve_engine
from .filters import build, exact, filter, separable
from .recurrence import class_peaks, mean_field, mean_field_pruned

__all__ = [
    "ENGINES",
    "EXACT_TOLERANCE",
    "LatticeArrays",
    "Term",
    "build",
    "class_peaks",
    "core_missing",
    "exact",
    "filter",
    "mean_field",
    "mean_field_pruned",
    "resolve_engine",
    "separable",
]
