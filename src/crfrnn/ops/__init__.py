"""The registered operators: their schemas and gradients, and the choice of an engine."""

from __future__ import annotations

from .arrays import EXACT_TOLERANCE, FARTHEST, LatticeArrays
from .engines import (
    ENGINES,
    core_instructions,
    core_missing,
    engine_for,
    release_memory,
    resolve_engine,
    triton_missing,
    worth_pruning,
)
from .filters import apply, build, exact, filter, separable
from .forks import settle
from .model import Model, Options, Term
from .normalization import NORMALIZATIONS, factors, normalizers, response
from .recurrence import class_peaks, marginals, mean_field, message_peaks, needs_total
from .transforms import direct

__all__ = [
    "ENGINES",
    "EXACT_TOLERANCE",
    "FARTHEST",
    "NORMALIZATIONS",
    "LatticeArrays",
    "Model",
    "Options",
    "Term",
    "apply",
    "build",
    "class_peaks",
    "core_instructions",
    "core_missing",
    "direct",
    "engine_for",
    "exact",
    "factors",
    "filter",
    "marginals",
    "mean_field",
    "message_peaks",
    "needs_total",
    "normalizers",
    "release_memory",
    "resolve_engine",
    "response",
    "separable",
    "settle",
    "triton_missing",
    "worth_pruning",
]
