"""Errors for the first number that is not finite, with the name of its source."""

from __future__ import annotations

from typing import NoReturn

import torch

from .batches import Batch
from .objective import Objective

_NAMES_SHOWN = 5


def blame_forward(objective: Objective, batch: Batch, where: str, reason: str) -> NoReturn:
    """Raise an error that names the parameters, or the images whose logits, are not finite."""
    not_finite = [name for name, p in objective.named_parameters() if not bool(p.isfinite().all())]
    if not_finite:
        raise FloatingPointError(
            f"{where}: {_some(not_finite)} is not finite: an update overflowed, or the initial "
            f"weights are not finite. Lower the learning rate of that group, or clip the "
            f"gradients (clip)."
        )
    # Evaluation mode computes the images of the batch apart, so one of them can be named.
    objective.eval()
    with torch.no_grad():
        unary = objective.unary(batch.image, batch.logits)
        names = _bad_images(batch, unary)
        source = "the network's logits are" if batch.logits is None else "the given logits are"
        if not names and objective.stage.train != "network":
            names = _bad_images(batch, objective.refine(unary, batch.image, batch.inside))
            source = "the CRF's result is"
    if names:
        raise FloatingPointError(
            f"{where}: {source} not finite for {_some(names)}. Look at these images; if they are "
            f"fine, lower the learning rate, or use precision: '32'."
        )
    raise FloatingPointError(
        f"{where}: the loss is not finite ({reason}), images {_some(batch.names)}. "
        f"Lower the learning rates."
    )


def blame_gradient(objective: Objective, batch: Batch, where: str) -> NoReturn:
    """Raise an error that names the parameters whose gradients are not finite."""
    not_finite = [
        name
        for name, parameter in objective.named_parameters()
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
    ]
    raise FloatingPointError(
        f"{where}: the gradient of {_some(not_finite or ['no single parameter'])} is not finite; "
        f"images {_some(batch.names)}. Lower the learning rates, or use precision: '32'."
    )


def _bad_images(batch: Batch, values: torch.Tensor) -> list[str]:
    finite = values.flatten(1).isfinite().all(dim=1).tolist()
    return [name for name, is_finite in zip(batch.names, finite, strict=True) if not is_finite]


def _some(names: list[str] | tuple[str, ...]) -> str:
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
