"""The operators in Triton, for CUDA and ROCm; in Triton's interpreter also on the CPU, for tests.

Only `ops.engines` imports this, and only when such a tensor has arrived.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from crfrnn.ops import reference
from crfrnn.ops.arrays import Term

from . import convolution, gaussian_sum, inference, lattice_build, lattice_filter
from .launch import INTERPRETED
from .launch import padded_width as saved_width

__all__ = [
    "INTERPRETED",
    "build",
    "class_peaks",
    "exact",
    "filter",
    "filter_to_weight",
    "marginals",
    "mean_field",
    "mean_field_backward",
    "message_peaks",
    "needs_total",
    "saved_width",
    "separable",
]

Function = TypeVar("Function", bound=Callable[..., Any])


def _on_device(function: Function) -> Function:
    """Launch on the device of the first tensor, which need not be the current one."""

    @functools.wraps(function)
    def run(first: Tensor, *args: Any, **options: Any) -> Any:
        with torch.cuda.device_of(first), torch.no_grad():
            return function(first, *args, **options)

    return cast(Function, run)


build = _on_device(lattice_build.build)
filter = _on_device(lattice_filter.filter)
filter_to_weight = _on_device(lattice_filter.filter_to_weight)
separable = _on_device(convolution.separable)
exact = _on_device(gaussian_sum.exact)
mean_field = _on_device(inference.mean_field)
mean_field_backward = _on_device(inference.mean_field_backward)
class_peaks = _on_device(reference.class_peaks)
needs_total = reference.needs_total


def marginals(
    logits: Tensor,
    weights: Tensor,
    size: Sequence[int],
    terms: Sequence[Term],
    iterations: int,
    tolerance: float,
    kept: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Run the recurrence for its result; see `reference.marginals`."""
    return reference.marginals(
        logits, weights, size, terms, iterations, tolerance, kept, mean_field
    )


def message_peaks(
    logits: Tensor,
    groups: Sequence[Sequence[int]],
    weights: Tensor,
    size: Sequence[int],
    terms: Sequence[Term],
) -> list[float]:
    """Upper bounds of the first message to groups of classes; see `reference.message_peaks`."""
    return reference.message_peaks(logits, groups, weights, size, terms, mean_field)
