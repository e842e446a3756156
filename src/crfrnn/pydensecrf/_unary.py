"""Unary terms as objects, for `DenseCRF.setUnary`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arguments import Floats, as_floats, refuse_nan

#: Logit of an infinite energy: finite, since infinity minus infinity in a softmax is NaN.
_IMPOSSIBLE = -1e37


class Unary:
    """A unary term: `ConstUnary` or `LogisticUnary`. Several models may share it.

    Example:
        >>> from crfrnn.pydensecrf.densecrf import ConstUnary, LogisticUnary, Unary
        >>> issubclass(ConstUnary, Unary) and issubclass(LogisticUnary, Unary)
        True
    """

    def energies(self) -> Floats:
        """Return the energies (C, N).

        Example:
            >>> from crfrnn.pydensecrf.densecrf import Unary
            >>> Unary().energies()
            Traceback (most recent call last):
                ...
            TypeError: Unary holds no energies; use ConstUnary(u) or LogisticUnary(L, f)
        """
        raise TypeError("Unary holds no energies; use ConstUnary(u) or LogisticUnary(L, f)")


class ConstUnary(Unary):
    """Fixed unary energies.

    Args:
        u: energies -log P, (C, N): labels by pixels.

    Example:
        >>> from crfrnn.pydensecrf.densecrf import ConstUnary, DenseCRF
        >>> crf = DenseCRF(3, 2)
        >>> crf.setUnary(ConstUnary([[0.1, 2, 0.1], [2, 0.1, 2]]))
    """

    def __init__(self, u: Any) -> None:
        """Copy the energies."""
        self._energies = as_floats("u", u, 2, copy=True)

    def energies(self) -> Floats:
        """Return the energies (C, N).

        Example:
            >>> from crfrnn.pydensecrf.densecrf import ConstUnary
            >>> ConstUnary([[0, 2], [2, 0]]).energies().tolist()
            [[0.0, 2.0], [2.0, 0.0]]
        """
        return self._energies


class LogisticUnary(Unary):
    """Unary energies that are linear in features of the pixels: L @ f.

    Args:
        L: coefficients (C, D), one row per label.
        f: features (D, N), one column per pixel.

    Example:
        >>> from crfrnn.pydensecrf.densecrf import LogisticUnary
        >>> LogisticUnary([[1.0], [-1.0]], [[0.5, 2.0]]).energies().tolist()
        [[0.5, 2.0], [-0.5, -2.0]]
    """

    def __init__(self, L: Any, f: Any) -> None:
        """Compute the energies."""
        coefficients, features = as_floats("L", L, 2), as_floats("f", f, 2)
        refuse_nan("L", coefficients)
        refuse_nan("f", features)
        if coefficients.shape[1] != features.shape[0]:
            raise ValueError(
                f"L must be (labels, features) and f (features, pixels); got {coefficients.shape} "
                f"and {features.shape}"
            )
        self._energies = coefficients @ features

    def energies(self) -> Floats:
        """Return the energies (C, N).

        Example:
            >>> from crfrnn.pydensecrf.densecrf import LogisticUnary
            >>> LogisticUnary([[1.0], [0.5]], [[2.0, 4.0, 6.0]]).energies().tolist()
            [[2.0, 4.0, 6.0], [1.0, 2.0, 3.0]]
        """
        return self._energies


def as_logits(energies: Floats, labels: int, pixels: int) -> Floats:
    """Convert energies to logits (C, N), or raise an error that says why they do not fit."""
    shape = energies.shape
    if shape != (labels, pixels):
        hint = " Transpose it." if shape == (pixels, labels) else ""
        raise ValueError(
            f"the unary energies must be ({labels}, {pixels}), labels by pixels; got {shape}.{hint}"
        )
    logits: Floats = np.negative(energies)
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(energies.sum()):
            return logits  # one NaN or infinity would have spoilt the sum
    refuse_nan("the unary energies", energies, allows_infinity=True)
    if np.isneginf(energies).any():
        raise ValueError(
            "the unary energies must not be -infinity, a label beyond doubt; use a large negative "
            "number, such as -1e4"
        )
    impossible = np.isposinf(energies).all(axis=0)
    if impossible.any():
        raise ValueError(
            f"{int(impossible.sum())} pixels have an infinite energy for every label, the first at "
            f"{int(impossible.argmax())}: give each pixel at least one possible label, for example "
            f"with unary_from_softmax(..., clip=1e-5)"
        )
    np.maximum(logits, np.float32(_IMPOSSIBLE), out=logits)
    return logits
