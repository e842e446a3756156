"""Soft labels: a cross-entropy to train on them, and the optimization that finds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crfrnn import _checks
from crfrnn._door import admit_tensor
from crfrnn.core import names
from crfrnn.io.label_maps import VOID

from . import relaxations
from .inputs import check_device, check_logits, check_mask

#: The least probability in a soft label. Zero would rule out a class for good.
_LEAST = 1e-6

#: How much longer a step may become when the last one lowered the energy.
_GROWTH = 1.5


def soft_cross_entropy(
    logits: Float[Tensor, "B C *S"],
    soft_labels: Float[Tensor, "B C *S"],
    *,
    kind: names.CrossEntropy = "collision",
    mask: Bool[Tensor, " B *S"] | None = None,
) -> Float[Tensor, ""]:
    """Compare predictions with soft labels, such as those of `PottsLoss.self_labels`.

    With S = softmax(logits) and soft labels y, the mean over the pixels of

    | `kind` | formula | a label (½, ½) asks for |
    | --- | --- | --- |
    | "shannon" | -Σ_c y_c log S_c | a prediction (½, ½) |
    | "reverse" | -Σ_c S_c log y_c | nothing |
    | "collision" | -log Σ_c S_c y_c | nothing |
    | "divergence" | -log (S·y / (‖S‖ ‖y‖)) | a prediction (½, ½) |

    "collision" is -log of the probability that two draws, one from S and one from y, are equal. It
    is symmetric in them (Zhang & Boykov, CVPR 2025, arXiv 2507.01721).

    Args:
        logits: (B, C, *S) scores before softmax.
        soft_labels: (B, C, *S) probabilities y over C; they receive a gradient if they require one.
        kind: one of the table.
        mask: bool; False leaves out a pixel, such as a labeled one, which has a loss of its own.

    Raises:
        ValueError: shapes do not fit, or soft labels are not distributions.

    Example:
        >>> import torch
        >>> from crfrnn import soft_cross_entropy
        >>> logits = torch.tensor([0.8, 0.2]).log().view(1, 2, 1)
        >>> sure, unsure = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
        >>> [round(float(soft_cross_entropy(logits, y.view(1, 2, 1))), 3) for y in (sure, unsure)]
        [0.223, 0.693]
    """
    _checks.one_of("kind", kind, names.CROSS_ENTROPIES)
    logits = check_logits("soft_cross_entropy", logits, None, None)
    _checks.finite("soft_cross_entropy: logits", logits)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    with torch.autocast(logits.device.type, enabled=False):
        log_p = logits.to(dtype).log_softmax(1)
        log_y = _log_labels("soft_cross_entropy", soft_labels, log_p)
        values = relaxations.cross_entropy(kind, log_p, log_y)
        if mask is None:
            return values.mean()
        inside = check_mask("soft_cross_entropy", mask, log_p)
        return (values * inside).sum() / inside.sum().clamp_min(1)


def seeds(owner: str, given: Any, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Where (B, 1, *S) pixels are labeled, and log y (B, C, *S) there."""
    check_device(owner, "labels", given, log_p)
    labels: Tensor = admit_tensor(f"{owner}: labels", given)
    expected, classes = (log_p.shape[0], *log_p.shape[2:]), log_p.shape[1]
    if tuple(labels.shape) != expected:
        raise ValueError(
            f"{owner}: labels must be (B, *S) = {expected}, class ids without channels; got "
            f"{_checks.shape_text(labels)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"{owner}: labels must be integer class ids; got {labels.dtype}")
    labels = labels.long()
    known = labels != VOID
    if _checks.readable(labels) and bool((known & ((labels < 0) | (labels >= classes))).any()):
        wrong = labels[known & ((labels < 0) | (labels >= classes))][0]
        raise ValueError(
            f"{owner}: labels must be 0..{classes - 1}, or {VOID} where a pixel has none; got "
            f"{int(wrong)}"
        )
    ids = torch.where(known, labels, 0)
    certain = torch.nn.functional.one_hot(ids, classes).movedim(-1, 1).to(log_p.dtype)
    return known[:, None], _floored(certain).log()


def _log_labels(owner: str, given: Any, log_p: Tensor) -> Tensor:
    """The logarithm of soft labels (B, C, *S), none of them below the least probability."""
    check_device(owner, "soft_labels", given, log_p)
    y: Tensor = admit_tensor(f"{owner}: soft_labels", given)
    if y.shape != log_p.shape:
        raise ValueError(
            f"{owner}: logits and soft_labels must have the same shape (B, C, *S); got "
            f"{_checks.shape_text(log_p)} and {_checks.shape_text(y)}"
        )
    _checks.floating(f"{owner}: soft_labels", y)
    _checks.finite(f"{owner}: soft_labels", y)
    if _checks.readable(y):
        sums = y.detach().sum(1)
        if float(y.detach().min()) < 0 or float((sums - 1).abs().max()) > 1e-2:
            raise ValueError(
                f"{owner}: soft_labels must be probabilities, which sum to 1 over C; got values "
                f"down to {float(y.detach().min()):.3g} and sums of {float(sums.min()):.3g} to "
                f"{float(sums.max()):.3g}. Give logits.softmax(1)."
            )
    return _floored(y.to(log_p.dtype)).log()


def minimize(
    energy: Callable[[Tensor], Tensor],
    log_p: Tensor,
    fixed: tuple[Tensor, Tensor] | None,
    steps: int,
) -> Tensor:
    """Lower the energy (B) of log y (B, C, *S) by gradient descent on the logits of y, from log p.

    Each image has a step of its own, so that none depends on the others of its batch.
    """

    def constrained(logits: Tensor) -> Tensor:
        log_y = logits.log_softmax(1)
        return log_y if fixed is None else torch.where(fixed[0], fixed[1], log_y)

    if not steps:
        return constrained(log_p)
    column = (-1,) + (1,) * (log_p.dim() - 1)
    # An energy is a mean over N pixels, so a gradient is 1/N of the pixel's own: N undoes that.
    length = log_p.new_full((len(log_p),), float(log_p[0, 0].numel()))
    logits = log_p
    lowest, slope = _with_slope(energy, constrained, logits)
    for _ in range(steps):
        proposed = logits - length.view(column) * slope
        value, next_slope = _with_slope(energy, constrained, proposed)
        better = value < lowest
        logits = torch.where(better.view(column), proposed, logits)
        slope = torch.where(better.view(column), next_slope, slope)
        lowest = torch.where(better, value, lowest)
        length = length * torch.where(better, _GROWTH, 0.5)
    return constrained(logits)


def _with_slope(
    energy: Callable[[Tensor], Tensor], constrained: Callable[[Tensor], Tensor], logits: Tensor
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        values = energy(constrained(leaf))
        (slope,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), slope


def _floored(y: Tensor) -> Tensor:
    """Mix in the uniform distribution, so that no probability is zero."""
    return y * (1 - _LEAST * y.shape[1]) + _LEAST
