"""Filters and inference on NumPy arrays, in the compiled core."""

from __future__ import annotations

import sys

import numpy as np

from crfrnn._arrays import to_numpy
from crfrnn.core.inference import (
    Filter,
    Options,
    Points,
    exact_filter,
    grid_filter,
    infer,
    lattice_filter,
)

from .clamped import clamped_mean_field
from .kernel import Kernel, Scene, maps_and_divisors, points_of
from .marginals import Marginals, Pruned
from .recipe import Recipe


def build_filters(recipe: Recipe, scene: Scene, mask: np.ndarray | None) -> list[list[Filter]]:
    """Build, for each image, the normalized filter of each kernel.

    Args:
        recipe: kernels, normalization and filter.
        scene: NumPy arrays that the kernels look at. Its logits give size and type.
        mask: (B, *S) bool; pixels outside take no part.
    """
    size, dtype = scene.like.shape[2:], scene.like.dtype
    inside = [None] * len(scene.like) if mask is None else list(mask.reshape(len(mask), -1))
    filters: list[list[Filter]] = [[] for _ in inside]
    build = exact_filter if recipe.filter == "exact" else lattice_filter
    for kernel in recipe.kernels:
        if kernel.is_separable():
            bandwidths = kernel.divisors({"position": len(size)})[::-1]  # of (x, y, z)
            reach = recipe.reach(float(np.finfo(dtype).eps))
            of_images = [
                grid_filter(size, bandwidths, reach, recipe.normalization, dtype, where)
                for where in (inside[:1] if mask is None else inside)
            ]
            if mask is None:  # all images share it
                of_images *= len(inside)
        else:
            of_images = [
                build(points, recipe.normalization, where)
                for points, where in zip(_points(kernel, scene), inside, strict=True)
            ]
        for of_image, filter in zip(filters, of_images, strict=True):
            of_image.append(filter)
    return filters


def _points(kernel: Kernel, scene: Scene) -> list[Points]:
    """The points of each image."""
    try:
        maps, divisors = maps_and_divisors(kernel, scene)
    except (TypeError, AttributeError):
        # The maps of a user's kernel may be written for tensors, as the layer gives them.
        if "torch" not in sys.modules:
            raise
        maps, divisors = maps_and_divisors(kernel, scene.as_tensors())
        maps = [to_numpy(channel) for channel in maps]
    return [points_of(maps, divisors, scene.like, b) for b in range(len(scene.like))]


def marginals(
    recipe: Recipe,
    scene: Scene,
    options: Options,
    weights: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    held: np.ndarray | None = None,
    compatibility: np.ndarray | None = None,
    prune: bool = True,
) -> Marginals:
    """Run an inference from the logits of a scene of NumPy arrays, with kernel weights (K, C)."""
    logits = scene.like
    if held is not None:
        filters = build_filters(recipe, scene, mask)
        flat = logits.reshape(*logits.shape[:2], -1)
        found = [
            clamped_mean_field(image, of_image, weights, compatibility, options, where.ravel())
            for image, of_image, where in zip(flat, filters, held, strict=True)
        ]
        probs = np.stack([q for q, _ in found]).reshape(logits.shape)
        finite = bool(np.isfinite(probs).all())
        return Marginals(probs, probs.argmax(1), [steps for _, steps in found], None, finite)
    result = infer(
        logits.reshape(*logits.shape[:2], -1),
        build_filters(recipe, scene, mask),
        weights,
        compatibility,
        options,
        row=logits.shape[-1],
        prune=prune,
    )
    return Marginals(
        result.probs.reshape(logits.shape),
        result.labels.reshape(len(logits), *logits.shape[2:]),
        result.steps,
        Pruned(tuple(result.kept), result.bound) if result.kept else None,
        result.is_finite,
    )
