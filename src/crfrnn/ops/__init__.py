"""The registered operators: their schemas and gradients, and the choice of an engine."""

from __future__ import annotations

from . import clamped
from .arrays import LatticeArrays, exact_tolerance
from .engines import (
    engine_for,
    resolve_engine,
    triton_missing,
    worth_pruning,
)
from .filters import apply, build, exact, filter, separable
from .frank_wolfe import project
from .model import Model, Term, Update
from .normalization import factors, normalizers, response
from .recurrence import class_peaks, marginals, mean_field, message_peaks, needs_total
from .transforms import direct

__all__ = [
    "LatticeArrays",
    "Model",
    "Term",
    "Update",
    "apply",
    "build",
    "clamped",
    "class_peaks",
    "direct",
    "engine_for",
    "exact",
    "exact_tolerance",
    "factors",
    "filter",
    "marginals",
    "mean_field",
    "message_peaks",
    "needs_total",
    "normalizers",
    "project",
    "resolve_engine",
    "response",
    "separable",
    "triton_missing",
    "worth_pruning",
]
