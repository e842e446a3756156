"""Frank-Wolfe: the projection against a search, and the fused steps against the plain ones."""

import math

import pytest
import torch
from torch import Tensor

from crfrnn import ops
from crfrnn.core.inference import Options
from crfrnn.crf.energy import penalty
from crfrnn.crf.frank_wolfe import Rates, Step, frank_wolfe
from tests.cases import ENGINES, GRID_CASES, GridCase, infer, needs_core
from tests.crf.test_mean_field import parameters, potts, prepare

DOUBLE = torch.float64

STEPS = [
    Step("l2"),
    Step("l2", strength=0.7, mix=0.5),
    Step("l2", strength=1.3, size=0.5),
    Step("l2", strength=0.7, size=0.6, mix=0.5, learn=True),
    Step("entropy", strength=0.7),
    Step("entropy", mix=0.5),
    Step("entropy", strength=1.2, size=0.5, learn=True),
    Step("entropy", strength=0.8, size=0.9, mix=0.3, learn=True),
]

#: One pixel, one class; two to 21 classes, whose last one is kept or derived from the others.
CASES = [case for case in GRID_CASES if case.classes in (1, 5, 17, 21) or case.kind == "edge"]
CASES += [GridCase(1, 2, (3, 3)), GridCase(1, 4, (3, 5, 7), 2)]


# --- The projection. ---


def projection_by_search(z: list[float]) -> list[float]:
    """max(z - tau, 0) with the tau for which it sums to one, found by halving an interval."""
    low, high = max(z) - 1, max(z)
    for _ in range(200):
        tau = (low + high) / 2
        if sum(max(value - tau, 0.0) for value in z) > 1:
            low = tau
        else:
            high = tau
    return [max(value - low, 0.0) for value in z]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 8, 13, 21, 33, 40])
@pytest.mark.parametrize("spread", [0.05, 1.0, 30.0])
def test_a_step_without_messages_projects(spread: float, classes: int, engine: str, dtype) -> None:
    """Many, few and single classes in the support; logits far from zero."""
    case = GridCase(1, classes, (3, 5))
    logits, filters = prepare(case, dtype, engine=engine)
    logits = logits * spread + 50
    weights = logits.new_zeros(2)
    z, _ = infer(logits, filters, weights, None, 1, engine=engine, step=Step("l2"))
    found = z.softmax(1).flatten(2)[0].T.tolist()
    for ours, scores in zip(found, logits.flatten(2)[0].T.tolist(), strict=True):
        expected = projection_by_search(scores)
        bound = {torch.float32: 1e-5, DOUBLE: 1e-11}[dtype]
        assert ours == pytest.approx(expected, abs=bound)


def test_ties_share_and_equal_logits_are_uniform() -> None:
    scores = torch.tensor([[2.0, 2.0, -5.0], [0.0, 0.0, 0.0], [9.0, 0.0, 8.5]])
    expected = torch.tensor([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.75, 0.0, 0.25]])
    torch.testing.assert_close(ops.project(scores, 1), expected)
    torch.testing.assert_close(ops.project(scores.T, 0), expected.T)


# --- The fused operator against the plain steps, values and every gradient. ---


def run(case: GridCase, kind: str, dtype, step: Step, engine: str, *, is_fused: bool, steps=3):
    """Logits of a recurrence, and the gradients to logits, weights, compatibility and rates."""
    logits, filters = prepare(case, dtype, engine=engine if is_fused else "reference")
    weights, matrix = parameters(case, dtype, kind)
    rates = [torch.tensor(rate, dtype=dtype) for rate in (step.strength, step.size)]
    inputs = [logits, weights, *([] if matrix is None else [matrix])]
    inputs = [tensor.requires_grad_() for tensor in inputs + (rates if step.learn else [])]
    learned = Rates(*rates) if step.learn else None
    if is_fused:
        z, _ = infer(
            logits, filters, weights, matrix, steps, engine=engine, step=step, rates=learned
        )
    else:
        dense = potts(case.classes, dtype) if matrix is None else matrix

        def cost(q: Tensor) -> Tensor:
            return penalty(q, filters, weights, dense)

        z = frank_wolfe(logits, cost, Options(steps), step, rates=learned).logits
    target = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    # dlog(s) = ds / s: what is nearly zero in a sparse result would drown all other gradients.
    likely = z.detach() > z.detach().amax(1, keepdim=True) - 4
    loss = (z * target.to(dtype) * likely).sum()
    return [z.detach(), *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["potts-class", "class", "matrix"])
@pytest.mark.parametrize("step", STEPS, ids=str)
def test_fused_steps_are_the_plain_ones(step: Step, kind: str, engine: str) -> None:
    for case in CASES:
        ours = run(case, kind, DOUBLE, step, engine, is_fused=True)
        plain = run(case, kind, DOUBLE, step, engine, is_fused=False)
        for mine, expected in zip(ours, plain, strict=True):
            scale = 1 + float(expected.abs().max())
            torch.testing.assert_close(
                mine, expected, rtol=1e-10, atol=1e-11 * scale, msg=str(case)
            )


@needs_core
@pytest.mark.parametrize("kind", ["potts-class", "matrix"])
@pytest.mark.parametrize("step", STEPS, ids=str)
def test_fused_steps_in_single_precision(step: Step, kind: str) -> None:
    for case in CASES:
        ours = run(case, kind, torch.float32, step, "cpu", is_fused=True)
        exact = run(case, kind, DOUBLE, step, "cpu", is_fused=False)
        likely = exact[0] > exact[0].amax(1, keepdim=True) - 4
        torch.testing.assert_close(
            ours[0][likely].double(), exact[0][likely], rtol=1e-3, atol=1e-3, msg=str(case)
        )
        for mine, expected in zip(ours[1:], exact[1:], strict=True):
            error = float((mine - expected).norm() / (1e-9 + expected.norm()))
            assert error < 2e-3 or float(expected.norm()) < 1e-6, case


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["potts-class", "matrix"])
@pytest.mark.parametrize("step", STEPS, ids=str)
def test_gradients_of_the_steps(step: Step, kind: str, engine: str) -> None:
    case = GridCase(1, 3, (2, 3))
    logits, filters = prepare(case, DOUBLE, engine=engine)
    weights, matrix = parameters(case, DOUBLE, kind)
    rates = [torch.tensor(rate, dtype=DOUBLE) for rate in (step.strength, step.size)]
    inputs = [logits / 4, weights, *([] if matrix is None else [matrix])]
    inputs = [tensor.requires_grad_() for tensor in inputs + (rates if step.learn else [])]

    def fused(logits: Tensor, weights: Tensor, *rest: Tensor) -> Tensor:
        matrix = None if kind == "potts-class" else rest[0]
        learned = Rates(*rest[-2:]) if step.learn else None
        z, _ = infer(logits, filters, weights, matrix, 3, engine=engine, step=step, rates=learned)
        return z.clamp_min(-50)  # exact zeros have the logarithm of a constant

    assert torch.autograd.gradcheck(fused, inputs, fast_mode=True)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("step", STEPS, ids=str)
def test_stopping_early(step: Step, engine: str) -> None:
    """An image stops by itself, and gives what the same number of steps would."""
    case = GridCase(2, 5, (7, 11))
    logits, filters = prepare(case, DOUBLE, engine=engine)
    logits[1] *= 20  # certain from the start
    weights = parameters(case, DOUBLE, "potts-class")[0]
    options = {"engine": engine, "step": step}
    z, steps = infer(logits, filters, weights, None, 30, tolerance=3e-3, **options)
    assert 1 <= steps[1] <= steps[0] < 30
    assert steps[0] > 1
    for index, count in enumerate(steps.tolist()):
        whole, _ = infer(logits, filters, weights, None, count, **options)
        torch.testing.assert_close(z[index], whole[index], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_weights_return_the_logits_and_a_constant_passes_through(engine: str) -> None:
    case = GridCase(2, 5, (7, 11))
    logits, filters = prepare(case, DOUBLE, engine=engine)
    zeros = logits.new_zeros(2)
    for step in (Step(size=0.5), Step(size=0.5, mix=0.5)):
        z, _ = infer(logits, filters, zeros, None, 3, engine=engine, step=step)
        torch.testing.assert_close(z, logits, rtol=1e-10, atol=1e-10)
    shift = torch.randn(2, 1, 7, 11, dtype=DOUBLE)
    weights = parameters(case, DOUBLE, "potts-class")[0]
    for step in STEPS[:3]:
        z, _ = infer(logits, filters, weights, None, 3, engine=engine, step=step)
        other, _ = infer(logits + shift, filters, weights, None, 3, engine=engine, step=step)
        torch.testing.assert_close(other - shift, z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_marginals_that_underflow_still_learn(mix: float, engine: str) -> None:
    """A confident mistake has a finite loss, and a gradient that corrects it."""
    case = GridCase(1, 5, (3, 5))
    _, filters = prepare(case, torch.float32, engine=engine)
    logits = torch.zeros(1, 5, 3, 5)
    logits[:, 0] = 400
    logits.requires_grad_()
    step = Step("entropy", strength=0.5, mix=mix)
    z, _ = infer(logits, filters, torch.ones(2), None, 2, engine=engine, step=step)
    loss = torch.nn.functional.cross_entropy(z, torch.full((1, 3, 5), 4))
    assert math.isfinite(loss.item())
    assert loss.item() > 300
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 4] < -1e-3).all()
