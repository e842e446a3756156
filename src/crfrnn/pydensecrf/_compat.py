"""Label compatibility: number, vector or matrix, with the signs of the original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._arguments import as_array, refuse_nan

#: Bound of `compat`: a sum over the pixels of any image then stays within float32.
_LARGEST = 1e25


def read_compatibility(compat: Any, labels: int) -> Tensor:
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
    return torch.from_numpy(compatibility) * (-1 if compatibility.ndim == 0 else 1)


def penalize(compatibility: Tensor, message: Tensor) -> Tensor:
    """Multiply a compatibility with a message (1, C, N): the penalty of each label."""
    if compatibility.dim() == 2:
        return compatibility @ message
    return compatibility[..., None] * message


def as_weights(compatibilities: Sequence[Tensor], labels: int) -> tuple[Tensor, Tensor | None]:
    """Convert one compatibility per kernel to the weights and the compatibility of `Pairwise`.

    Potts (None) with weights (K, C) if every compatibility is a diagonal plus a constant matrix;
    this is the fast case of the engines. Otherwise weights (K, C, C) and the identity.
    """
    # A constant matrix adds the same energy to all labels of a pixel, and softmax ignores it. Potts
    # is 1 - I, a constant matrix less the identity: with weights -d it is equivalent to diag(d).
    identity = torch.from_numpy(np.eye(labels, dtype=np.float32))
    rows = [_potts_weights(compatibility, labels) for compatibility in compatibilities]
    table = [row for row in rows if row is not None]
    if len(table) == len(rows):
        return torch.stack(table), None
    matrices = [a if a.dim() == 2 else a * identity for a in compatibilities]
    return torch.stack(matrices), identity


def _potts_weights(compatibility: Tensor, labels: int) -> Tensor | None:
    """The weights (C,) with which Potts equals `compatibility` up to a constant, if they exist."""
    if compatibility.dim() < 2:
        return (-compatibility).expand(labels)
    others = compatibility[~torch.from_numpy(np.eye(labels, dtype=bool))]
    constant = others.new_zeros(()) if labels == 1 else others[0]
    return constant - compatibility.diagonal() if bool((others == constant).all()) else None
