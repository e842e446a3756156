"""Frank-Wolfe steps in plain PyTorch: the oracle of the fused ones, with a guard and a trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from crfrnn import _checks, ops
from crfrnn.core.inference import Options

from .energy import combine

REGULARIZERS = ("entropy", "l2")


@dataclass(frozen=True)
class Step:
    """The update of one iteration: regularized Frank-Wolfe (Lê-Huu & Alahari, arXiv 2110.14759).

    With z = logits - penalty(q), the step takes `s = argmax ⟨z, s⟩ - strength · r(s)` over
    distributions s, and moves there: `q ← q + size · (s - q)`. The regularizer r is the negative
    entropy, for which s = softmax(z / strength), or half the squared norm, for which s is sparse.
    The default, "entropy" with strength and size 1, is the paper's mean field. All steps run as a
    fused operator and cost about the same.

    Args:
        regularizer: "entropy" or "l2".
        strength: λ > 0; smaller is greedier.
        size: α in (0, 1]; smaller steps damp oscillation.
        learn: learn both, or with "strength" λ alone. λ stays positive and α below 1; a learned α
            starts at 0.95 or less.
        mix: share of the starting distribution in the result, in [0, 1). The result of "l2" has
            exact zeros; a mix keeps their gradient alive in training. The authors used 0.5.

    Example:
        >>> from crfrnn import Step
        >>> Step("l2", size=0.5)
        Step(regularizer='l2', strength=1.0, size=0.5, learn=False, mix=0.0)
    """

    regularizer: str = "entropy"
    strength: float = 1.0
    size: float = 1.0
    learn: bool | Literal["strength"] = False
    mix: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.one_of("regularizer", self.regularizer, REGULARIZERS)
        _checks.positive("Step strength", self.strength, "a weight")
        if not 0 < self.size <= 1:
            raise ValueError(f"Step size must be in (0, 1]; got {self.size!r}")
        if self.learn not in (False, True, "strength"):
            raise ValueError(f'Step learn must be True, False or "strength"; got {self.learn!r}')
        if not 0 <= self.mix < 1:
            raise ValueError(f"Step mix must be in [0, 1); got {self.mix!r}")


def checked_step(step: Step | None) -> Step:
    """The step, mean field by default; raises TypeError for anything else, such as a name."""
    if step is None:
        return Step()
    if not isinstance(step, Step):
        remedy = f'Step("{step}")' if step in REGULARIZERS else 'Step("l2") or Step(size=0.5)'
        raise TypeError(f"step must be a Step, such as {remedy}; got {step!r}")
    return step


class Rates(NamedTuple):
    """λ and α of a step: numbers, or tensors if they are learned."""

    strength: Tensor | float
    size: Tensor | float


@dataclass(frozen=True)
class Inference:
    """What `CRFRNN.infer` returns.

    Attributes:
        logits: (B, C, *S) logits of the marginals, of the same type as the input.
        steps: (B,) mean-field steps computed for each image.
        energy: (T + 1, B) free energy before each step and at the end, if traced; see
            `free_energy`. An image that has stopped keeps its last value.

    Example:
        >>> import torch
        >>> from crfrnn import CRFRNN
        >>> logits, image = torch.zeros(1, 2, 4, 5), torch.zeros(1, 3, 4, 5)
        >>> inference = CRFRNN(2).infer(logits, image, iterations=9, tol=1e-3)
        >>> inference.steps, inference.energy is None  # uniform marginals do not change
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
    inside: Tensor | None = None,
) -> Inference:
    """Run Frank-Wolfe steps from `logits` (B C *S) in plain, differentiable PyTorch.

    Args:
        logits: the unary term, -energy.
        penalty_of: maps marginals q to A Σ_k W_k F_k q, the cost of each label beside them.
        options: iterations and tolerance.
        step: regularizer, λ, α and mix.
        rates: learned λ and α that replace those of `step`.
        guard: halve the step size of an image whose change has grown twice in a row.
        trace: also compute the free energy before each step and at the end.
        inside: (B *S) bool; pixels outside keep their logits. They get no penalty. Default all.
    """
    strength, size = Rates(step.strength, step.size) if rates is None else rates
    tolerance = options.tolerance
    count = len(logits)
    column = (count,) + (1,) * (logits.dim() - 1)
    # Marginals are kept as logarithms: a confident network's small ones underflow as numbers.
    start = log_q = logits.log_softmax(1)
    scores = logits
    running = torch.ones(count, dtype=torch.bool, device=logits.device)
    steps = torch.zeros(count, dtype=torch.int64, device=logits.device)
    halvings, growths = torch.zeros_like(steps), torch.zeros_like(steps)
    last = logits.new_full((count,), math.inf)
    energies = []
    for index in range(options.iterations):
        q = log_q.exp()
        penalty = penalty_of(q)
        energies += [combine(-logits, q, penalty)] if trace else []
        # At q the energy without entropy has the gradient -z. The minimizer over s of
        # -⟨z, s⟩ + λ r(s) is the maximizer of ⟨z / λ, s⟩ - r(s).
        z = logits - penalty
        target = _log_minimizer(z / strength, step.regularizer)
        # A whole step replaces q. Without the blend, the default is mean field to the bit.
        if guard or isinstance(size, Tensor) or size != 1:
            target = _blend(log_q, target, size * (0.5 ** halvings.to(log_q.dtype)).view(column))
        moves = running.view(column) if inside is None else running.view(column) & inside[:, None]
        scores = torch.where(moves, z, scores)
        log_q = torch.where(moves, target, log_q)
        steps = steps + running
        if (guard or tolerance > 0) and index + 1 < options.iterations:
            # The guard: at a fixed point of a contraction the change shrinks in every step. If
            # a repulsive model overshoots, it swings back and the change grows. One growth may be a
            # transient; after two in a row the step of that image is halved for good. A smaller
            # step follows the continuous flow dq/dt = s - q more closely and overshoots less.
            change = (log_q.exp() - q).detach().abs().flatten(1).mean(1)
            growths = torch.where(change > last, growths + 1, 0)
            halvings = halvings + (growths >= 2)
            growths = growths * (growths < 2)
            last = change
            running = running & (change >= tolerance)
            # A trace has a value for every step, so it goes on with all images at rest.
            if tolerance > 0 and not trace and not _any(running):
                break
    if trace:
        energies.append(combine(-logits, log_q.exp(), penalty_of(log_q.exp())))
    energy = torch.stack(energies) if energies else None
    if not options.iterations:
        return Inference(logits, steps, energy)
    if step.mix > 0:
        log_q = _blend(start, log_q, 1 - step.mix)
    # Softmax ignores a constant per pixel. With the default step log_q = z - logsumexp(z), and this
    # constant gives z, the paper's result. With others, that of the input makes a step without
    # messages return the input.
    constant = scores if step == Step() else logits
    result = log_q + constant.logsumexp(1, keepdim=True)
    if inside is not None:
        result = torch.where(inside[:, None], result, logits)
    return Inference(result, steps, energy)


def _any(running: Tensor) -> bool:
    try:
        return bool(running.any())
    except RuntimeError:
        if not ops.transforms.under_transform():
            raise
        raise NotImplementedError(
            "CRFRNN: tol stops an image by its values, which torch.vmap hides. Leave out tol under "
            "vmap (layer.tol = None), or put the mapped axis into the batch."
        ) from None


def _log_minimizer(scores: Tensor, regularizer: str) -> Tensor:
    if regularizer == "entropy":
        return scores.log_softmax(1)
    # Zeros become the smallest normal number, whose logarithm is finite.
    return ops.project(scores, 1).clamp_min(torch.finfo(scores.dtype).tiny).log()


def _blend(log_q: Tensor, log_s: Tensor, size: Tensor | float) -> Tensor:
    """log((1 - size) q + size s); with size 1, a rounding error's worth of q remains."""
    # In log space: log(e^(log q + log(1 - α)) + e^(log s + log α)). At α = 1,
    # log(1 - α) is -inf and has an infinite derivative, which times zero is NaN. So α <= 1 - eps.
    size = torch.as_tensor(size, dtype=log_q.dtype, device=log_q.device)
    size = size * (1 - torch.finfo(log_q.dtype).eps)
    return torch.logaddexp(log_q + torch.log1p(-size), log_s + size.log())
