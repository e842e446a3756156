"""The registered operators: schema, gradient, and which engine runs them."""

from __future__ import annotations

from .arrays import EXACT_TOLERANCE, FARTHEST, LatticeArrays, Term, refuse_far
from .engines import (
    ENGINES,
    core_instructions,
    core_missing,
    core_response,
    engine_for,
    release_memory,
    resolve_engine,
    triton_missing,
    worth_pruning,
)
from .filters import build, exact, filter, separable
from .recurrence import class_peaks, marginals, mean_field, message_peaks, needs_total
from .transforms import direct

__all__ = [
    "ENGINES",
    "EXACT_TOLERANCE",
    "FARTHEST",
    "LatticeArrays",
    "Term",
    "build",
    "class_peaks",
    "core_instructions",
    "core_missing",
    "core_response",
    "direct",
    "engine_for",
    "exact",
    "filter",
    "marginals",
    "mean_field",
    "message_peaks",
    "needs_total",
    "refuse_far",
    "release_memory",
    "resolve_engine",
    "separable",
    "triton_missing",
    "worth_pruning",
]
