"""The operators in Triton for CUDA and ROCm, and for tests on the CPU in Triton's interpreter.

Only `ops.engines` imports this package, and only when a tensor needs it. Every result is
deterministic: each sum has one fixed order, and no Triton kernel here uses atomics.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from crfrnn.ops import reference

from . import convolution, gaussian_sum, inference, lattice_build, lattice_filter
from .launch import INTERPRETED, padded_width

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
    "response",
    "saved_width",
    "separable",
    "worth_pruning",
]

#: Number of logits from which pruning can pay. The search for classes to leave out takes as many
#: launches as two steps and waits three times for the device; smaller updates take less time.
_WORTH_PRUNING = 10_000_000

Function = TypeVar("Function", bound=Callable[..., Any])


def _on_device(function: Function) -> Function:
    """Launch on the device of the first tensor, which may differ from the current device."""

    @functools.wraps(function)
    def launching(first: Tensor, *args: Any, **options: Any) -> Any:
        with torch.cuda.device_of(first), torch.no_grad():
            return function(first, *args, **options)

    return cast(Function, launching)


build = _on_device(lattice_build.build)
filter = _on_device(lattice_filter.filter)
filter_to_weight = _on_device(lattice_filter.filter_to_weight)
separable = _on_device(convolution.separable)
exact = _on_device(gaussian_sum.exact)
mean_field = _on_device(inference.mean_field)
mean_field_backward = _on_device(inference.mean_field_backward)
class_peaks = _on_device(reference.class_peaks)
needs_total = reference.needs_total
response = reference.response
marginals = _on_device(functools.partial(reference.marginals, recurrence=mean_field))
message_peaks = _on_device(functools.partial(reference.message_peaks, recurrence=mean_field))


def saved_width(classes: int, needs_all: bool = False) -> int:
    """Number of values that the recurrence saves per pixel and step."""
    del needs_all  # no class is derived from the others here
    return padded_width(classes)


def worth_pruning(logits: Tensor) -> bool:
    """Whether leaving classes out of `logits` can save more than the search for them costs."""
    return logits.numel() >= _WORTH_PRUNING
