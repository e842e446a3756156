"""CRFRNN with clamped pixels: they send, keep their logits, and get gradients."""

from typing import Any

import pytest
import torch

from crfrnn import CRFRNN, Bilateral, Gaussian, Step, refine
from tests.cases import ENGINES

SIZE = (7, 9)
KERNELS = [Bilateral(position=5, color=60, weight=2), Gaussian(position=2, weight=1)]


def inputs(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, *SIZE, generator=random, dtype=dtype) * 2
    image = torch.rand(2, 3, *SIZE, generator=random, dtype=dtype) * 255
    return logits, image, torch.rand(2, *SIZE, generator=random) < 0.5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("prepared", [False, True])
def test_equals_refine(prepared: bool, mask: bool, engine: str) -> None:
    logits, image, held = inputs()
    where: dict[str, Any] = {"mask": held.flip(1) | (image[:, 0] > 100)} if mask else {}
    layer = CRFRNN(3, KERNELS, iterations=4, engine=engine)
    if prepared:
        guide = layer.prepare(image, dtype=torch.float64, **where)
        z = layer(logits, guide, clamp=held)
    else:
        z = layer(logits, image, clamp=held, **where)
    same = refine(
        image,
        logits=logits,
        clamp=held,
        kernels=KERNELS,
        iterations=4,
        channels_last=False,
        **where,
    )
    torch.testing.assert_close(z.softmax(1).detach(), same.probs, atol=1e-6, rtol=0)
    kept = held[:, None].expand_as(z)
    torch.testing.assert_close(z[kept], logits[kept], rtol=0, atol=0)
    assert (layer(logits, image, **where) - z)[~kept].abs().max() > 0.01


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weights": "matrix"},
        {"learn_bandwidths": True, "filter": "exact"},
        {"normalization": "after", "compatibility": "potts", "learn_compatibility": False},
        {"independent": True},
    ],
    ids=str,
)
def test_gradients(options: dict[str, Any], engine: str) -> None:
    logits, image, held = inputs()
    logits, image, held = logits[:1, :, :3, :4], image[:1, :, :3, :4], held[:1, :3, :4]
    layer = CRFRNN(3, KERNELS, iterations=3, engine=engine, **options).double()
    parameters = dict(layer.named_parameters())

    def call(z: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(layer, given, (z, image), {"clamp": held})

    starts = [logits, *(value.detach().clone() for value in parameters.values())]
    assert torch.autograd.gradcheck(call, [value.requires_grad_() for value in starts])
    # Free pixels depend on the scores of clamped ones, in every step.
    z = call(*starts)
    free = ~held[:, None].expand_as(z)
    (gradient,) = torch.autograd.grad((z[free] ** 2).sum(), starts[0])
    assert gradient[~free].abs().min() > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_scribbles_train(engine: str) -> None:
    logits, image, held = inputs(torch.float32)
    layer = CRFRNN(3, KERNELS, engine=engine)
    layer(logits, image, clamp=held).logsumexp(1).sum().backward()
    assert layer.kernel_weights.grad is not None
    assert layer.kernel_weights.grad.abs().min() > 0


def test_tolerance_counts_free_pixels() -> None:
    logits, image, held = inputs()
    layer = CRFRNN(3, KERNELS).eval()
    done = layer.infer(logits, image, clamp=held, tol=0.01, iterations=50)
    same = refine(
        image,
        logits=logits,
        clamp=held,
        kernels=KERNELS,
        tol=0.01,
        iterations=50,
        channels_last=False,
    )
    assert done.steps.tolist() == same.steps
    assert 1 < min(same.steps) <= max(same.steps) < 50
    torch.testing.assert_close(done.logits.softmax(1), same.probs, atol=1e-6, rtol=0)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.long(), "CRFRNN: clamp must be bool, True where a pixel keeps its"),
        (lambda held: held[0], r"CRFRNN: clamp must be \(B, \*S\) = \(2, 7, 9\), without"),
        (lambda held: held.numpy(), "CRFRNN: clamp must be a torch tensor; got ndarray"),
    ],
)
def test_bad_clamps(change: Any, message: str) -> None:
    logits, image, held = inputs(torch.float32)
    with pytest.raises((ValueError, TypeError), match=message):
        CRFRNN(3)(logits, image, clamp=change(held))


def test_other_steps_have_no_clamp() -> None:
    logits, image, held = inputs(torch.float32)
    with pytest.raises(ValueError, match="clamp goes with plain mean field"):
        CRFRNN(3, step=Step("l2"))(logits, image, clamp=held)
    with pytest.raises(ValueError, match="clamp goes with plain mean field"):
        CRFRNN(3).infer(logits, image, clamp=held, trace=True)
