"""The whole recurrence as one registered operator, which stores only the marginals."""

# No postponed annotations: torch reads an operator's schema from them.
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arrays import Term
from .engines import implementation
from .transforms import direct, no_second_derivative, one_by_one, under_transform

#: A sum that float16 holds, with room to spare.
_HALF_RANGE = 32768

_NO_SECOND_DERIVATIVE = (
    "the fused recurrence has no second derivative. The plain one has: crfrnn.mean_field(-logits, "
    "layer.prepare(image).filters, layer.kernel_weights, layer.penalty(), iterations)"
)


def mean_field(
    logits: Tensor,
    weights: Tensor,
    size: Sequence[int],
    terms: Sequence[Term],
    iterations: int,
    tolerance: float,
    engine: str,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence from `logits` (B C N); return logits (B C N) and the steps made (B).

    Gradients reach `logits` and `weights` only; see `reference.mean_field` for the arguments.
    """
    # Under vmap a tensor does not tell whether a gradient will be asked for.
    wanted = logits.requires_grad or weights.requires_grad or under_transform()
    save = torch.is_grad_enabled() and wanted
    if not save and direct(logits, weights):
        z, _, steps = implementation(engine).mean_field(
            logits, weights, size, terms, iterations, tolerance, False
        )
        return z, steps
    kinds, arrays = _flatten(terms, logits)
    if not torch.compiler.is_compiling():
        options = (list(size), kinds, iterations, tolerance, save, engine)
        z, _, steps = _MeanField.apply(  # type: ignore[no-untyped-call]
            logits, weights, *options, *arrays
        )
        return z, steps
    z, _, steps = _mean_field(
        logits, weights, list(size), kinds, arrays, iterations, tolerance, save, engine
    )
    return z, steps


def marginals(
    logits: Tensor,
    weights: Tensor,
    size: Sequence[int],
    terms: Sequence[Term],
    iterations: int,
    tolerance: float,
    kept: Sequence[int],
    half: bool,
    engine: str,
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Run the recurrence for its result, without gradients; see `reference.marginals`."""
    terms = [_in_range(term, logits) for term in terms] if half else terms
    return implementation(engine).marginals(
        logits, weights, size, terms, iterations, tolerance, kept, half
    )


def _in_range(term: Term, logits: Tensor) -> Term:
    """The term with the values of its lattice in the range of float16.

    A vertex adds up to N marginals. What scales the input of a normalized filter outweighs that; a
    filter whose input is not scaled gets a power of two, which costs no digit.
    """
    n = logits.shape[2]
    if term.kind != "lattice" or term.before is not None or n <= _HALF_RANGE:
        return term
    factor = 2.0 ** math.ceil(math.log2(n / _HALF_RANGE))
    before = logits.new_full((len(logits), n), 1 / factor)
    after = before * factor**2 if term.after is None else term.after * factor
    return term._replace(before=before, after=after)


def class_peaks(logits: Tensor, engine: str) -> list[float]:
    """The largest ratio of each class's marginal to the likeliest one's, over batch and pixels."""
    return implementation(engine).class_peaks(logits)


def message_peaks(
    logits: Tensor,
    groups: Sequence[Sequence[int]],
    weights: Tensor,
    size: Sequence[int],
    terms: Sequence[Term],
    engine: str,
) -> list[float]:
    """Upper bounds of the first message to groups of classes; see `reference.message_peaks`."""
    return implementation(engine).message_peaks(logits, groups, weights, size, terms)


def needs_total(classes: int, engine: str) -> bool:
    """Whether the recurrence of so many classes needs terms with their responses to ones."""
    return implementation(engine).needs_total(classes)


@torch.library.custom_op("crfrnn::mean_field", mutates_args=())
def _mean_field(
    logits: Tensor,
    weights: Tensor,
    size: list[int],
    kinds: str,
    arrays: list[Tensor],
    iterations: int,
    tolerance: float,
    save: bool,
    engine: str,
) -> tuple[Tensor, Tensor, Tensor]:
    terms = _unflatten(kinds, arrays, len(size))
    return implementation(engine).mean_field(
        logits, weights, size, terms, iterations, tolerance, save
    )


@_mean_field.register_fake
def _(
    logits: Tensor,
    weights: Tensor,
    size: list[int],
    kinds: str,
    arrays: list[Tensor],
    iterations: int,
    tolerance: float,
    save: bool,
    engine: str,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, classes, n = logits.shape
    width = implementation(engine).saved_width(classes)
    saved = logits.new_empty(batch, iterations if save else 0, n, width)
    steps = torch.empty(batch, dtype=torch.int64, device=logits.device)
    return torch.empty_like(logits, memory_format=torch.contiguous_format), saved, steps


@torch.library.custom_op("crfrnn::mean_field_backward", mutates_args=())
def _mean_field_backward(
    gradient: Tensor,
    logits: Tensor,  # unused: ties the result to them, so that a second derivative is refused
    saved: Tensor,
    weights: Tensor,
    size: list[int],
    kinds: str,
    arrays: list[Tensor],
    engine: str,
) -> tuple[Tensor, Tensor]:
    terms = _unflatten(kinds, arrays, len(size))
    return implementation(engine).mean_field_backward(gradient, saved, weights, size, terms)


@_mean_field_backward.register_fake
def _(
    gradient: Tensor, logits: Tensor, saved: Tensor, weights: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return torch.empty_like(gradient, memory_format=contiguous), torch.empty_like(weights)


_mean_field_backward.register_vmap(one_by_one(_mean_field_backward))
no_second_derivative(_mean_field_backward, _NO_SECOND_DERIVATIVE)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    logits, weights, ctx.size, ctx.kinds, arrays, iterations, tolerance, save, ctx.engine = inputs
    ctx.complete = (save and tolerance == 0) or iterations == 0
    ctx.save_for_backward(logits, output[1], weights, *arrays)
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)  # or zeros as large as all that is saved


def _backward(ctx: Any, gradient: Tensor | None, _saved: None, _steps: None) -> tuple[Any, ...]:
    _check_complete(ctx)
    logits, saved, weights, *arrays = ctx.saved_tensors
    if gradient is None:
        return None, None, None, None, [None] * len(arrays), None, None, None, None
    to_logits, to_weights = _mean_field_backward(
        gradient, logits, saved, weights, ctx.size, ctx.kinds, arrays, ctx.engine
    )
    return to_logits, to_weights, None, None, [None] * len(arrays), None, None, None, None


_mean_field.register_autograd(_backward, setup_context=_save)
_mean_field.register_vmap(one_by_one(_mean_field))


class _MeanField(torch.autograd.Function):
    """The operator with the same gradient, as torch.func can see it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor,
        weights: Tensor,
        size: list[int],
        kinds: str,
        iterations: int,
        tolerance: float,
        save: bool,
        engine: str,
        *arrays: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            made: tuple[Tensor, Tensor, Tensor] = _mean_field(
                logits, weights, size, kinds, list(arrays), iterations, tolerance, save, engine
            )
        return made

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        logits, weights, size, kinds, iterations, tolerance, save, engine, *arrays = inputs
        registered = (logits, weights, size, kinds, arrays, iterations, tolerance, save, engine)
        _save(ctx, registered, output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        _check_complete(ctx)
        logits, saved, weights, *arrays = ctx.saved_tensors
        if gradients[0] is None:
            return (None,) * (8 + len(arrays))
        options = (ctx.size, ctx.kinds, ctx.engine)
        to_logits, to_weights = _MeanFieldBackward.apply(  # type: ignore[no-untyped-call]
            gradients[0], logits, saved, weights, *options, *arrays
        )
        return to_logits, to_weights, *[None] * (6 + len(arrays))


class _MeanFieldBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        gradient: Tensor,
        logits: Tensor,
        saved: Tensor,
        weights: Tensor,
        size: list[int],
        kinds: str,
        engine: str,
        *arrays: Tensor,
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            made: tuple[Tensor, Tensor] = _mean_field_backward(
                gradient, logits, saved, weights, size, kinds, list(arrays), engine
            )
        return made

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError(_NO_SECOND_DERIVATIVE)


def _check_complete(ctx: Any) -> None:
    if not ctx.complete:
        raise RuntimeError(
            "this recurrence stopped early or ran without gradients in mind, and saved no steps "
            "to go back through; set the tolerance to 0 and enable gradients"
        )


def _flatten(terms: Sequence[Term], like: Tensor) -> tuple[str, list[Tensor]]:
    """Terms as a string and a flat list of tensors, which is what an operator takes."""
    absent = like.new_empty(0)
    arrays: list[Tensor] = []
    for term in terms:
        scales = (term.before, term.after, term.total)
        arrays += [*term.arrays, *(absent if scale is None else scale for scale in scales)]
    return " ".join(term.kind for term in terms), arrays


def _unflatten(kinds: str, arrays: Sequence[Tensor], axes: int) -> list[Term]:
    terms, at = [], 0
    for kind in kinds.split():
        count = {"lattice": 6, "grid": axes, "exact": 1}[kind]
        own = tuple(arrays[at : at + count])
        scales = [scale if scale.numel() else None for scale in arrays[at + count : at + count + 3]]
        terms.append(Term(kind, own, *scales))
        at += count + 3
    return terms
