"""Steps of regularized Frank-Wolfe on rows of classes, and their adjoint, in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .model import Update

# Derivation of the adjoint; rows hold the classes. With a = z_t / λ, a step is
#   s_t = the softmax of a, or its projection onto the simplex;   Q_t = (1 - α) Q_{t-1} + α s_t,
# and the result is y = log r + logsumexp(u) with r = (1 - m) Q_T + m Q_0.
#
# Both maps have a Jacobian of the form J h = v ⊙ (h - Σ v h / Σ v): v = s for the softmax, which
# sums to one; for the projection, v = 1 on the support and 0 elsewhere. With h_t = dL/dQ_t,
#   dL/dz_t = (α / λ) J h_t,   h_{t-1} = (1 - α) h_t + what the messages of step t carry back,
#   dL/dα += Σ h_t (s_t - Q_{t-1}),   dL/dλ -= Σ dL/dz_t a.
# dL/dz_t sums to zero and is zero outside the support. There a is log s, or s, up to a constant.


def project(scores: Tensor, dim: int) -> Tensor:
    """The point of the simplex that is nearest to `scores` along `dim`; differentiable."""
    # Sparsemax (Martins & Astudillo, ICML 2016): argmax ⟨z, s⟩ - ½ |s|² is the point of the simplex
    # nearest to z. By the KKT conditions s_c = max(z_c - τ, 0) with τ such that s sums to one. Let
    # a_1 >= a_2 >= ... be z sorted. If the ρ largest are the support, their sum gives
    # τ = (Σ_{j<=ρ} a_j - 1) / ρ. Entry ρ is positive where a_ρ > τ, that is where
    # ρ a_ρ > Σ_{j<=ρ} a_j - 1. This holds for a prefix of ranks, so counting them gives ρ.
    scores = scores - scores.detach().amax(dim, keepdim=True)  # a constant moves τ alone
    ordered = scores.sort(dim=dim, descending=True).values
    rank = torch.arange(1, scores.shape[dim] + 1, dtype=scores.dtype, device=scores.device)
    rank = rank.view(-1, *[1] * (scores.dim() - 1 - dim % scores.dim()))
    excess = ordered.cumsum(dim) - 1
    support = (rank * ordered > excess).sum(dim, keepdim=True)
    threshold = excess.gather(dim, support - 1) / support
    return (scores - threshold).clamp_min(0)


def advance(z: Tensor, q: Tensor, update: Update | None) -> Tensor:
    """The marginals after a step, from its logits z and the marginals q before it (... C)."""
    if update is None:
        return z.softmax(-1)
    strength, size = update.rates
    scores = z / strength
    target = project(scores, -1) if update.regularizer == "l2" else scores.softmax(-1)
    return (1 - size) * q + size * target if update.blends else target


def result(unary: Tensor, z: Tensor, q: Tensor, update: Update) -> Tensor:
    """The logits y (... C) from the last z and the marginals q after the last step."""
    strength, size = update.rates
    tiny = torch.finfo(q.dtype).tiny
    start = unary.log_softmax(-1)
    r = (1 - update.mix) * q + update.mix * start.exp()
    # A marginal that underflows still gets a finite logarithm, from the start or from the softmax.
    # Exact zeros of a projection get that of the smallest normal number.
    if update.mix > 0:
        least = start + math.log(update.mix)
    elif update.regularizer == "entropy":
        least = (z / strength).log_softmax(-1) + size.log()
    else:
        least = torch.full_like(r, math.log(tiny))
    logarithm = torch.where(r >= tiny, r.clamp_min(tiny).log(), least)
    # Softmax ignores a constant per pixel. With this one, a step without messages returns u.
    return logarithm + unary.logsumexp(-1, keepdim=True)


def target(before: Tensor, after: Tensor, update: Update) -> Tensor:
    """The target s of a step from the marginals before and after it."""
    if not update.blends:
        return after
    # Where the marginal only shrank, the target was zero: what is left is rounding.
    size = update.rates[1]
    moved = after - (1 - size) * before
    return torch.where(moved > 8 * torch.finfo(after.dtype).eps * after, moved / size, 0)


def pull(h: Tensor, s: Tensor, regularizer: str) -> Tensor:
    """J h at a target s."""
    if regularizer == "entropy":
        return s * (h - (s * h).sum(-1, keepdim=True))
    inside = (s > 0).to(h.dtype)
    mean = (inside * h).sum(-1, keepdim=True) / inside.sum(-1, keepdim=True).clamp_min(1)
    return inside * (h - mean)


def to_rates(h: Tensor, g: Tensor, s: Tensor, before: Tensor, update: Update) -> Tensor:
    """What a step gives to dL/d(λ, α), from h = dL/dQ after it, and g = dL/dz."""
    scores = torch.where(s > 0, s.log(), 0) if update.regularizer == "entropy" else s
    sums = [-(g * scores).sum(dtype=torch.float64), (h * (s - before)).sum(dtype=torch.float64)]
    return torch.stack(sums)


def start_backward(
    gradient: Tensor, first: Tensor, before: Tensor, after: Tensor, update: Update
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The adjoint of `result` and of the last target.

    Args:
        gradient: dL/dy (... C).
        first: Q_0, and so on.
        before: Q_{T-1}.
        after: Q_T.
        update: the step.

    Returns:
        dL/dz_T; dL/du but for what comes through z; (1 - α) dL/dQ_T; dL/d(λ, α).
    """
    strength, size = update.rates
    tiny = torch.finfo(after.dtype).tiny
    s = target(before, after, update)
    r = (1 - update.mix) * after + update.mix * first
    is_tiny = r < tiny
    # dL/dr = gradient / r overflows where r is tiny. The shares that start and target have in r are
    # finite, so they stand in for Q_0 / r and s / r.
    safe = torch.where(is_tiny, 1, r)
    h = torch.where(is_tiny, 0, (1 - update.mix) * gradient / safe)
    held = torch.where(is_tiny, float(update.mix > 0), update.mix * first / safe) * gradient
    if update.regularizer == "l2":
        g = size / strength * pull(h, s, "l2")
    else:
        aimed = torch.where(is_tiny, float(update.mix == 0), (1 - update.mix) * size * s / safe)
        aimed = aimed * gradient
        g = (aimed - s * aimed.sum(-1, keepdim=True)) / strength
    total = gradient.sum(-1, keepdim=True) - held.sum(-1, keepdim=True)
    return g, held + first * total, (1 - size) * h, to_rates(h, g, s, before, update)
