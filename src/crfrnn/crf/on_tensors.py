"""Marginals and labels on torch tensors, by any engine."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from crfrnn import ops
from crfrnn.core.inference import Options

from .filters import build_filters
from .inference import Pairwise
from .kernel import Scene
from .marginals import Marginals
from .pruning import certify
from .recipe import Recipe


@torch.no_grad()
def marginals(
    recipe: Recipe,
    scene: Scene,
    options: Options,
    weights: np.ndarray,
    *,
    mask: Tensor | None = None,
    held: Tensor | None = None,
    compatibility: Tensor | None = None,
    prune: bool = True,
) -> Marginals:
    """Run an inference from the logits of a scene of tensors, with kernel weights (K, C)."""
    # The weights first, because a copy to a device waits for what was launched there before.
    table = torch.from_numpy(weights).to(scene.like)
    filters = build_filters(recipe, scene, mask=mask)
    pairwise = Pairwise(filters, table, compatibility, recipe.engine)
    return run(scene.like, pairwise, options, held=held, prune=prune)


@torch.no_grad()
def run(
    logits: Tensor,
    pairwise: Pairwise,
    options: Options,
    *,
    held: Tensor | None = None,
    prune: bool = True,
) -> Marginals:
    """Run the recurrence from `logits` (B C *S), and leave out the classes that `certify` permits.

    Images are computed together, so they share the classes that are kept: those that any image
    needs.

    A single class stands for all that are left out. It takes part in the softmax and sends no
    messages. At the end, the logit of each class that was left out is shifted by as much as the
    logit of that single class. The proof holds for clamped pixels, `held` (B *S), as well: their
    marginals stay what they are.
    """
    model, flat = pairwise.model(logits), logits.flatten(2)
    prune = prune and ops.worth_pruning(logits, model.engine)
    pruned = certify(flat, model, options.iterations) if prune else None
    if pruned is not None:
        # Weight zero: the message of the stand-in is zero. Its logit is the log of the sum of the
        # exponentials of those that it replaces, so their softmax is exact.
        rest = model.weights.new_zeros(len(model.terms), 1)
        columns = torch.cat([model.weights[:, list(pruned.kept)], rest], dim=1)
        model = model._replace(weights=columns, kept=pruned.kept)
    if held is None:
        probs, labels, steps, is_finite = ops.marginals(flat, model, options)
    else:
        probs, labels, steps, is_finite = ops.clamped.marginals(
            flat, model, options, held.flatten(1)
        )
    labels = labels.view(-1, *logits.shape[2:])
    of_images = [pruned] * len(probs)
    return Marginals(probs.view(logits.shape), labels, steps.tolist(), of_images, is_finite)
