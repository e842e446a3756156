"""The permutohedral lattice in plain PyTorch: the oracle of every engine's lattice."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .arrays import LatticeArrays


def build(features: Tensor) -> LatticeArrays:
    """Build the lattice of Adams, Baek & Davis (2010) around `features` (B N D)."""
    parts = [_build_item(item) for item in features]
    vertex, weight, neighbor, entry, offset = (list(column) for column in zip(*parts, strict=True))
    sizes = torch.tensor([0] + [part.shape[1] for part in neighbor])
    return LatticeArrays(
        torch.stack(vertex),
        torch.stack(weight),
        torch.cat(neighbor, dim=1),
        torch.stack(entry),
        torch.cat(offset),
        sizes.cumsum(0),
    )


def filter(
    values: Tensor, lattice: LatticeArrays, reverse: bool, storage: torch.dtype | None = None
) -> Tensor:
    """Splat, blur and slice `values` (B N C); `reverse` blurs the axes backwards: the adjoint.

    `storage` is the float type to which the vertices' values are rounded, that of `values` by
    default. Each blur up to doubles them; they have to stay in range when it halves them.
    """
    bounds = lattice.starts.tolist()
    items = [
        _filter_item(
            values[b],
            lattice.vertex[b],
            lattice.weight[b],
            lattice.neighbor[:, bounds[b] : bounds[b + 1]],
            reverse,
            storage,
        )
        for b in range(values.shape[0])
    ]
    return torch.stack(items)


def filter_to_weight(
    values: Tensor, gradient: Tensor, lattice: LatticeArrays, reverse: bool
) -> Tensor:
    """From dL/dout (B N C) of `filter` to dL/dweight (B N D+1).

    A weight acts twice: it slices the blurred table, and it splats into the table that the adjoint
    sees.
    """
    bounds = lattice.starts.tolist()
    rows = []
    for b in range(values.shape[0]):
        vertex = lattice.vertex[b]
        arrays = (vertex, lattice.weight[b], lattice.neighbor[:, bounds[b] : bounds[b + 1]])
        sliced = _blurred(values[b], *arrays, reverse)
        splatted = _blurred(gradient[b], *arrays, not reverse)
        columns = [
            (gradient[b] * sliced[row] + values[b] * splatted[row]).sum(1)
            for row in vertex.long().T
        ]
        rows.append(_gain(vertex) * torch.stack(columns, dim=1))
    return torch.stack(rows)


def barycentric(features: Tensor) -> Tensor:
    """The weights (B N D+1) that `build` finds, as a differentiable function of the features.

    They are linear inside a simplex, so autograd gives the derivative everywhere but on its faces.
    """
    return torch.stack([embed(item)[1] for item in features])


def embed(features: Tensor) -> tuple[Tensor, Tensor]:
    """Find the simplex around each of N points: corner keys (N D+1 D+1, int64), weights (N D+1).

    Every engine performs these roundings in this order, so that all agree on the simplex.
    """
    d = features.shape[1]
    elevated = _elevate(features)
    # The nearest lattice point whose coordinates are all multiples of D+1 ...
    quotient = torch.round(elevated * (1.0 / (d + 1)))
    base = quotient * (d + 1)
    residue = elevated - base
    # ... and the order of the residues, which says in which simplex around it the point lies.
    before = residue[:, :, None] < residue[:, None, :]
    later = torch.ones(d + 1, d + 1, dtype=torch.bool, device=features.device).triu(1)
    rank = ((before & later) | (~before.transpose(1, 2) & later.T)).sum(2)
    # The quotients must sum to zero; where they do not, move the coordinates with extreme ranks.
    rank = rank + quotient.sum(1, keepdim=True).long()
    shift = (rank < 0).long() - (rank > d).long()
    rank = rank + shift * (d + 1)
    base = base + (shift * (d + 1)).to(base.dtype)

    delta = torch.empty_like(elevated).scatter_(1, rank, (elevated - base) * (1.0 / (d + 1)))
    first = delta[:, d:] + (1 - delta[:, :1])
    weight = torch.cat([first, delta[:, :d].flip(1) - delta[:, 1:].flip(1)], dim=1)

    corner = torch.arange(d + 1, device=features.device)[None, :, None]
    keys = base.long()[:, None, :] + corner - (d + 1) * (rank[:, None, :] > d - corner).long()
    return keys, weight


def _elevate(features: Tensor) -> Tensor:
    """Map points (N D) onto the hyperplane of coordinate sum zero in D+1 dimensions.

    The scale makes splat, blur and slice together have unit variance (Adams et al., section 3).
    """
    d = features.shape[1]
    total = torch.zeros_like(features[:, 0])
    elevated = [total] * (d + 1)
    for j in range(d, 0, -1):
        scaled = features[:, j - 1] * ((d + 1) * math.sqrt(2 / 3) / math.sqrt(j * (j + 1)))
        elevated[j] = total - j * scaled
        total = total + scaled
    elevated[0] = total
    return torch.stack(elevated, dim=1)


def _build_item(features: Tensor) -> tuple[Tensor, ...]:
    """Build the arrays of one batch item from its features (N D)."""
    n, d = features.shape
    keys, weight = embed(features)
    keys = keys[:, :, :d].flatten(0, 1)  # the last coordinate follows from the sum of zero
    _, inverse = torch.unique(_row_codes(keys), return_inverse=True)
    m = int(inverse.max()) + 1 if n else 0
    vertices = keys.new_empty(m, d).index_copy_(0, inverse, keys)
    neighbor = torch.stack([_neighbors(vertices, axis) for axis in range(d + 1)])
    order = inverse.argsort(stable=True)
    offset = torch.zeros(m + 1, dtype=torch.int32, device=features.device)
    offset[1:] = inverse.bincount(minlength=m).cumsum(0)
    vertex = (inverse + 1).view(n, d + 1)
    return vertex.int(), weight, neighbor.int(), order.int(), offset


def _neighbors(vertices: Tensor, axis: int) -> Tensor:
    """Row numbers (M 2) of the vertices one step back and forth along `axis`; 0 where absent."""
    m, d = vertices.shape
    step = torch.ones(d, dtype=vertices.dtype, device=vertices.device)
    if axis < d:
        step[axis] = -d
    codes = _row_codes(torch.cat([vertices, vertices - step, vertices + step])).view(3, m)
    ordered, row = codes[0].sort()
    place = torch.searchsorted(ordered, codes[1:]).clamp(max=m - 1)
    found = ordered[place] == codes[1:]
    return torch.where(found, row[place] + 1, 0).T


def _row_codes(rows: Tensor) -> Tensor:
    """One int64 a row, equal exactly where the rows are equal."""
    code = torch.zeros_like(rows[:, 0])
    span = 1
    for column in rows.T:
        low, high = int(column.min()), int(column.max())
        if span * (high - low + 1) >= 2**62:  # would overflow: renumber what is coded so far
            code = torch.unique(code, return_inverse=True)[1]
            span = len(rows)
        code = code * (high - low + 1) + (column - low)
        span *= high - low + 1
    return code


def _filter_item(
    values: Tensor,
    vertex: Tensor,
    weight: Tensor,
    neighbor: Tensor,
    reverse: bool,
    storage: torch.dtype | None,
) -> Tensor:
    """Filter the values (N C) of one batch item."""
    table = _blurred(values, vertex, weight, neighbor, reverse, storage)
    out = torch.zeros_like(values)
    for row, corner_weight in zip(vertex.long().T, weight.T, strict=True):  # slice
        out = out + (_gain(vertex) * corner_weight[:, None]) * table[row]
    return out


def _blurred(
    values: Tensor,
    vertex: Tensor,
    weight: Tensor,
    neighbor: Tensor,
    reverse: bool,
    storage: torch.dtype | None = None,
) -> Tensor:
    """Splat the values (N C) and blur; row 0 of the table stays zero."""
    d = vertex.shape[1] - 1
    table = values.new_zeros(neighbor.shape[1] + 1, values.shape[1])
    for row, corner_weight in zip(vertex.long().T, weight.T, strict=True):  # splat
        table = table.index_add(0, row, corner_weight[:, None] * values)
    own = 1.0 if storage is None else 0.5  # of a narrower type, so that no blur leaves its range
    table = _stored(table, storage)
    for axis in reversed(range(d + 1)) if reverse else range(d + 1):  # blur with own (½, 1, ½)
        back, forth = neighbor[axis].long().unbind(1)
        blurred = table[1:] + 0.5 * (table[back] + table[forth])
        table = _stored(torch.cat([table[:1], own * blurred]), storage)
    return table / own ** (d + 1)


def _stored(table: Tensor, storage: torch.dtype | None) -> Tensor:
    return table if storage is None else table.to(storage).to(table.dtype)


def _gain(vertex: Tensor) -> float:
    return 1 / (1 + 2.0 ** (1 - vertex.shape[1]))
