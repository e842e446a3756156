"""DenseCRFLoss against the double sum, and what it teaches."""

import pytest
import torch
from torch import Tensor

from crfrnn import Bilateral, DenseCRFLoss, FeatureGaussian, Gaussian


def inputs(size: tuple[int, ...] = (5, 7)) -> tuple[Tensor, Tensor, Tensor]:
    logits = torch.randn(2, 3, *size, dtype=torch.float64)
    image = torch.rand(2, 3, *size, dtype=torch.float64) * 255
    return logits, image, torch.rand(2, *size) > 0.3


def double_sum(logits: Tensor, image: Tensor, mask: Tensor, normalization: str) -> Tensor:
    """Σ_ij K_ij Σ_c S_ic (1 - S_jc) / N over the pixels inside, per image."""
    losses = []
    for z, picture, inside in zip(logits, image, mask, strict=True):
        height, width = z.shape[1:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        points = torch.cat([torch.stack([x, y]).double() / 20, picture / 30]).flatten(1).T
        points, s = points[inside.flatten()], z.softmax(0).flatten(1).T[inside.flatten()]
        kernel = torch.exp(-0.5 * torch.cdist(points, points) ** 2)
        norm = kernel.sum(1)
        if normalization == "symmetric":
            kernel = kernel / norm.sqrt()[:, None] / norm.sqrt()
        elif normalization == "after":
            kernel = kernel / norm[:, None]
        losses.append((kernel * (s @ (1 - s).T)).sum() / len(s))
    return 2.5 * torch.stack(losses).mean()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("normalization", ["symmetric", "after", "none"])
def test_value_and_gradient_of_the_double_sum(normalization: str, masked: bool) -> None:
    logits, image, mask = inputs()
    logits.requires_grad_()
    mask = mask if masked else torch.ones_like(mask)
    loss = DenseCRFLoss(
        [Bilateral(20, 30, weight=2.5)], normalization=normalization, filter="exact"
    )
    expected = double_sum(logits, image, mask, normalization)
    got = loss(logits, image, mask=mask if masked else None)
    torch.testing.assert_close(got, expected)
    pair = [torch.autograd.grad(value, logits)[0] for value in (got, expected)]
    torch.testing.assert_close(*pair)
    assert not pair[0][~mask[:, None].expand_as(logits)].any()


def test_lattice_agrees_with_exact_and_prepared_with_both() -> None:
    logits, image, mask = inputs((11, 13))
    lattice = DenseCRFLoss()
    exact = DenseCRFLoss(filter="exact")
    torch.testing.assert_close(lattice(logits, image), exact(logits, image), rtol=0.1, atol=0)
    prepared = lattice.prepare(image, mask=mask, dtype=torch.float64)
    torch.testing.assert_close(lattice(logits, prepared), lattice(logits, image, mask=mask))


def test_agreement_along_edges_is_cheap() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[..., 4:] = 200
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 0, :, :4], logits[:, 1, :, 4:] = 8, 8
    loss = DenseCRFLoss()
    assert loss(logits, image) < 0.02
    assert loss(logits.roll(2, dims=3), image) > 0.3


def test_it_spreads_a_scribble() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[..., 5:] = 200
    labels = torch.full((1, 8, 8), 255)
    labels[0, 2, 1], labels[0, 5, 6] = 0, 1
    logits = torch.zeros(1, 2, 8, 8, requires_grad=True)
    loss = DenseCRFLoss([Bilateral(100, 15), Gaussian(2, weight=0.1)])
    prepared = loss.prepare(image)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(60):
        seen = torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)
        total = seen + loss(logits, prepared)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    expected = (image[:, 0] > 0).long()
    torch.testing.assert_close(logits.argmax(1), expected)


def test_weights_per_class_features_and_half_precision() -> None:
    logits, image, _ = inputs()
    kernels = [FeatureGaussian(bandwidth=2.0, weight=(1.0, 0.0, 0.0))]
    z = logits.half().requires_grad_()
    value = DenseCRFLoss(kernels)(z, None, features=[torch.randn(2, 2, 5, 7)])
    assert value.dtype == torch.float32
    (gradient,) = torch.autograd.grad(value, z)
    assert gradient.dtype == torch.float16
    del image


@pytest.mark.unchecked
def test_bad_input_is_named() -> None:
    logits, image, _ = inputs()
    with pytest.raises(ValueError, match=r"DenseCRFLoss: logits and image must have the same"):
        DenseCRFLoss()(logits, image[..., :3])
    with pytest.raises(ValueError, match="Bilateral kernel needs an image"):
        DenseCRFLoss()(logits)
    with pytest.raises(ValueError, match=r"DenseCRFLoss: logits must be finite"):
        DenseCRFLoss()(logits * torch.nan, image)
    with pytest.raises(ValueError, match="unknown filter"):
        DenseCRFLoss(filter="x")


@pytest.mark.unchecked
def test_one_image_without_a_batch_axis() -> None:
    with pytest.raises(ValueError, match=r"give logits\[None\] and image\[None\]"):
        DenseCRFLoss()(torch.zeros(5, 6, 7), torch.zeros(3, 6, 7))
