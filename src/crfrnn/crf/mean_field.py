"""Mean-field inference as the paper writes it: the oracle of the fused operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from crfrnn import _checks
from crfrnn._door import admit_tensor

Filter = Callable[[Tensor], Tensor]


def mean_field(
    unary: Float[Tensor, "B C *S"],
    filters: Sequence[Filter],
    weights: Float[Tensor, "K ..."],
    compatibility: Float[Tensor, "C C"],
    iterations: int,
) -> Float[Tensor, "B C *S"]:
    """Mean-field inference in a fully connected CRF.

    Repeats Algorithm 1 of Zheng et al. (2015, arXiv 1502.03240), which unrolls the updates of
    Krähenbühl & Koltun (2011, arXiv 1210.5644), `iterations` times.

    Args:
        unary: energies, -log P of each class at each pixel; S is (W,), (H, W) or (D, H, W).
        filters: one normalized Gaussian filter per kernel; each maps (B, C, *S) to itself.
        weights: kernel weights: one per kernel (K,), per kernel and class (K, C), or a matrix
            per kernel (K, C, C).
        compatibility: penalty for label `c` beside label `d`; Potts is `1 - I`.
        iterations: number of updates; 0 returns `-unary`.

    Returns:
        Logits of the approximate marginals. Apply softmax for probabilities.

    Raises:
        ValueError: the shapes do not match, or `iterations` is negative.

    Example:
        >>> import torch
        >>> from crfrnn import mean_field
        >>> unary = torch.tensor([[[0.0, 2.0, 0.0], [1.0, 1.0, 1.0]]])
        >>> blur = lambda q: (q + q.roll(1, -1) + q.roll(-1, -1)) / 3
        >>> z = mean_field(unary, [blur], torch.tensor([4.0]), 1 - torch.eye(2), iterations=5)
        >>> z.argmax(1)
        tensor([[0, 0, 0]])
    """
    _checks.count("iterations", iterations)
    unary, weights, compatibility = checked_model(unary, filters, weights, compatibility)
    logits = -unary
    if not filters:
        return logits
    weigh = {1: "k,kbc...->bc...", 2: "kc,kbc...->bc...", 3: "kdc,kbc...->bd..."}[weights.dim()]
    for _ in range(iterations):
        q = logits.softmax(dim=1)
        messages = torch.stack([f(q) for f in filters])
        message = torch.einsum(weigh, weights, messages)
        penalty = torch.einsum("cd,bd...->bc...", compatibility, message)
        logits = -unary - penalty
    _checks.finite_result(
        "mean_field", logits, unary=unary, weights=weights, compatibility=compatibility
    )
    return logits


def checked_model(
    unary: Any, filters: Sequence[Filter], weights: Any, compatibility: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the parts of a model as plain tensors; refuse shapes and types that do not fit."""
    parts = {"unary": unary, "weights": weights, "compatibility": compatibility}
    parts = {name: admit_tensor(name, part) for name, part in parts.items()}
    unary, weights, compatibility = parts.values()
    kernels = len(filters)
    _checks.floating("unary", unary)
    for name, part in parts.items():
        if (part.dtype, part.device) != (unary.dtype, unary.device):
            raise TypeError(
                f"{name} must be {unary.dtype} on {unary.device} as unary is; got {part.dtype} on "
                f"{part.device}. Convert it with {name}.to(unary)."
            )
    if unary.dim() < 3 or 0 in unary.shape:
        raise ValueError(f"unary must be (B, C, *S) and not empty; got {_checks.shape_text(unary)}")
    classes = unary.shape[1]
    wide = (kernels, classes, classes)
    if kernels and tuple(weights.shape) not in (wide[:1], wide[:2], wide):
        raise ValueError(
            f"weights must be ({kernels},), {wide[:2]} or {wide} for {kernels} filters and "
            f"{classes} classes; got {_checks.shape_text(weights)}"
        )
    if tuple(compatibility.shape) != (classes, classes):
        raise ValueError(
            f"compatibility must be {(classes, classes)}, one row and column per class; got "
            f"{_checks.shape_text(compatibility)}"
        )
    return unary, weights, compatibility
