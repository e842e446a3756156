"""Marginals and labels of a batch, without gradients: in the compiled core, or on tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace

from crfrnn import _checks
from crfrnn._arrays import Array, is_tensor
from crfrnn.core.inference import Options

from .kept import KeptFilters
from .kernel import Scene
from .kernels import weight_table
from .recipe import Recipe


@dataclass(frozen=True)
class Pruned:
    """The classes that are kept, and the bound that certifies leaving out the others.

    `bound` makes two statements about a class that is left out. Both are true of the full
    inference, where that class takes part. Nothing is certified about the kept classes, because
    they miss the small messages. If some of them are tied to within those messages, a marginal
    may change by any amount, and so may a label.

    Attributes:
        kept: the classes that take part.
        bound: an upper bound, in logits, of every message to a class that is left out, at any pixel
            in any step. The marginals of that class stay below exp(bound) times those of the unary
            term, and it is the likeliest class at no pixel.
    """

    kept: tuple[int, ...]
    bound: float


@dataclass(frozen=True)
class Marginals:
    """The result of the recurrence.

    Attributes:
        probs: (B, C, *S) marginals.
        labels: (B, *S) int64, the likeliest class of each pixel.
        steps: the updates computed for each image of the batch.
        pruned: the certificate of the classes that were left out, for each image; None where all
            took part.
        is_finite: whether all marginals are finite.
        joined: whether clamped pixels that are alike sent as one.
    """

    probs: Array
    labels: Array
    steps: list[int]
    pruned: list[Pruned | None]
    is_finite: bool = True
    joined: bool = False


def marginals(
    recipe: Recipe,
    scene: Scene,
    options: Options,
    *,
    mask: Array | None = None,
    held: Array | None = None,
    compatibility: Array | None = None,
    prune: bool = True,
    kept: KeptFilters | None = None,
) -> Marginals:
    """Run an inference from the logits of a scene.

    Args:
        recipe: kernels, normalization, filter and engine.
        scene: the logits (B, C, *S), and what the kernels look at. NumPy arrays go to the compiled
            core, tensors to the engine of the recipe.
        options: iterations, tolerance and precision.
        mask: (B, *S) bool; pixels outside take no part.
        held: (B, *S) bool, the clamped pixels: they send, and keep their logits.
        compatibility: (C, C) penalty for one label beside another; None is Potts.
        prune: whether to leave out classes that provably win no pixel; only Potts models allow it.
        kept: filters of earlier calls with the same image; used by the compiled core.

    Raises:
        ValueError: the result is not finite.
    """
    weights = weight_table(recipe.kernels, scene.like.shape[1])
    if options.iterations == 0:
        recipe, weights = replace(recipe, kernels=()), weights[:0]
    if is_tensor(scene.like):
        from . import on_tensors  # late: it needs torch

        result = on_tensors.marginals(
            recipe,
            scene,
            options,
            weights,
            mask=mask,
            held=held,
            compatibility=compatibility,
            prune=prune,
        )
    else:
        from . import compiled

        result = compiled.marginals(
            recipe,
            scene,
            options,
            weights,
            mask=mask,
            held=held,
            compatibility=compatibility,
            prune=prune,
            kept=kept,
        )
    if not result.is_finite:
        parts = {"scores": scene.like, "kernel weights": weights, "compatibility": compatibility}
        _checks.finite_result("refine", result.probs, **parts)
    refuse_infinite(result.is_finite, result.probs)
    return result


def refuse_infinite(is_finite: bool, probs: Array) -> None:
    """Raise unless marginals are finite."""
    if not is_finite:
        raise ValueError(
            f"the scores, kernel weights or compatibility are too large for {probs.dtype}: the "
            f"result is not finite. Scale them down, or give the scores in float64."
        )
