"""What a refinement changed: pixels relabeled and flipped, classes lost and gained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from crfrnn._arrays import Array, cast, is_tensor, namespace, to_numpy

#: A pixel is confident if the unary marginal of its label is at least this.
CONFIDENT = 0.9

#: A probability that was exactly `CONFIDENT` still counts after the rounding of logarithms.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Changed:
    """What the CRF changed in one image. To sum up several images, add the counts.

    A label before the CRF is the likeliest class of the scores. A pixel is *confident* if the
    probability of that class, the softmax of the scores, is at least 0.9. Only pixels that had a
    label and took part are counted. Pixels outside `mask` and those of `ignore_index` are not.

    Attributes:
        pixels: number of pixels that are counted.
        relabeled: how many of them have a different label than before.
        confident: how many of them were confident.
        flipped: how many of the confident ones were relabeled.
        vanished: ids of the classes that had pixels before and have none now.
        appeared: ids of the classes that had no pixels before and have some now.
        swapped: pairs (before, after) of ids: more than half of the pixels of one class now have
            the label of one other class.

    Example:
        >>> import numpy as np
        >>> from crfrnn import refine
        >>> probs = np.full((2, 5, 5), 0.1)
        >>> probs[0] = 0.9
        >>> probs[:, 2, 2] = 0.3, 0.7  # a speck of class 1
        >>> changed = refine(np.zeros((5, 5, 3), np.uint8), probs=probs).changed
        >>> changed.relabeled, changed.vanished, changed.swapped
        (1, (1,), ((1, 0),))
        >>> changed.share_relabeled, changed.share_flipped
        (0.04, 0.0)
    """

    pixels: int
    relabeled: int
    confident: int
    flipped: int
    vanished: tuple[int, ...]
    appeared: tuple[int, ...]
    swapped: tuple[tuple[int, int], ...]

    @property
    def share_relabeled(self) -> float:
        """Share of the pixels that were relabeled, 0..1."""
        return self.relabeled / max(self.pixels, 1)

    @property
    def share_flipped(self) -> float:
        """Share of the confident pixels that were relabeled, 0..1; 0 if none was confident."""
        return self.flipped / max(self.confident, 1)


@dataclass(frozen=True)
class Before:
    """The state of a batch before the CRF.

    Attributes:
        unary: gives the logits (B, C, *S).
        counted: (B, *S) bool, the pixels that had a label and took part; None for all.
        batched: whether the caller gave a batch.
    """

    unary: Callable[[], Array]
    counted: Array | None
    batched: bool

    def compare(self, after: Array) -> Changed | list[Changed]:
        """Compare with the labels after the CRF: one verdict, or a list of one per image."""
        images = after if self.batched else after[None]
        found = [
            compare(logits, labels, None if self.counted is None else self.counted[index])
            for index, (logits, labels) in enumerate(zip(self.unary(), images, strict=True))
        ]
        return found if self.batched else found[0]


@dataclass(frozen=True)
class MasksBefore:
    """The state of independent masks before the CRF; class 1 is the foreground.

    Attributes:
        masks: (B, K, *S).
        to_logits: gives the logits of the foreground against the background for masks.
        counted: (B, *S) bool, the pixels that took part; None for all.
        batched: whether the caller gave a batch.
    """

    masks: Array
    to_logits: Callable[[Array], Array]
    counted: Array | None
    batched: bool

    def compare(self, after: Array) -> list[Any]:
        """Compare with the labels after the CRF: a verdict per mask, in a list per image."""
        images = after if self.batched else after[None]
        found = []
        for b, (masks, labels) in enumerate(zip(self.masks, images, strict=True)):
            counted = None if self.counted is None else self.counted[b]
            verdicts = []
            for mask, label in zip(masks, labels, strict=True):
                z = self.to_logits(mask[None])
                space = namespace(z)
                both = space.concatenate([space.zeros_like(z), z], 0)
                verdicts.append(compare(both, label, counted))
            found.append(verdicts)
        return found if self.batched else found[0]


def compare(logits: Array, after: Array, counted: Array | None = None) -> Changed:
    """Compare the labels of one image before and after the CRF.

    Args:
        logits: (C, *S) of the unary term, an array or a tensor on any device.
        after: (*S) labels after the CRF.
        counted: (*S) bool, the pixels to count; default all.

    Example:
        >>> import numpy as np
        >>> from crfrnn.offline.verdict import compare
        >>> compare(np.array([[9.0, 9, 0], [0, 0, 1]]), np.array([0, 1, 1])).flipped
        1
    """
    classes = len(logits)
    before, marginal = likeliest(logits)
    sure = to_numpy(is_confident(marginal)).ravel()
    old, new = to_numpy(before).ravel(), to_numpy(after).ravel().astype(np.int64, copy=False)
    if counted is not None:
        inside = to_numpy(counted).ravel()
        old, new, sure = old[inside], new[inside], sure[inside]
    moved = old != new
    had, has = (np.bincount(ids, minlength=classes) for ids in (old, new))
    pairs, counts = np.unique(old[moved] * classes + new[moved], return_counts=True)
    most = [(int(pair) // classes, int(pair) % classes) for pair in pairs]
    return Changed(
        pixels=int(old.size),
        relabeled=int(moved.sum()),
        confident=int(sure.sum()),
        flipped=int((sure & moved).sum()),
        vanished=_ids((had > 0) & (has == 0)),
        appeared=_ids((had == 0) & (has > 0)),
        swapped=tuple(
            pair for pair, count in zip(most, counts, strict=True) if 2 * count > had[pair[0]]
        ),
    )


def likeliest(logits: Array) -> tuple[Array, Array]:
    """Return the likeliest class of each pixel of logits (C, *S), and its probability, (*S) each.

    Classes are taken one at a time: the scores are never copied, and NumPy's argmax over the first
    axis takes three times as long.
    """
    space = namespace(logits)
    top = logits[0]
    labels = cast(space.zeros_like(top), space.int64)
    for number, plane in enumerate(logits[1:], 1):
        labels[plane > top] = number
        top = space.maximum(top, plane)
    total = space.zeros_like(top)
    for plane in logits:
        total += space.exp(plane - top)
    return labels, 1 / total


def is_confident(marginal: Array) -> Array:
    """Whether pixels whose likeliest class has this probability are confident."""
    return marginal >= CONFIDENT - _ROUNDING


def counted_pixels(
    name: str, scores: Array, ignore_index: int, batched: bool, mask: Array | None
) -> Array | None:
    """Return (B, *S) bool, the pixels that have a label and take part; None for all.

    Args:
        name: the argument that holds the scores; only `labels` can be unknown.
        scores: its value.
        ignore_index: the label of unknown pixels.
        batched: whether `scores` is a batch.
        mask: (B, *S) bool, the pixels that take part.
    """
    if name != "labels":
        return mask
    known = scores != ignore_index
    known = known if batched else known[None]
    if mask is None:
        return known
    return known & (mask.to(known.device) if is_tensor(known) else mask)


def _ids(present: np.ndarray) -> tuple[int, ...]:
    return tuple(np.flatnonzero(present).tolist())
