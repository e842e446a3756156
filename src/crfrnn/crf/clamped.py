"""Inference on NumPy arrays where some pixels are clamped, with the filters of the core."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crfrnn.core.inference import Filter, Options, apply


def clamped_mean_field(
    logits: np.ndarray,
    filters: Sequence[Filter],
    weights: np.ndarray,
    compatibility: np.ndarray | None,
    options: Options,
    held: np.ndarray,
) -> tuple[np.ndarray, int]:
    """Run the recurrence of one image from `logits` (C, N); `held` (N,) bool are clamped.

    Returns:
        The marginals (C, N), and the number of steps.
    """
    classes = len(logits)
    matrix = 1 - np.eye(classes) if compatibility is None else compatibility
    free = ~held
    q = _softmax(logits)
    steps = 0
    for step in range(options.iterations):
        message = np.zeros_like(q)
        for filter, weight in zip(filters, weights, strict=True):
            message += weight.astype(q.dtype)[:, None] * apply(filter, q)
        penalty = matrix.astype(q.dtype) @ message[:, free]
        new = _softmax(logits[:, free] - penalty)
        change = float(np.abs(new - q[:, free]).mean()) if free.any() else 0.0
        q[:, free] = new
        steps += 1
        if step + 1 < options.iterations and change < options.tolerance:
            break
    return q, steps


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(0, initial=-np.inf))
    probs: np.ndarray = odds / odds.sum(0)
    return probs
