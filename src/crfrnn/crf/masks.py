"""Marginals of independent masks, without gradients: in the compiled core, or on tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crfrnn._arrays import Array, is_tensor
from crfrnn.core.inference import Options, infer_masks
from crfrnn.core.lattice import empty

from .kernel import Scene
from .kernels import weight_table
from .marginals import refuse_infinite
from .recipe import Recipe

#: Number of masks whose logits are computed at once: two tables of the core's filters.
_CHUNK = 64


def mask_marginals(
    recipe: Recipe,
    scene: Scene,
    masks: Array,
    to_logits: Callable[[Array], Array],
    options: Options,
    *,
    mask: Array | None = None,
    held: Array | None = None,
) -> Array:
    """Run the inference of independent masks, each a two-class Potts model.

    Args:
        recipe: kernels; a weight is one number, or two, for background and foreground.
        scene: what the kernels look at. NumPy arrays go to the compiled core, tensors to the engine
            of the recipe.
        masks: (B, K, *S).
        to_logits: gives the logits of the foreground against the background for masks (K', *S).
        options: iterations and precision.
        mask: (B, *S) bool; pixels outside take no part.
        held: (B, K, *S) bool, the clamped pixels of each mask: they send, and keep their logits.

    Returns:
        (B, K, *S) marginals of the foreground. The other memory that it needs does not grow with K.

    Raises:
        ValueError: the result is not finite.
    """
    weights = weight_table(recipe.kernels, 2)
    if is_tensor(masks):
        return _on_tensors(recipe, scene, masks, to_logits, options, weights, mask, held)
    from .compiled import build_filters

    filters = build_filters(recipe, scene, mask)
    dtype, size = scene.like.dtype, masks.shape[2:]
    probs = empty((*masks.shape[:2], int(np.prod(size))), dtype)
    is_finite = True
    for b, of_image in enumerate(masks):
        for begin in range(0, len(of_image), _CHUNK):
            logits = to_logits(of_image[begin : begin + _CHUNK]).astype(dtype, copy=False)
            is_finite &= infer_masks(
                logits.reshape(len(logits), -1),
                filters[b],
                weights,
                options,
                row=size[-1],
                out=probs[b, begin : begin + _CHUNK],
                held=None
                if held is None
                else held[b, begin : begin + _CHUNK].reshape(len(logits), -1),
            )
    refuse_infinite(is_finite, probs)
    return probs.reshape(masks.shape)


def _on_tensors(
    recipe: Recipe,
    scene: Scene,
    masks: Array,
    to_logits: Callable[[Array], Array],
    options: Options,
    weights: np.ndarray,
    mask: Array | None,
    held: Array | None,
) -> Array:
    import torch  # late: it may be missing

    from .filters import build_filters
    from .independent import independent_mean_field

    with torch.no_grad():
        filters = build_filters(recipe, scene, mask=mask)
        table = torch.from_numpy(weights).to(scene.like)[..., None]
        chunks = []
        for begin in range(0, masks.shape[1], _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            z = independent_mean_field(
                torch.stack([to_logits(of_image[chunk]) for of_image in masks]).to(scene.like),
                filters,
                table[:, 0],
                table[:, 1],
                options.iterations,
                held=None if held is None else held[:, chunk],
            )
            chunks.append(z.sigmoid())
    probs = torch.cat(chunks, dim=1)
    refuse_infinite(bool(torch.isfinite(probs).all()), probs)
    return probs
