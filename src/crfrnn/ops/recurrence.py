"""The whole recurrence as one registered operator that stores only the marginals."""

# Schemas are written out: torch 2.6 cannot read them from `list[Tensor]`. A size is of `SymInt`, or
# torch.export would fix it.
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crfrnn.core.inference import Options

from .engines import implementation, tensor_engine
from .model import Model
from .normalization import response
from .transforms import (
    direct,
    no_forward_mode,
    no_second_derivative,
    one_by_one,
    under_transform,
)

_NO_SECOND_DERIVATIVE = (
    "the fused recurrence has no second derivative. The plain one has: crfrnn.mean_field(-logits, "
    "layer.prepare(image).filters, layer.kernel_weights, layer.penalty(), iterations)"
)


def mean_field(logits: Tensor, model: Model, options: Options) -> tuple[Tensor, Tensor]:
    """Run the recurrence from `logits` (B C N); return logits (B C N) and numbers of steps (B).

    Gradients reach `logits`, the model's weights and the rates of its step; see
    `reference.mean_field`.
    """
    differentiable = [logits, model.weights]
    if model.update is not None:
        differentiable.append(model.update.rates)
    no_forward_mode(*differentiable)
    _fill_totals(logits, model)
    # Inside a transform, a wrapped tensor does not show whether an outer level needs a gradient.
    needs_gradient = under_transform() or any(given.requires_grad for given in differentiable)
    # Not `_replace`, which torch.compile of some versions cannot trace.
    iterations, tolerance, half, _ = options
    save = torch.is_grad_enabled() and needs_gradient
    options = Options(iterations, tolerance, half, save)
    if direct(*differentiable):
        z, _, steps = implementation(model.engine).mean_field(logits, model, options)
        return z, steps
    arrays, size, kinds = model.flatten()
    if under_transform():
        # torch.func cannot differentiate through a registered operator: the autograd.Function that
        # torch generates for it has no separate `setup_context`. Hence `_MeanField`.
        z, _, steps = _MeanField.apply(  # type: ignore[no-untyped-call]
            logits, size, kinds, options.flatten(), *arrays
        )
        return z, steps
    z, _, steps = _mean_field(logits, arrays, size, kinds, options.flatten())
    return z, steps


def marginals(
    logits: Tensor, model: Model, options: Options
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Run the recurrence for marginals and labels, without gradients; see `reference.marginals`."""
    batch, _, n = logits.shape
    if not model.kept:  # else the last class has weight zero, and its message does not matter
        _fill_totals(logits, model)
    model = model.in_half_range((batch, n)) if options.half else model
    return tensor_engine(model.engine).marginals(logits, model, options)


def class_peaks(logits: Tensor, engine: str) -> list[float]:
    """The largest ratio of each class's marginal to the likeliest one's, over batch and pixels."""
    return tensor_engine(engine).class_peaks(logits)


def message_peaks(logits: Tensor, groups: Sequence[Sequence[int]], model: Model) -> list[float]:
    """Upper bounds of the first message to groups of classes; see `reference.message_peaks`."""
    return tensor_engine(model.engine).message_peaks(logits, groups, model)


def needs_total(classes: int, engine: str) -> bool:
    """Whether terms need their responses to ones in a recurrence of this many classes."""
    return implementation(engine).needs_total(classes)


def _fill_totals(logits: Tensor, model: Model) -> None:
    """Compute the responses to ones that the engine needs for `logits` (B C N) but terms lack."""
    batch, classes, n = logits.shape
    if needs_total(classes, model.engine):
        for term in model.terms:
            if term.total is None:
                term.total = response(term, (batch, n), model.size, model.engine)


# The arrays of the terms are arguments without a gradient: if a feature or bandwidth needs one, the
# recurrence runs in plain PyTorch instead (`crf.inference`).
@torch.library.custom_op(
    "crfrnn::mean_field",
    mutates_args=(),
    schema="(Tensor logits, Tensor[] arrays, SymInt[] size, str kinds, float[] numbers)"
    " -> (Tensor, Tensor, Tensor)",
)
def _mean_field(
    logits: Tensor, arrays: list[Tensor], size: list[int], kinds: str, numbers: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    model, options = Model.unflatten(arrays, size, kinds), Options.unflatten(numbers)
    return implementation(model.engine).mean_field(logits, model, options)


@_mean_field.register_fake
def _(
    logits: Tensor, arrays: list[Tensor], size: list[int], kinds: str, numbers: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    batch, classes, n = logits.shape
    model, options = Model.unflatten(arrays, size, kinds), Options.unflatten(numbers)
    needs_all = model.update is not None and model.update.needs_all
    width = implementation(model.engine).saved_width(classes, needs_all)
    saved = logits.new_empty(batch, model.saved_steps(options), n, width)
    steps = torch.empty(batch, dtype=torch.int64, device=logits.device)
    return torch.empty_like(logits, memory_format=torch.contiguous_format), saved, steps


@torch.library.custom_op(
    "crfrnn::mean_field_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor logits, Tensor saved, Tensor[] arrays, SymInt[] size,"
    " str kinds) -> (Tensor, Tensor, Tensor)",
)
def _mean_field_backward(
    gradient: Tensor,
    logits: Tensor,  # unused, but makes the result depend on them: `_NO_SECOND_DERIVATIVE` raises
    saved: Tensor,
    arrays: list[Tensor],
    size: list[int],
    kinds: str,
) -> tuple[Tensor, Tensor, Tensor]:
    model = Model.unflatten(arrays, size, kinds)
    return implementation(model.engine).mean_field_backward(gradient, saved, model)


@_mean_field_backward.register_fake
def _(
    gradient: Tensor, logits: Tensor, saved: Tensor, arrays: list[Tensor], *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    to_logits = torch.empty_like(gradient, memory_format=torch.contiguous_format)
    return to_logits, torch.empty_like(arrays[0]), torch.empty_like(arrays[1])


_mean_field_backward.register_vmap(one_by_one(_mean_field_backward))
no_second_derivative(_mean_field_backward, _NO_SECOND_DERIVATIVE)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    logits, arrays, ctx.size, ctx.kinds, numbers = inputs
    options = Options.unflatten(numbers)
    # The backward goes through T saved steps; an image that stopped early has fewer.
    ctx.complete = (options.save and options.tolerance == 0) or options.iterations == 0
    ctx.save_for_backward(logits, output[1], *arrays)
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)  # else torch allocates zeros for `saved`, T·N·C values


def _backward(ctx: Any, gradient: Tensor | None, _saved: None, _steps: None) -> tuple[Any, ...]:
    _check_complete(ctx)
    logits, saved, *arrays = ctx.saved_tensors
    to_arrays: list[Tensor | None] = [None] * len(arrays)
    if gradient is None:
        return None, to_arrays, None, None, None
    to_logits, to_arrays[0], to_arrays[1] = _mean_field_backward(
        gradient, logits, saved, arrays, ctx.size, ctx.kinds
    )
    return to_logits, to_arrays, None, None, None


_mean_field.register_autograd(_backward, setup_context=_save)
_mean_field.register_vmap(one_by_one(_mean_field))


class _MeanField(torch.autograd.Function):
    """`_mean_field` with its gradient, in the form that torch.func's transforms accept.

    The arrays are separate arguments because an autograd.Function does not look into lists.
    """

    # The gradient exists twice. `register_autograd` serves eager mode, torch.compile and export,
    # which see one opaque operator. torch.func needs a Function with `setup_context` and a rule for
    # vmap. Both call the same two operators.
    @staticmethod
    def vmap(*args: Any) -> Any:
        return one_by_one(_MeanField.apply)(*args)

    @staticmethod
    def forward(
        logits: Tensor, size: list[int], kinds: str, numbers: list[float], *arrays: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            result: tuple[Tensor, Tensor, Tensor] = _mean_field(
                logits, list(arrays), size, kinds, numbers
            )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        logits, size, kinds, numbers, *arrays = inputs
        _save(ctx, (logits, arrays, size, kinds, numbers), output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        _check_complete(ctx)
        logits, saved, *arrays = ctx.saved_tensors
        if gradients[0] is None:
            return (None,) * (4 + len(arrays))
        to_logits, to_weights, to_rates = _MeanFieldBackward.apply(  # type: ignore[no-untyped-call]
            gradients[0], logits, saved, ctx.size, ctx.kinds, *arrays
        )
        rest = [None] * (len(arrays) - 2)
        return to_logits, None, None, None, to_weights, to_rates, *rest


class _MeanFieldBackward(torch.autograd.Function):
    # A Function too, so that vmap of a gradient works and the gradient of a gradient raises.
    @staticmethod
    def vmap(*args: Any) -> Any:
        return one_by_one(_MeanFieldBackward.apply)(*args)

    @staticmethod
    def forward(
        gradient: Tensor,
        logits: Tensor,
        saved: Tensor,
        size: list[int],
        kinds: str,
        *arrays: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            result: tuple[Tensor, Tensor, Tensor] = _mean_field_backward(
                gradient, logits, saved, list(arrays), size, kinds
            )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError(_NO_SECOND_DERIVATIVE)


def _check_complete(ctx: Any) -> None:
    if not ctx.complete:
        raise RuntimeError(
            "this recurrence saved no steps to go back through, because it had a tolerance or ran "
            "without gradients. Set the tolerance to 0 and enable gradients."
        )
