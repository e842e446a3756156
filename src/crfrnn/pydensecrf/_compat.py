"""Label compatibility: number, vector or matrix, with the signs of the original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._arguments import Floats, as_array, refuse_nan

#: Bound of `compat`: a sum over the pixels of any image then stays within float32.
_LARGEST = 1e25


def read_compatibility(compat: Any, labels: int) -> Floats:
    """Read `compat` as a compatibility: a multiple of I (), a diagonal (C,) or a matrix (C, C).

    A number c rewards equal labels: it reads as -c times I. A vector is the diagonal as it stands,
    and a matrix is replaced by its symmetric part.
    """
    array = as_array("compat", compat)
    if array.ndim > 2:
        raise ValueError(f"compat must be a number, a vector or a matrix; got shape {array.shape}")
    if array.shape != (labels,) * array.ndim:
        kind = "vector" if array.ndim == 1 else "matrix"
        raise ValueError(
            f"compat has to be a number, ({labels},) or ({labels}, {labels}) for {labels} labels; "
            f"got a {kind} of shape {array.shape}"
        )
    with np.errstate(over="ignore"):
        compatibility = np.array(array, dtype=np.float32)
    refuse_nan("compat", compatibility)
    if np.abs(compatibility).max() > _LARGEST:
        raise ValueError(
            f"compat must stay below {_LARGEST:g}, or messages overflow; got {compat!r}"
        )
    if compatibility.ndim == 2:
        compatibility = (compatibility + compatibility.T) / 2
    # The original subtracts its Potts term and adds the other two: a positive number rewards equal
    # labels, but a positive vector penalizes them.
    return np.asarray(-compatibility) if compatibility.ndim == 0 else compatibility


def penalize(compatibility: Floats, message: Floats) -> Floats:
    """Multiply a compatibility with a message (C, N): the penalty of each label."""
    penalty: Floats = (
        compatibility @ message if compatibility.ndim == 2 else compatibility[..., None] * message
    )
    return penalty


def as_weights(compatibilities: Sequence[Floats], labels: int) -> tuple[Floats, Floats | None]:
    """Convert one compatibility per kernel to the kernel weights and the compatibility of a model.

    Potts (None) with weights (K, C) if every compatibility is a diagonal plus a constant matrix;
    this is the fast case of the engines. Otherwise weights (K, C, C) and the identity.
    """
    # A constant matrix adds the same energy to all labels of a pixel, and softmax ignores it. Potts
    # is 1 - I, a constant matrix less the identity: with weights -d it is equivalent to diag(d).
    identity = np.eye(labels, dtype=np.float32)
    rows = [_potts_weights(compatibility, labels) for compatibility in compatibilities]
    table = [row for row in rows if row is not None]
    if len(table) == len(rows):
        return np.stack(table), None
    matrices = [a if a.ndim == 2 else a * identity for a in compatibilities]
    return np.stack(matrices), identity


def _potts_weights(compatibility: Floats, labels: int) -> Floats | None:
    """The weights (C,) with which Potts equals `compatibility` up to a constant, if they exist."""
    if compatibility.ndim < 2:
        return np.broadcast_to(-compatibility, labels)
    others = compatibility[~np.eye(labels, dtype=bool)]
    constant = np.float32(0) if labels == 1 else others[0]
    weights: Floats = constant - compatibility.diagonal()
    return weights if (others == constant).all() else None
