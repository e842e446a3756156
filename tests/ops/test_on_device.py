"""On a CUDA device: the forms of the model, and their gradients, equal those of the CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from crfrnn import CRFRNN, DenseCRFLoss, Step, Upsample, gaussian_filter, refine, upsample

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _needs_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def picture(height: int, width: int, channels: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(batch, channels, 6, 7, generator=generator)
    scores = torch.nn.functional.interpolate(3 * coarse, size=(height, width), mode="bilinear")
    patches = 255 * torch.rand(batch, 3, 5, 6, generator=generator)
    image = torch.nn.functional.interpolate(patches, size=(height, width))
    return scores, (image + 4 * torch.randn(image.shape, generator=generator)).clamp(0, 255)


def both(call: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The result of `call` on the CPU and on the device, the latter brought back."""
    there = call(*(tensor.cuda() for tensor in inputs))
    assert there.device.type == "cuda"
    return call(*inputs), there.cpu()


def gradients(
    module: torch.nn.Module, call: Callable[..., Tensor], *inputs: Tensor
) -> list[Tensor]:
    given = inputs[0].clone().requires_grad_()
    result = call(given, *inputs[1:])
    upstream = torch.linspace(-1, 1, result.numel(), device=result.device).view(result.shape)
    found = torch.autograd.grad(result, (given, *module.parameters()), upstream)
    return [result.detach().cpu(), *(gradient.cpu() for gradient in found)]


def agree(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 1e-3 * b.norm().clamp(min=1e-6)


@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_masks(filter: str) -> None:
    scores, image = picture(60, 80, 9)

    def call(scores: Tensor, image: Tensor) -> Tensor:
        return refine(image[0], masks=scores[0].sigmoid(), filter=filter).probs

    here, there = both(call, scores, image)
    torch.testing.assert_close(there, here, atol=1e-4, rtol=0)


def test_a_layer_of_independent_masks_trains() -> None:
    scores, image = picture(40, 50, 5, 2)
    layer = CRFRNN(5, independent=True)
    here = gradients(layer, layer, scores, image)
    layer.cuda()
    agree(gradients(layer, layer, scores.cuda(), image.cuda()), here)


@pytest.mark.parametrize("method", ["lattice", "exact"])
def test_sources_and_targets(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 300, 40, generator=generator)
    sources, targets = torch.randn(2, 300, 4), torch.randn(2, 500, 4)

    def call(values: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        return gaussian_filter(values, sources, targets=targets, method=method)

    here, there = both(call, values, sources, targets)
    torch.testing.assert_close(there, here, atol=1e-4, rtol=1e-4)
    found = []
    for device in ("cpu", "cuda"):
        given = [t.to(device).requires_grad_() for t in (values, sources, targets)]
        loss = call(*given).square().sum()
        found.append([g.cpu() for g in torch.autograd.grad(loss, given)])
    agree(found[1], found[0])


def test_upsampling_and_its_layer() -> None:
    values, image = picture(12, 15, 21)[0], picture(96, 120, 1)[1]
    here, there = both(lambda v, i: upsample(v[0], i[0]), values, image)
    torch.testing.assert_close(there, here, atol=1e-3, rtol=1e-3)
    layer = Upsample()
    ours = gradients(layer, layer, values, image)
    layer.cuda()
    agree(gradients(layer, layer, values.cuda(), image.cuda()), ours)


@pytest.mark.parametrize("solver", ["entropy", "l2"])
def test_frank_wolfe(solver: str) -> None:
    scores, image = picture(40, 50, 5)
    layer = CRFRNN(5, step=Step(solver, size=0.5))
    here = gradients(layer, layer, scores, image)
    layer.cuda()
    agree(gradients(layer, layer, scores.cuda(), image.cuda()), here)


def test_the_guard_and_the_loss() -> None:
    scores, image = picture(60, 80, 5)
    here, there = (
        refine(i, logits=s, guard=True) for s, i in ((scores, image), (scores.cuda(), image.cuda()))
    )
    assert there.guarded == here.guarded
    assert (there.labels.cpu() == here.labels).float().mean() >= 0.999
    loss = DenseCRFLoss()
    ours = gradients(loss, lambda s, i: loss(s, i), scores, image)
    agree(gradients(loss, lambda s, i: loss(s, i), scores.cuda(), image.cuda()), ours)
