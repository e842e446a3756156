"""Filters and inference on NumPy arrays, in the compiled core."""

from __future__ import annotations

import math
import sys
from functools import partial

import numpy as np

from crfrnn._arrays import to_numpy
from crfrnn.core.inference import (
    Filter,
    Options,
    Points,
    exact_filter,
    grid_filter,
    infer,
    joined_filter,
    lattice_filter,
)
from crfrnn.core.threads import for_each_image

from .kept import KeptFilters
from .kernel import Kernel, Scene, maps_and_divisors, points_of
from .marginals import Marginals, Pruned
from .recipe import Recipe

#: Squares of clamped pixels within which no feature varies by more bandwidths than this send as one
#: (`join_alike` in csrc/filters/senders.hpp), in images of so many pixels or more.
ALIKE, JOINED_FROM = 1.0, 1 << 16


def build_filters(
    recipe: Recipe,
    scene: Scene,
    mask: np.ndarray | None,
    held: np.ndarray | None = None,
    kept: KeptFilters | None = None,
) -> list[list[Filter]]:
    """Build, for each image, the normalized filter of each kernel.

    Args:
        recipe: kernels, normalization and filter.
        scene: NumPy arrays that the kernels look at. Its logits give size and type.
        mask: (B, *S) bool; pixels outside take no part.
        held: (B, *S) bool, the clamped pixels; they are joined where they are alike, and the
            filters are for inferences with these clamped pixels alone.
        kept: filters of earlier calls with the same image, which are not built again; not with
            `held`.
    """
    filters: list[list[Filter]] = [[] for _ in scene.like]
    for kernel in recipe.kernels:
        build = partial(_build, kernel, recipe, scene, mask, held)
        of_images = build() if kept is None else kept.get(kernel, recipe, scene, mask, build)
        for of_image, filter in zip(filters, of_images, strict=True):
            of_image.append(filter)
    return filters


def _build(
    kernel: Kernel,
    recipe: Recipe,
    scene: Scene,
    mask: np.ndarray | None,
    held: np.ndarray | None,
) -> list[Filter]:
    """Build the filter of one kernel for each image."""
    size, dtype = scene.like.shape[2:], scene.like.dtype
    inside = [None] * len(scene.like) if mask is None else list(mask.reshape(len(mask), -1))
    if not kernel.is_separable():
        if held is not None and recipe.filter == "lattice":
            return [
                joined_filter(points, recipe.normalization, where.ravel(), ALIKE)
                for points, where in zip(_points(kernel, scene), held, strict=True)
            ]
        build = exact_filter if recipe.filter == "exact" else lattice_filter
        return for_each_image(
            lambda image, number: build(image[0], recipe.normalization, image[1], number),
            list(zip(_points(kernel, scene), inside, strict=True)),
            math.prod(size),
        )
    bandwidths = kernel.divisors({"position": len(size)})[::-1]  # of (x, y, z)
    reach = recipe.reach(float(np.finfo(dtype).eps))
    of_images = [
        grid_filter(size, bandwidths, reach, recipe.normalization, dtype, where)
        for where in (inside[:1] if mask is None else inside)
    ]
    return of_images * len(inside) if mask is None else of_images  # all images share it


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
    kept: KeptFilters | None = None,
) -> Marginals:
    """Run an inference from the logits of a scene of NumPy arrays, with kernel weights (K, C)."""
    logits = scene.like
    joined = held if joins(recipe, scene, mask, compatibility, prune) else None
    if joined is not None:
        kept = None  # those filters must serve other clamped pixels too
    result = infer(
        logits.reshape(*logits.shape[:2], -1),
        build_filters(recipe, scene, mask, joined, kept),
        weights,
        compatibility,
        options,
        row=logits.shape[-1],
        held=None if held is None else held.reshape(len(held), -1),
        prune=prune,
    )
    return Marginals(
        result.probs.reshape(logits.shape),
        result.labels.reshape(len(logits), *logits.shape[2:]),
        result.steps,
        [
            Pruned(tuple(kept), bound) if kept else None
            for kept, bound in zip(result.kept, result.bounds, strict=True)
        ],
        result.is_finite,
        joined is not None
        and recipe.filter == "lattice"
        and not all(kernel.is_separable() for kernel in recipe.kernels),
    )


def joins(
    recipe: Recipe,
    scene: Scene,
    mask: np.ndarray | None,
    compatibility: np.ndarray | None,
    prune: bool,
) -> bool:
    """Whether clamped pixels that are alike may send as one.

    Only where messages are normalized: the sums of "none" multiply what joining changes.
    The search for classes to leave out looks at the messages to all pixels, so it needs filters
    between all of them.
    """
    _, classes, *size = scene.like.shape
    searches = compatibility is None and classes > 3
    big = len(size) > 1 and int(np.prod(size)) >= JOINED_FROM
    normalized = recipe.normalization != "none"
    return prune and normalized and big and mask is None and not searches
