"""CRFRNN(independent=True): what goes with it, and its inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crfrnn.core.inference import Options
from crfrnn.crf.frank_wolfe import Inference, Step
from crfrnn.crf.independent import independent_mean_field

from .prepared import Prepared


def check_options(weights: str, compatibility: Any, step: Step | None, tol: float | None) -> None:
    """Raise ValueError for options that do not go with independent classes."""
    refused = {
        "compatibility": not isinstance(compatibility, str),
        "step": step not in (None, Step()),
        "tol": tol is not None,
        "weights='matrix'": weights == "matrix",
    }
    if any(refused.values()):
        names = ", ".join(name for name, is_given in refused.items() if is_given)
        raise ValueError(f"independent=True does not go with {names}; leave it out")


def infer_independent(
    logits: Tensor,
    prepared: Prepared,
    weights: Tensor,
    options: Options,
    trace: bool,
    clamp: Tensor | None,
) -> Inference:
    """Logits of the foreground of each class, from logits (B, C, *S)."""
    if trace or options.tolerance > 0:
        raise ValueError("CRFRNN: independent=True has no trace and no tol; leave them out")
    table = weights.reshape(len(weights), -1)  # background and foreground weigh the same
    held = None if clamp is None else clamp[:, None]
    z = independent_mean_field(
        logits, prepared.filters, table, table, options.iterations, held=held
    )
    steps = torch.full((len(logits),), options.iterations, device=logits.device)
    return Inference(z, steps)
