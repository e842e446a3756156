"""Warnings about scores that are of another kind than the argument expects.

Such scores have a plausible shape, and the result looks plausible too. So the tests here look for
something that is very unlikely by accident: at every pixel, the classes sum to one.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np

from . import _checks
from ._arrays import Array, is_tensor, to_numpy

#: Half precision, and 8 bits for each of many classes, round sums by as much.
_TOLERANCE = 0.02
_STEP_OF_8_BITS = 1 / 255
#: Interpolation and rounding leave 0..1 by as much.
_SLACK = 1e-3
#: In fewer pixels than this, all classes may sum to one by accident.
_FEWEST = 4
#: Scores that differ by less are as good as equal.
_LEAST_SPREAD = 0.1
#: Pixels looked at first. Scores that pass there, as nearly all do, are not read as a whole.
_SAMPLE = 64
#: One channel is of probabilities if more than this share lies within `_TOLERANCE` of 0 or 1.
_SURE = 0.5
#: Logarithms are of probabilities only where more than this share of pixels is not nearly sure.
_UNSURE, _SURELY = 0.01, 0.95

#: Packages whose frames are not the caller's.
_INNER = ("crfrnn", "torch", "jaxtyping", "beartype", "contextlib", "functools", "<@beartype")


class InputWarning(UserWarning):
    """An input that is valid, but most likely not what its argument expects.

    Turn it into an error with `warnings.simplefilter("error", crfrnn.InputWarning)`.

    Attributes:
        sentence: the text without numbers and the name of a file, so that a job can count
            repetitions.

    Example:
        >>> import warnings
        >>> import numpy as np
        >>> import crfrnn
        >>> p = np.array([[0.9, 0.2, 0.3, 0.9]])
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", crfrnn.InputWarning)
        ...     crfrnn.refine(None, logits=np.stack([p, 1 - p]), kernels=[])
        Traceback (most recent call last):
            ...
        crfrnn._guards.InputWarning: logits lie in 0..1 and sum to 1 over the classes, ...
    """

    def __init__(self, text: str = "", sentence: str | None = None) -> None:
        super().__init__(text)
        self.sentence = text if sentence is None else sentence


def warn_of_scores(name: str, kind: str, scores: Array, axis: int = 1) -> None:
    """Warn, at the line that called the library, of scores that are of another kind.

    Args:
        name: of the scores in the message.
        kind: what they are said to be: "logits" or "energy".
        scores: with the classes on an axis. A tensor on a device, or one that is traced, is not
            read.
        axis: of the classes.
    """
    if is_tensor(scores) and not _checks.readable(scores):
        return
    try:
        rows = np.moveaxis(to_numpy(scores), axis, 0)
    except RuntimeError:  # under vmap a tensor has no value
        return
    rows = rows.reshape(len(rows), -1)
    if rows.shape[1] < _FEWEST:
        return
    few = rows[:, :: max(1, rows.shape[1] // _SAMPLE)]
    for test, message in _TESTS[kind]:
        if test(few) and test(rows):
            warn(f"{name} {message}", message)
            return


def warn(text: str, sentence: str | None = None, kind: type[InputWarning] = InputWarning) -> None:
    """Warn in the name of who called the library; the words are those of an `InputWarning`."""
    # A number of frames would be wrong for one of the ways in: a layer within a network is called
    # through torch.
    depth, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _is_inner(frame.f_globals.get("__name__", "")):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(kind(text, sentence), stacklevel=depth)


def _is_inner(module: str) -> bool:
    return module.split(".")[0] in _INNER


def _softmax(rows: np.ndarray) -> bool:
    return _sum_to_one(rows) and _varied(rows)


def _sigmoid(rows: np.ndarray) -> bool:
    if len(rows) > 1 or rows.min() < -_SLACK or rows.max() > 1 + _SLACK:
        return False
    sure = np.minimum(abs(rows), abs(rows - 1)) <= _TOLERANCE
    return _varied(rows) and bool(sure.mean() > _SURE)


def _energies(rows: np.ndarray) -> bool:
    return bool(rows.min() >= -_SLACK) and _log_probabilities(-rows)


def _log_probabilities(rows: np.ndarray) -> bool:
    if rows.max() > _SLACK or not _varied(rows):
        return False
    # Of two classes with the scores 0 and -8, the exponentials sum to one as well: only pixels
    # that are less sure tell.
    probs = np.exp(rows)
    return _sum_to_one(probs) and bool((probs.max(0) < _SURELY).mean() > _UNSURE)


def _sum_to_one(rows: np.ndarray) -> bool:
    """Whether the columns are the probabilities of two classes or more."""
    if len(rows) == 1 or rows.min() < -_SLACK or rows.max() > 1 + _TOLERANCE:
        return False
    most = max(_TOLERANCE, len(rows) * _STEP_OF_8_BITS / 2)
    return bool((abs(rows.sum(0, dtype=np.float64) - 1) <= most).all())


def _varied(rows: np.ndarray) -> bool:
    """Equal numbers everywhere say nothing, and do no harm."""
    return bool(np.ptp(rows) > _LEAST_SPREAD)


_PROBABILITIES = "lie in 0..1 and sum to 1 over the classes, so they look like probabilities. "
_FOREGROUND = "lie in 0..1, most of them near 0 or 1, so they look like probabilities. "
_AS_LOGITS = "Read as logits, they say hardly anything. For refine there is probs=; elsewhere give "
_LEAST_LIKELY = "Read as {kind}, they let the least likely class win. "

#: For each kind that scores are said to be: tests for other kinds, and what to say.
_TESTS = {
    "logits": (
        (
            _softmax,
            f"{_PROBABILITIES}{_AS_LOGITS}the scores before softmax, or log(probabilities).",
        ),
        (
            _sigmoid,
            f"{_FOREGROUND}{_AS_LOGITS}the scores before the sigmoid, or logit(probabilities).",
        ),
        (
            _energies,
            "are positive, and exp(-logits) sums to 1 over the classes, so they look like energies "
            f"-log P. {_LEAST_LIKELY.format(kind='logits')}For refine there is energy=; elsewhere "
            "change their sign.",
        ),
    ),
    "energy": (
        (
            _softmax,
            f"{_PROBABILITIES}{_LEAST_LIKELY.format(kind='energies')}For refine there is probs=; "
            "elsewhere give -log(probabilities).",
        ),
        (
            _log_probabilities,
            "is negative, and exp(energy) sums to 1 over the classes, so it looks like log P. "
            f"{_LEAST_LIKELY.format(kind='energies')}Change the sign: an energy is -log P.",
        ),
    ),
}
