"""Label compatibility: number, vector or matrix, in the original's signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._arguments import as_array, refuse_nan

#: Times the pixels of any image, still within float32.
_LARGEST = 1e25


def read_penalty(compat: Any, labels: int) -> Tensor:
    """Turn `compat` into penalties: (), (C,) or (C, C), to be multiplied with filtered marginals.

    A number rewards equal labels, so its penalty is the negative number. A vector (the diagonal)
    and a matrix are penalties as they stand; a matrix is replaced by its symmetric part.
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
        penalty = np.array(array, dtype=np.float32)
    refuse_nan("compat", penalty)
    if np.abs(penalty).max() > _LARGEST:
        raise ValueError(
            f"compat must stay below {_LARGEST:g}, or messages overflow; got {compat!r}"
        )
    if penalty.ndim == 2:
        penalty = (penalty + penalty.T) / 2
    return torch.from_numpy(penalty) * (-1 if penalty.ndim == 0 else 1)


def apply_penalty(penalty: Tensor, message: Tensor) -> Tensor:
    """Multiply penalties with filtered marginals (1, C, N)."""
    return penalty @ message if penalty.dim() == 2 else penalty[..., None] * message


def as_weights(penalties: Sequence[Tensor], labels: int) -> tuple[Tensor, Tensor | None]:
    """Write penalties as the kernel weights and the compatibility that `infer` takes.

    Where every penalty is a diagonal up to a constant, it is Potts (None) with weights (K, C),
    which engines do fast. The constant adds the same to all labels of a pixel, which the softmax
    takes away. Otherwise the weights are matrices (K, C, C).
    """
    identity = torch.from_numpy(np.eye(labels, dtype=np.float32))
    rows = [_diagonal(penalty, labels) for penalty in penalties]
    table = [row for row in rows if row is not None]
    if len(table) == len(rows):
        return torch.stack(table), None
    matrices = [p if p.dim() == 2 else p * identity for p in penalties]
    return torch.stack(matrices), identity


def _diagonal(penalty: Tensor, labels: int) -> Tensor | None:
    """The weights (C,) for which Potts says the same as `penalty`, if there are such."""
    if penalty.dim() < 2:
        return (-penalty).expand(labels)
    others = penalty[~torch.from_numpy(np.eye(labels, dtype=bool))]
    constant = others.new_zeros(()) if labels == 1 else others[0]
    return constant - penalty.diagonal() if bool((others == constant).all()) else None
