"""Labels as scores: what 255 means, which classes compete, and their logits."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np

from crfrnn import _checks
from crfrnn._arrays import Array, cast, is_floating, is_tensor, namespace
from crfrnn._guards import warn
from crfrnn.io.label_maps import VOID, is_black_and_white
from crfrnn.io.score_kinds import MANY_CLASSES

from .options import RefineOptions

#: Probabilities are clipped here before the logarithm, as `pydensecrf` does.
SMALLEST_PROBABILITY = 1e-5


def settle_labels(labels: Array, options: RefineOptions, ids: Sequence[int] | None) -> Array:
    """Return labels as they are, or 0 and 1 where nothing but 0 and 255 occurs; see `label_maps`.

    Beside ids of the job, or with more than two classes, 255 means unknown.
    """
    unclear = options.ignore_index == VOID and options.num_classes in (None, 2)
    if not unclear or is_floating(labels) or not set(ids or ()) <= {0, VOID}:
        return labels
    if not is_black_and_white(labels):
        return labels
    warn(
        "labels hold nothing but 0 and 255, so 255 is taken for the foreground, class 1. Give "
        "labels // 255, or masks=, to silence this. If 255 means unknown, give num_classes=3 or "
        "more, or change 255 in the labels to another id and give that as ignore_index",
        "labels hold nothing but 0 and 255, so 255 is taken for the foreground",
    )
    return cast(labels == VOID, namespace(labels).int64)


def label_logits(labels: Array, options: RefineOptions, ids: Sequence[int] | None) -> Array:
    """Logits (B, C, *S) of labels that are each right with probability `confidence`.

    The rest is shared by the other classes: all of `num_classes` if that was given, otherwise those
    that occur. So renumbering the ids does not change the result.
    """
    num_classes, confidence = options.num_classes, options.confidence
    ignore_index = operator.index(options.ignore_index)
    if is_floating(labels):
        raise TypeError(
            f"labels must be integers; got {labels.dtype}. Scores go to logits= or probs=."
        )
    space = namespace(labels)
    labels = cast(labels, space.int64)
    known = labels != ignore_index
    low, high = (int(labels[known].min()), int(labels[known].max())) if known.any() else (0, 0)
    high = max(high, *(i for i in (ids or (0,)) if i != ignore_index), 0)
    if num_classes is None and high >= MANY_CLASSES:
        raise ValueError(
            f"labels go up to {high}, which would be {high + 1} classes. If this is a mask of 16 "
            "bits, give it as masks=, as bools. Otherwise renumber the ids "
            "(np.unique(labels, return_inverse=True)), or give num_classes if there are that many"
        )
    classes = max(high + 1, 2) if num_classes is None else _checks.count("num_classes", num_classes)
    _checks.fits_memory("num_classes", classes, classes, *labels.shape)
    if low < 0 or high >= classes or classes < 2:
        raise ValueError(
            f"labels must lie in 0..{classes - 1} (num_classes={classes}, at least 2), or be "
            f"ignore_index={ignore_index}; got {low} to {high}"
        )
    absent: list[int] = []
    if num_classes is None:
        present = {i for i in ids or () if i != ignore_index} or set(
            space.unique(labels[known]).tolist()
        )
        absent = [i for i in range(classes) if i not in present]
    rivals = max(classes - len(absent), 2)
    if not 1 / rivals < confidence < 1:
        raise ValueError(
            f"confidence must lie between 1/num_classes = {1 / rivals:.3g} and 1; got {confidence}"
        )
    # The log probabilities of the label itself and of each other label.
    right, other = math.log(confidence), math.log((1 - confidence) / (rivals - 1))
    index = space.where(known, labels, 0)[:, None]
    unary = space.full((len(labels), classes, *labels.shape[1:]), other, dtype=space.float32)
    if is_tensor(unary):
        unary = unary.to(labels.device).scatter_(1, index, right)
    else:
        np.put_along_axis(unary, index, np.float32(right), 1)
    unary = cast(space.where(known[:, None], unary, -math.log(rivals)), space.float32)
    if absent and len(absent) < classes:
        unary[:, absent] = math.log(SMALLEST_PROBABILITY)
    return unary
