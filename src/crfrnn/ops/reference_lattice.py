"""The permutohedral lattice in plain PyTorch: the oracle of every engine's lattice."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .arrays import LatticeArrays, refuse_far


def build(features: Tensor) -> LatticeArrays:
    """Build the lattice of Adams, Baek & Davis (2010) around `features` (B N D)."""
    if features.device.type == "cpu":  # elsewhere the host would wait for the device
        refuse_far(float(features.detach().abs().max()), features.dtype)
    parts = [_build_item(item) for item in features]
    # Lattices differ in their number of vertices: tables of vertices lie one after the other.
    vertex, weight, neighbor, entry, offset = (list(column) for column in zip(*parts, strict=True))
    sizes = torch.tensor([0] + [part.shape[1] for part in neighbor], device="cpu")
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

    `storage` is the float type to which the values of vertices are rounded; default, the type of
    `values`. Each blur can double a value. With a storage type, blurs are halved and the values of
    the splat must be in its range.
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

    Gradients reach the weights only; the vertices are constants.
    """
    # Let out = α Sᵀ B S v, where S[ν, i] is the weight of point i at vertex ν, α the gain and B the
    # product of all blurs. Every weight acts twice, in the slice and in the splat. Let dL/dout = g:
    #   dL = α ⟨g, dSᵀ (B S v)⟩ + α ⟨g, Sᵀ B dS v⟩ = α ⟨g, dSᵀ X⟩ + α ⟨Y, dS v⟩
    # for the tables X = B S v and Y = Bᵀ S g. So dL/dS[ν, i] = α (⟨g_i, X_ν⟩ + ⟨v_i, Y_ν⟩), and Bᵀ
    # is the blur in reverse order.
    bounds = lattice.starts.tolist()
    rows = []
    for b in range(values.shape[0]):
        vertex = lattice.vertex[b]
        arrays = (vertex, lattice.weight[b], lattice.neighbor[:, bounds[b] : bounds[b + 1]])
        forward = _blurred(values[b], *arrays, reverse)
        adjoint = _blurred(gradient[b], *arrays, not reverse)
        columns = [
            (gradient[b] * forward[row] + values[b] * adjoint[row]).sum(1)
            for row in vertex.long().T
        ]
        rows.append(_gain(vertex) * torch.stack(columns, dim=1))
    return torch.stack(rows)


def barycentric(features: Tensor) -> Tensor:
    """The weights (B N D+1) of `build` as a differentiable function of the features.

    They are linear inside a simplex. Autograd gives the derivative everywhere but on its faces.
    """
    return torch.stack([embed(item)[1] for item in features])


def embed(features: Tensor) -> tuple[Tensor, Tensor]:
    """Find the simplex around each of N points: corner keys (N D+1 D+1, int64), weights (N D+1).

    Every engine performs these roundings in this order, so that all agree on the simplex.
    """
    d = features.shape[1]
    elevated = _elevate(features)
    # Round. The vertices are the integer points of the hyperplane whose coordinates are all equal
    # modulo D+1. Their common remainder is 0 for the base vertex: multiples of D+1 near the point.
    quotient = torch.round(elevated * (1.0 / (d + 1)))
    base = quotient * (d + 1)
    residue = elevated - base
    # Rank. The order of the residues picks one of the (D+1)! simplices around the base vertex. The
    # rank of a coordinate is its place in descending order: the number of coordinates with a larger
    # residue. Of equal residues, the earlier one has the smaller rank.
    before = residue[:, :, None] < residue[:, None, :]
    later = torch.ones(d + 1, d + 1, dtype=torch.bool, device=features.device).triu(1)
    rank = ((before & later) | (~before.transpose(1, 2) & later.T)).sum(2)
    # Rounding each coordinate alone may leave the hyperplane: the quotients sum to some h. If it is
    # positive, the h coordinates with the smallest residues go down by D+1; if negative, the |h|
    # coordinates with the largest go up by D+1. Adding h to all ranks pushes exactly these out of
    # 0..D. Their residues change by D+1 in the other direction, so their ranks wrap around.
    rank = rank + quotient.sum(1, keepdim=True).long()
    shift = (rank < 0).long() - (rank > d).long()
    rank = rank + shift * (d + 1)
    base = base + (shift * (d + 1)).to(base.dtype)

    # Barycentric weights. With δ_r the residue of rank r over D+1, so δ_0 >= ... >= δ_D:
    #   b_0 = 1 - δ_0 + δ_D,   b_k = δ_{D-k} - δ_{D-k+1},  k = 1..D.
    # They are not negative and sum to one by telescoping. They reproduce the point: corner k adds k
    # to the coordinate of rank r, less D+1 if k > D - r. Residues sum to zero, hence
    #   Σ_k k b_k = (D+1) δ_0 - Σ_r δ_r = (D+1) δ_0   and   Σ_{k > D-r} b_k = δ_0 - δ_r,
    # and the first minus D+1 times the second is (D+1) δ_r, the residue.
    delta = torch.empty_like(elevated).scatter_(1, rank, (elevated - base) * (1.0 / (d + 1)))
    first = delta[:, d:] + (1 - delta[:, :1])
    weight = torch.cat([first, delta[:, :d].flip(1) - delta[:, 1:].flip(1)], dim=1)

    # Corner k is the vertex of remainder k: add k to all coordinates and subtract D+1 from the k
    # coordinates with the smallest residues, those of ranks above D - k.
    corner = torch.arange(d + 1, device=features.device)[None, :, None]
    keys = base.long()[:, None, :] + corner - (d + 1) * (rank[:, None, :] > d - corner).long()
    return keys, weight


def _elevate(features: Tensor) -> Tensor:
    """Map points (N D) onto the hyperplane of D+1 coordinates that sum to zero."""
    # Feature j goes along the vector (1, ..., 1, -j, 0, ..., 0) with j ones. The coordinates of
    # each vector sum to zero. The vectors are orthogonal and of length √(j (j+1)), so dividing by
    # that makes the map a rotation times c. With s_j the scaled feature, a running sum gives
    #   y_j = Σ_{k>j} s_k - j s_j.
    # The factor c = (D+1) √(2/3) gives the filter unit variance. Count variances per direction of
    # the hyperplane, in units of (D+1)². Blurring axis a moves mass by ±v_a with probability ¼
    # each, and over all axes ½ Σ_a v_a v_aᵀ is ½. Splat and slice each replace a point by a random
    # corner of its simplex, which adds 1/12 on average. The sum ½ + 1/12 + 1/12 = 2/3 is c².
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
    keys = keys[:, :, :d].flatten(0, 1)  # coordinates sum to zero, so the last one is redundant
    _, inverse = torch.unique(_row_codes(keys), return_inverse=True)
    m = int(inverse.max()) + 1 if n else 0
    vertices = keys.new_empty(m, d).index_copy_(0, inverse, keys)
    neighbor = torch.stack([_neighbors(vertices, axis) for axis in range(d + 1)])
    # The same pairs (point, corner) sorted by vertex, in CSR form: a vertex can gather its points.
    order = inverse.argsort(stable=True)
    offset = torch.zeros(m + 1, dtype=torch.int32, device=features.device)
    offset[1:] = inverse.bincount(minlength=m).cumsum(0)
    vertex = (inverse + 1).view(n, d + 1)
    return vertex.int(), weight, neighbor.int(), order.int(), offset


def _neighbors(vertices: Tensor, axis: int) -> Tensor:
    """Row numbers (M 2) of the vertices one step back and forth along `axis`; 0 if absent."""
    # A step along axis a is v_a = (1, ..., 1) - (D+1) e_a: the remainder modulo D+1 grows by one in
    # all coordinates, so it leads to a vertex again. Only D coordinates are kept, and axis D, whose
    # -D falls on the one left out, is a step of ones.
    m, d = vertices.shape
    step = torch.ones(d, dtype=vertices.dtype, device=vertices.device)
    if axis < d:
        step[axis] = -d
    codes = _row_codes(torch.cat([vertices, vertices - step, vertices + step])).view(3, m)
    ordered, row = codes[0].sort()
    place = torch.searchsorted(ordered, codes[1:]).clamp(max=m - 1)
    exists = ordered[place] == codes[1:]
    return torch.where(exists, row[place] + 1, 0).T


def _row_codes(rows: Tensor) -> Tensor:
    """One int64 per row; codes are equal exactly if the rows are."""
    # Columns are the digits of a number in mixed radix, each digit as wide as its column's range.
    code = torch.zeros_like(rows[:, 0])
    span = 1
    for column in rows.T:
        low, high = int(column.min()), int(column.max())
        if span * (high - low + 1) >= 2**62:  # would overflow, so number the codes so far
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
    """Splat values (N C) and blur the table; row 0, for absent vertices, stays zero."""
    d = vertex.shape[1] - 1
    table = values.new_zeros(neighbor.shape[1] + 1, values.shape[1])
    for row, corner_weight in zip(vertex.long().T, weight.T, strict=True):  # splat
        table = table.index_add(0, row, corner_weight[:, None] * values)
    # Blur with (½, 1, ½) along each axis. Its sum is 2: in a narrow storage type the factor ½ keeps
    # values in range, and the powers of two are undone at the end without rounding. The matrix of
    # one blur is symmetric, but on a lattice with absent vertices blurs do not commute. So the
    # adjoint of B_D ... B_0 is B_0 ... B_D: the axes in reverse.
    center = 1.0 if storage is None else 0.5
    table = _stored(table, storage)
    for axis in reversed(range(d + 1)) if reverse else range(d + 1):
        back, forth = neighbor[axis].long().unbind(1)
        blurred = table[1:] + 0.5 * (table[back] + table[forth])
        table = _stored(torch.cat([table[:1], center * blurred]), storage)
    return table / center ** (d + 1)


def _stored(table: Tensor, storage: torch.dtype | None) -> Tensor:
    """The table as it would come back from memory of type `storage`."""
    return table if storage is None else table.to(storage).to(table.dtype)


def _gain(vertex: Tensor) -> float:
    """The factor 1 / (1 + 2^-D), for which a unit on a vertex comes back as 1."""
    # The D+1 axes sum to zero. So after all blurs there are three ways back to a vertex inside a
    # complete lattice: no step, with weight 1, or every axis forth or every axis back, with weight
    # 2^-(D+1) each. They sum to 1 + 2^-D. The exact Gaussian has the value 1 at distance zero.
    return 1 / (1 + 2.0 ** (1 - vertex.shape[1]))
