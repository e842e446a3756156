"""What refine() returns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic

from crfrnn._arrays import Container, to_numpy
from crfrnn.crf.marginals import Pruned

from .guard import Guarded
from .verdict import Before, MasksBefore


@dataclass(frozen=True)
class Refined(Generic[Container]):
    """What `refine` returns.

    To type checkers, `Refined[np.ndarray]` where the scores were NumPy arrays, and
    `Refined[torch.Tensor]` where they were tensors.

    Attributes:
        probs: (C, *S) or (B, C, *S) approximate marginals; they sum to one over the classes, to
            (C + 8) times the precision of the type (1e-7 or 2e-16), and to 5e-4 in float16. For
            `masks`, (K, *S) or (B, K, *S) probabilities of the foreground.
        labels: (*S) or (B, *S) int64, the likeliest class of each pixel, the first of equals: no
            other has a larger entry in `probs`. Labels are found before `probs` is rounded to
            float16, where classes may become equal. For `masks`, (K, *S) or (B, K, *S) bool.
        engine: the engine that was used.
        steps: mean-field steps taken; a number, or a list of one per image of a batch.
        pruned: the classes that took part and the proven bound of the others; None if all did. A
            list with one entry per image for a batch, whose images are pruned one by one on the
            CPU, and together on a GPU.
        guarded: what the guard did, or a list of it for each image; None without `guard=True`.
        joined: whether clamped pixels that are alike sent as one, which changes the result a
            little; `prune=False` turns that off. See docs/guide/clamp.md.

    Example:
        >>> import numpy as np
        >>> from crfrnn import refine
        >>> refine(None, labels=np.array([0, 1, 1]), kernels=[]).probs.shape
        (2, 3)
    """

    probs: Container
    labels: Container
    engine: str
    steps: int | list[int]
    pruned: Pruned | list[Pruned | None] | None = None
    guarded: Guarded | list[Guarded] | None = None
    joined: bool = False
    _before: Before | MasksBefore | None = field(default=None, repr=False, compare=False)

    @cached_property
    def changed(self) -> Any:  # a type checker cannot know which of the two
        """A `Changed`: what the CRF did. A list of them for the images of a batch, or for masks.

        It is computed from the scores when you first ask for it. The result refers to the scores
        that `refine` was given and does not copy them. So it keeps them in memory, and you should
        ask before you overwrite them in place. A pickle or copy holds the answer in place of the
        scores.

        Raises:
            ValueError: the result was not made by `refine`.

        Example:
            >>> import numpy as np
            >>> from crfrnn import refine
            >>> refine(None, labels=np.array([0, 1, 1]), kernels=[]).changed.relabeled
            0
        """
        if self._before is None:
            raise ValueError(
                "changed needs the scores before the CRF; got a Refined that was made without "
                "them. Take it from the result of refine itself."
            )
        return self._before.compare(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle: what changed, in place of the scores."""
        if self._before is not None:
            _ = self.changed
        return {**vars(self), "_before": None}


def brought_back(refined: Refined[Any]) -> Refined[Any]:
    """Copy a result from a device to NumPy; it holds what changed, and frees the scores there."""
    probs, labels = to_numpy(refined.probs), to_numpy(refined.labels)
    back = replace(refined, probs=probs, labels=labels, _before=None)
    vars(back)["changed"] = refined.changed
    return back
