"""Guarding scores against a CRF that does harm, with a test that uses the scores alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crfrnn._arrays import Array, is_tensor, namespace
from crfrnn.crf.marginals import Marginals

from .verdict import is_confident, likeliest

#: An image keeps its input if the CRF relabels more pixels than this times the unsure ones.
MOST_RELABELED = 0.3

#: A pixel keeps its label if the scores give the new one a lower probability than this.
CREDIBLE = 0.25


@dataclass(frozen=True)
class Guarded:
    """What the guard did in one image.

    Attributes:
        kept_input: whether it kept the labels and probabilities of the scores in the whole image.
        reverted: number of pixels that the CRF had relabeled and that got their label back.

    Example:
        >>> import numpy as np
        >>> from crfrnn import Gaussian, refine
        >>> probs = np.array([[0.9, 0.1, 0.9, 0.6, 0.9], [0.1, 0.9, 0.1, 0.4, 0.1]])
        >>> strong = [Gaussian(position=2, weight=20)]
        >>> refine(None, probs=probs, kernels=strong).labels
        array([0, 0, 0, 0, 0])
        >>> guarded = refine(None, probs=probs, kernels=strong, guard=True)
        >>> guarded.labels, guarded.guarded
        (array([0, 1, 0, 0, 0]), Guarded(kept_input=True, reverted=1))
    """

    kept_input: bool
    reverted: int


def protect(
    result: Marginals, unary: Array, counted: Array | None, *, graded: bool
) -> list[Guarded]:
    """Put the input back into a result where the scores say that the CRF did harm.

    An image keeps its input if the CRF relabels more pixels than 0.3 times the number of unsure
    ones, whose likeliest class has a probability below 0.9. In the other images, a pixel keeps its
    input if the scores give its new label a probability below 0.25.

    Args:
        result: the marginals and labels of a batch; changed in place.
        unary: the logits (B, C, *S) of the scores.
        counted: (B, *S) bool, the pixels that had a label and took part; None for all. The others
            stay as the CRF left them.
        graded: whether the probabilities differ between pixels. Those of `labels=` do not, so every
            pixel counts as unsure, and every new label as credible.

    Returns:
        What was done, for each image.
    """
    return [
        _protect_image(
            result.probs[index],
            result.labels[index],
            logits,
            None if counted is None else counted[index],
            graded=graded,
        )
        for index, logits in enumerate(unary)
    ]


def _protect_image(
    probs: Array, labels: Array, logits: Array, counted: Array | None, *, graded: bool
) -> Guarded:
    before, marginal = likeliest(logits)
    inside = labels == labels if counted is None else counted  # all, on the same device
    moved = inside & (labels != before)
    unsure = inside & ~is_confident(marginal) if graded else inside
    kept = int(moved.sum()) > MOST_RELABELED * int(unsure.sum())
    back = inside
    if not kept:
        if not graded:
            return Guarded(kept_input=False, reverted=0)
        new = marginal * namespace(logits).exp(_at(logits, labels) - _at(logits, before))
        back = moved & (new < CREDIBLE)
    reverted = int((back & moved).sum())
    labels[back] = before[back]
    probs[:, back] = _softmax(logits[:, back])
    return Guarded(kept, reverted)


def _at(logits: Array, labels: Array) -> Array:
    """The logits (*S) of the labels (*S)."""
    take = namespace(logits).take_along_dim if is_tensor(logits) else np.take_along_axis
    return take(logits, labels[None], 0)[0]


def _softmax(logits: Array) -> Array:
    space = namespace(logits)
    odds = space.exp(logits - space.amax(logits, 0))
    return odds / odds.sum(0)
