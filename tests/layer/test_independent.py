"""CRFRNN(independent=True): a model for each class, which may overlap."""

import numpy as np
import pytest
import torch

from crfrnn import CRFRNN, Bilateral, Gaussian, InputWarning, Step, refine

SIZE = (13, 17)
KERNELS = [Bilateral(position=6, color=25, weight=2), Gaussian(position=2, weight=1)]


def inputs(batch: int = 2, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, *SIZE, generator=random) * 255
    return torch.randn(batch, classes, *SIZE, generator=random) * 2, image


@pytest.mark.parametrize("normalization", ["symmetric", "after", "none"])
@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_equals_refine_with_masks(filter: str, normalization: str) -> None:
    logits, image = inputs()
    kernels = [Bilateral(6, 25, 0.2), Gaussian(2, 0.1)] if normalization == "none" else KERNELS
    layer = CRFRNN(
        3, kernels, independent=True, normalization=normalization, filter=filter, iterations=4
    )
    probs = layer(logits, image).sigmoid()
    expected = refine(
        image,
        masks=logits.sigmoid(),
        kernels=kernels,
        normalization=normalization,
        filter=filter,
        iterations=4,
        channels_last=False,
    )
    np.testing.assert_allclose(probs.detach().numpy(), expected.probs.numpy(), atol=1e-4)


def test_equals_two_exclusive_classes() -> None:
    logits, image = inputs(1, 1)
    alone = CRFRNN(1, KERNELS, independent=True)(logits, image)
    both = torch.cat([torch.zeros_like(logits), logits], dim=1)
    pair = CRFRNN(2, KERNELS)(both, image)
    torch.testing.assert_close(alone, pair[:, 1:] - pair[:, :1], atol=1e-4, rtol=1e-4)


def test_one_exclusive_class_warns() -> None:
    logits, image = inputs(1, 1)
    with pytest.warns(InputWarning, match="one class.*independent=True"):
        layer = CRFRNN(1, KERNELS)
    assert torch.equal(layer(logits, image), logits)  # a softmax over one class is 1


@pytest.mark.parametrize("weights", ["scalar", "class"])
@pytest.mark.parametrize("learn_bandwidths", [False, True])
def test_gradients(weights: str, learn_bandwidths: bool) -> None:
    random = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 4, 5, generator=random, dtype=torch.float64) * 255
    layer = CRFRNN(
        2,
        KERNELS,
        independent=True,
        weights=weights,
        iterations=2,
        filter="exact",
        learn_bandwidths=learn_bandwidths,
    ).double()
    logits = torch.randn(1, 2, 4, 5, generator=random, dtype=torch.float64, requires_grad=True)
    parameters = list(layer.parameters())
    assert len(parameters) == (4 if learn_bandwidths else 1)  # of three bandwidths

    def run(given: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return layer(given, image)

    assert torch.autograd.gradcheck(run, (logits, *parameters))


def test_it_learns_overlapping_classes() -> None:
    """Two classes share the left half; a network that sees neither edge learns to trust colors."""
    random = torch.Generator().manual_seed(0)
    image = torch.zeros(1, 3, 12, 16)
    image[..., 8:] = 200
    target = torch.zeros(1, 2, 12, 16)
    target[..., :8] = 1
    logits = 2 * (target - 0.5) + 2 * torch.randn(1, 2, 12, 16, generator=random)
    layer = CRFRNN(2, [Bilateral(10, 20, 0.01)], independent=True)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.2)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(layer(logits, image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    assert ((layer(logits, image) > 0) == (target > 0)).all()


def test_it_is_stored_and_read(tmp_path) -> None:
    layer = CRFRNN(3, KERNELS, independent=True)
    layer.save_pretrained(tmp_path / "layer")
    again = CRFRNN.from_pretrained(tmp_path / "layer")
    logits, image = inputs()
    assert again.independent
    torch.testing.assert_close(again(logits, image), layer.eval()(logits, image), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"compatibility": torch.eye(3)},
        {"step": Step("l2")},
        {"tol": 0.1},
        {"weights": "matrix"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_does_not_go_with_it(options) -> None:
    with pytest.raises(ValueError, match=f"does not go with {next(iter(options))}"):
        CRFRNN(3, independent=True, **options)
    with pytest.raises(ValueError, match="no trace"):
        CRFRNN(3, independent=True).infer(*inputs(), trace=True)
