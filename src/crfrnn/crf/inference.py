"""Runs an inference, either by the fused operator of an engine or in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from crfrnn import ops
from crfrnn.core.inference import Options
from crfrnn.core.names import EngineName

from .energy import may_oscillate, penalty
from .filters import KernelFilter
from .frank_wolfe import Inference, Rates, Step, frank_wolfe
from .mean_field import mean_field


class Pairwise(NamedTuple):
    """The pairwise part of a CRF: kernels, their weights, and the compatibility.

    Attributes:
        filters: the normalized filter of each kernel, from `build_filters`.
        weights: kernel weights, (K,), (K, C) or (K, C, C).
        compatibility: (C, C) penalty for one label beside another. None is Potts and runs faster
            than the equal matrix.
        engine: "reference", "cpu" or "triton"; by default the fastest one for the logits.
    """

    filters: Sequence[KernelFilter]
    weights: Tensor
    compatibility: Tensor | None = None
    engine: EngineName | None = None

    def matrix(self, logits: Tensor) -> Tensor:
        """The compatibility as a (C, C) matrix, even if it is Potts."""
        return potts(logits) if self.compatibility is None else self.compatibility

    def model(self, logits: Tensor, update: ops.Update | None = None) -> ops.Model:
        """The model that the fused operators take for `logits` (B C *S)."""
        engine = ops.resolve_engine(self.engine, logits.device, logits.dtype)
        terms = [kernel.term for kernel in self.filters]
        weights = self._penalty_weights(logits)
        return ops.Model(weights, logits.shape[2:], terms, engine, update=update)

    def wants_gradient(self, logits: Tensor) -> bool:
        """Whether the logits, or any part of the pairwise term, require a gradient."""
        parameters = (logits, self.weights, self.compatibility)
        return torch.is_grad_enabled() and (
            any(tensor is not None and tensor.requires_grad for tensor in parameters)
            or any(kernel.differentiable for kernel in self.filters)
        )

    def _penalty_weights(self, logits: Tensor) -> Tensor:
        """(K, C) for Potts with one weight per class, else A W_k (K, C, C)."""
        weights = self.weights
        weights = weights[:, None].expand(-1, logits.shape[1]) if weights.dim() == 1 else weights
        if self.compatibility is None and weights.dim() == 2:
            return weights
        matrix = self.matrix(logits)
        # A W_k with a diagonal W_k scales the columns of A. A product of small matrices would wake
        # the threads of a BLAS library, which then spin for milliseconds beside the core's.
        return matrix * weights[:, None] if weights.dim() == 2 else matrix @ weights


def infer(
    logits: Tensor,
    pairwise: Pairwise,
    options: Options,
    *,
    step: Step | None = None,
    rates: Rates | None = None,
    trace: bool = False,
    held: Tensor | None = None,
    inside: Tensor | None = None,
) -> Inference:
    """Run an inference from `logits` (B C *S).

    The fused operator runs mean field and Frank-Wolfe. Plain PyTorch runs everything else: a trace,
    gradients to the inputs of the filters, early stopping with gradients, and the guard that an
    oscillating model needs.

    Args:
        logits: the unary term, -energy.
        pairwise: kernels, weights and compatibility. Gradients reach them and the logits.
        options: iterations, tolerance, storage and saving.
        step: the update of one iteration; default mean field.
        rates: learned λ and α that replace those of `step`.
        trace: also compute the free energy before each step and at the end.
        held: (B *S) bool, the clamped pixels: they send, and keep their logits.
        inside: (B *S) bool, the mask that the filters were built with; pixels outside keep their
            logits.

    Returns:
        Logits (B C *S), and the steps computed for each image (B).
    """
    is_other = step is not None and step != Step()
    if held is not None:
        if trace or is_other:
            raise ValueError(
                "CRFRNN: clamp goes with plain mean field; leave out trace and step, or clamp"
            )
        model = pairwise.model(logits)
        z, _, steps = ops.clamped.mean_field(logits.flatten(2), model, options, held.flatten(1))
        return Inference(z.view(logits.shape), steps)
    # The backward of the fused operator goes through all T steps, so it cannot follow an image that
    # stopped early. Without a tolerance, inference is T steps as the paper defines them, and no
    # guard changes those. Under torch.compile the parameters have no values to test.
    oscillates = stops_with_gradient = False
    if options.tolerance > 0 and not torch.compiler.is_compiling():
        oscillates = may_oscillate(pairwise.weights, pairwise.matrix(logits))
        stops_with_gradient = pairwise.wants_gradient(logits)
    # The fused operator has gradients to logits, weights and rates only, not to features or
    # bandwidths.
    to_filters = torch.is_grad_enabled() and any(k.differentiable for k in pairwise.filters)
    if to_filters and not (trace or is_other or oscillates or stops_with_gradient):
        matrix = pairwise.matrix(logits)
        z = mean_field(-logits, pairwise.filters, pairwise.weights, matrix, options.iterations)
        steps = torch.full((len(logits),), options.iterations, device=logits.device)
        return Inference(z, steps)
    if trace or oscillates or stops_with_gradient or to_filters:
        matrix = pairwise.matrix(logits)
        return frank_wolfe(
            logits,
            lambda q: penalty(q, pairwise.filters, pairwise.weights, matrix),
            options,
            step or Step(),
            rates=rates,
            guard=oscillates,
            trace=trace,
            inside=inside,
        )
    update = _update(logits, step, rates) if step is not None and is_other else None
    model = pairwise.model(logits, update)
    flat, steps = ops.mean_field(logits.flatten(2), model, options)
    z = flat.view(logits.shape)
    if is_other and inside is not None:
        # Without messages, mean field returns the logits as they are; other steps do not.
        z = torch.where(inside[:, None], z, logits)
    return Inference(z, steps)


def _update(logits: Tensor, step: Step, rates: Rates | None) -> ops.Update:
    """The step as the fused operators take it."""
    if rates is None:
        pair = logits.new_tensor([step.strength, step.size])
    else:
        pair = torch.stack(
            [r.to(logits) if isinstance(r, Tensor) else logits.new_tensor(r) for r in rates]
        )
    blends = rates is not None or step.size != 1
    return ops.Update(step.regularizer, pair, step.mix, blends, rates is not None)


def potts(logits: Tensor) -> Tensor:
    """The compatibility 1 - I for the classes of `logits` (B C *S)."""
    return 1 - torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
