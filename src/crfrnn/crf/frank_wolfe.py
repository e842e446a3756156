"""The recurrence with a step of its own: regularized Frank-Wolfe, early stop, guard and trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from crfrnn import _checks
from crfrnn.ops import Options

from .energy import combine

REGULARIZERS = ("entropy", "l2")


@dataclass(frozen=True)
class Step:
    """The update of one iteration: regularized Frank-Wolfe (Lê-Huu & Alahari, arXiv 2110.14759).

    With z = logits - penalty(q), the scores that the other pixels leave:
    `s = argmax ⟨z, s⟩ - strength · r(s)` over distributions, then `q ← q + size · (s - q)`.
    r is the negative entropy, which makes s = softmax(z / strength), or half the squared norm,
    which makes s sparse. The default, entropy with strength and size 1, is the paper's mean field
    and the only one that runs as a fused operator; the others run in plain PyTorch.

    Args:
        regularizer: "entropy" or "l2".
        strength: λ > 0; smaller is greedier.
        size: α in (0, 1]; smaller steps damp oscillation.
        learn: learn both. λ stays positive and α below 1; α starts from 0.95 at most.
        mix: share of the starting distribution in the result, in [0, 1). With "l2", whose result
            has exact zeros, it keeps a gradient alive while training; the authors used 0.5.

    Example:
        >>> from crfrnn import Step
        >>> Step("l2", size=0.5)
        Step(regularizer='l2', strength=1.0, size=0.5, learn=False, mix=0.0)
    """

    regularizer: str = "entropy"
    strength: float = 1.0
    size: float = 1.0
    learn: bool = False
    mix: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.one_of("regularizer", self.regularizer, REGULARIZERS)
        _checks.positive("Step strength", self.strength, "a weight")
        if not 0 < self.size <= 1:
            raise ValueError(f"Step size must be in (0, 1]; got {self.size!r}")
        if not 0 <= self.mix < 1:
            raise ValueError(f"Step mix must be in [0, 1); got {self.mix!r}")


class Rates(NamedTuple):
    """The numbers of a step, as they are or as they are being learned: λ and α."""

    strength: Tensor | float
    size: Tensor | float


@dataclass(frozen=True)
class Inference:
    """What `CRFRNN.infer` returns.

    Attributes:
        logits: (B, C, *S) logits of the marginals, of the type of the given ones.
        steps: (B,) mean-field steps that each image made.
        energy: (T + 1, B) free energy before each step and at the end, if traced; see
            `free_energy`. An image that has stopped keeps its last value.

    Example:
        >>> import torch
        >>> from crfrnn import CRFRNN
        >>> logits, image = torch.zeros(1, 2, 4, 5), torch.zeros(1, 3, 4, 5)
        >>> done = CRFRNN(2).infer(logits, image, iterations=9, tol=1e-3)
        >>> done.steps, done.energy is None  # undecided everywhere, and so at rest at once
        (tensor([1]), True)
    """

    logits: Tensor
    steps: Tensor
    energy: Tensor | None = None


def frank_wolfe(
    logits: Tensor,
    penalty_of: Callable[[Tensor], Tensor],
    options: Options,
    step: Step,
    *,
    rates: Rates | None = None,
    guard: bool = False,
    trace: bool = False,
) -> Inference:
    """Run steps from `logits` (B C *S), in plain differentiable PyTorch.

    Args:
        logits: the unary term, -energy.
        penalty_of: marginals -> what each label costs beside them, A Σ_k W_k F_k q.
        options: iterations, and the tolerance.
        step: regularizer, λ, α and mix.
        rates: learned λ and α in place of the step's.
        guard: halve the step of an image whose change has grown twice in a row.
        trace: also compute the free energy before each step and at the end.
    """
    strength, size = Rates(step.strength, step.size) if rates is None else rates
    tolerance = options.tolerance
    count = len(logits)
    column = (count,) + (1,) * (logits.dim() - 1)
    start = log_q = logits.log_softmax(1)
    scores = logits
    running = torch.ones(count, dtype=torch.bool, device=logits.device)
    steps = torch.zeros(count, dtype=torch.int64, device=logits.device)
    halvings, growths = torch.zeros_like(steps), torch.zeros_like(steps)
    last = logits.new_full((count,), math.inf)
    energies = []
    for done in range(options.iterations):
        q = log_q.exp()
        penalty = penalty_of(q)
        energies += [combine(-logits, q, penalty)] if trace else []
        z = logits - penalty
        target = _log_minimizer(z / strength, step.regularizer)
        if guard or isinstance(size, Tensor) or size != 1:
            target = _blend(log_q, target, (size * 0.5**halvings).view(column))
        scores = torch.where(running.view(column), z, scores)
        log_q = torch.where(running.view(column), target, log_q)
        steps = steps + running
        if (guard or tolerance > 0) and done + 1 < options.iterations:
            change = (log_q.exp() - q).detach().abs().flatten(1).mean(1)
            growths = torch.where(change > last, growths + 1, 0)
            halvings = halvings + (growths >= 2)
            growths = growths * (growths < 2)
            last = change
            running = running & (change >= tolerance)
            if tolerance > 0 and not trace and not bool(running.any()):
                break
    if trace:
        energies.append(combine(-logits, log_q.exp(), penalty_of(log_q.exp())))
    energy = torch.stack(energies) if energies else None
    if not options.iterations:
        return Inference(logits, steps, energy)
    if step.mix > 0:
        log_q = _blend(start, log_q, 1 - step.mix)
    # The sum over classes is free; this one makes the default step return the paper's logits.
    return Inference(log_q + scores.logsumexp(1, keepdim=True), steps, energy)


def _log_minimizer(scores: Tensor, regularizer: str) -> Tensor:
    if regularizer == "entropy":
        return scores.log_softmax(1)
    # Euclidean projection onto the simplex: sparsemax of Martins & Astudillo (ICML 2016).
    ordered = scores.sort(dim=1, descending=True).values
    rank = torch.arange(1, scores.shape[1] + 1, dtype=scores.dtype, device=scores.device)
    rank = rank.view(-1, *[1] * (scores.dim() - 2))
    excess = ordered.cumsum(1) - 1
    support = (rank * ordered > excess).sum(1, keepdim=True)
    threshold = excess.gather(1, support - 1) / support
    return (scores - threshold).clamp_min(torch.finfo(scores.dtype).tiny).log()


def _blend(log_q: Tensor, log_s: Tensor, size: Tensor | float) -> Tensor:
    """log((1 - size) q + size s); a size of one keeps a rounding's worth of q, and its gradient."""
    size = torch.as_tensor(size, dtype=log_q.dtype, device=log_q.device)
    size = size * (1 - torch.finfo(log_q.dtype).eps)
    return torch.logaddexp(log_q + torch.log1p(-size), log_s + size.log())
