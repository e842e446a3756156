"""Segmenter: outputs of networks, sizes, and the image that the CRF sees."""

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crfrnn
from crfrnn import CRFRNN, Gaussian, Segmenter
from crfrnn.integrations.torchvision import TorchvisionNetwork
from crfrnn.integrations.transformers import TransformersNetwork
from crfrnn.models import FCN8s
from crfrnn.models.imported import OwnNetwork

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(size: tuple[int, ...] = (12, 14)) -> tuple[Tensor, Tensor]:
    """Pictures on 0..255, and as a torchvision network sees them."""
    guide = torch.randint(256, (2, 3, *size)).float()
    column = (-1,) + (1,) * len(size)
    mean, std = torch.tensor(MEAN).view(column), torch.tensor(STD).view(column)
    return guide, (guide / 255 - mean) / std


Named = namedtuple("Named", ["loss", "logits"])


class Wrapped(nn.Module):
    """A network whose output is wrapped."""

    def __init__(self, network: nn.Module, wrap: Any) -> None:
        super().__init__()
        self.network, self.wrap = network, wrap

    def forward(self, image: Any) -> Any:
        return self.wrap(self.network(image))


def test_a_function_in_place_of_a_network_is_said_to_hide_its_parameters() -> None:
    network = nn.Conv2d(3, 2, 1)
    with pytest.warns(crfrnn.InputWarning, match=r"not a torch.nn.Module, so parameters"):
        model = Segmenter(lambda image: network(image), CRFRNN(2))
    assert model(torch.rand(1, 3, 5, 6)).shape == (1, 2, 5, 6)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 3, 5, 6, dtype=torch.uint8),
        torch.zeros(1, 3, 5, 6, dtype=torch.complex64),
        torch.zeros(1, 3, 5, 6).to_sparse(),
        torch.zeros(1, 3, 0, 6),
        torch.zeros(3, 5),
        np.zeros((1, 3, 5, 6)),
    ],
)
def test_images_that_no_network_takes(image: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="Segmenter: image must"):
        Segmenter(nn.Conv2d(3, 2, 1), CRFRNN(2))(image)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: z,
        lambda z: {"out": z, "aux": z[:, :1]},
        lambda z: SimpleNamespace(loss=None, logits=z),
        lambda z: {"loss": z.sum(), "logits": z},
        lambda z: Named(z.sum(), z),
        lambda z: (z, z[:, :1]),
        lambda z: [z, z[..., ::2]],
    ],
    ids=["tensor", "torchvision", "transformers", "mapping", "named tuple", "tuple", "list"],
)
def test_outputs_of_networks(wrap: Any) -> None:
    network = nn.Conv2d(3, 4, 3, stride=4, padding=1)
    crf = CRFRNN(4, iterations=2)
    guide, image = pictures()
    model = Segmenter(Wrapped(network, wrap), crf, mean=MEAN, std=STD)
    low = network(image)
    assert low.shape[2:] == (3, 4)
    unary = nn.functional.interpolate(low, size=(12, 14), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model.unary(image), unary)
    torch.testing.assert_close(model.undo(image), guide, rtol=0, atol=1e-3)
    expected = crf(unary, guide)
    torch.testing.assert_close(model(image), expected, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(model(image, guide), expected)


@pytest.mark.parametrize(("mean", "std", "range_of"), [(0.0, 1.0, 255), ((9.0, 8.0, 7.0), 1, 255)])
def test_images_of_caffe_and_images_as_they_are(mean: Any, std: float, range_of: float) -> None:
    guide, _ = pictures()
    model = Segmenter(nn.Conv2d(3, 2, 1), CRFRNN(2), mean=mean, std=std, image_range=range_of)
    seen = guide - torch.tensor(mean).view(-1, 1, 1)
    torch.testing.assert_close(model.undo(seen), guide)


@pytest.mark.parametrize("size", [(9,), (5, 7), (4, 5, 6)], ids=["1-D", "2-D", "3-D"])
def test_dimensions_and_another_guide(size: tuple[int, ...]) -> None:
    network = [nn.Conv1d, nn.Conv2d, nn.Conv3d][len(size) - 1](2, 3, 3, stride=2, padding=1)
    model = Segmenter(network, CRFRNN(3, iterations=1))
    guide = torch.randint(256, (1, 5, *size)).float()
    assert model(torch.randn(1, 2, *size), guide).shape == (1, 3, *size)


def test_gradients_reach_the_network_and_the_crf() -> None:
    model = Segmenter(nn.Conv2d(3, 4, 3, stride=2), CRFRNN(4, iterations=2), mean=MEAN, std=STD)
    _, image = pictures()
    nn.functional.cross_entropy(model(image), torch.randint(4, (2, 12, 14))).backward()
    groups = model.parameter_groups(1e-3, weights=2, compatibility=1)
    assert [(g["name"], round(g["lr"], 6)) for g in groups] == [
        ("network", 0.001),
        ("crf.kernel_weights", 0.002),
        ("crf.compatibility", 0.001),
    ]
    for group in groups:
        for parameter in group["params"]:
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0


def test_the_mask_reaches_the_crf() -> None:
    model = Segmenter(nn.Conv2d(3, 2, 1), CRFRNN(2), mean=MEAN, std=STD)
    _, image = pictures()
    nowhere = torch.zeros(2, 12, 14, dtype=torch.bool)
    torch.testing.assert_close(model(image, mask=nowhere), model.unary(image))


class Net(nn.Module):
    def forward(self, image: Tensor) -> Any:
        return {"out": image, "logits": image}


def with_mean(kind: str) -> nn.Module:
    """A module with a mean; all but `Segmenter` give what they feed the network."""
    if kind == "segmenter":
        return Segmenter(nn.Conv2d(3, 5, 1), CRFRNN(5), mean=list(MEAN), std=STD)
    if kind == "fcn8s":
        return FCN8s(3, width=2, hidden=4)
    if kind == "imported":
        return OwnNetwork(Net(), MEAN, 0.25)
    return TorchvisionNetwork(Net()) if kind == "torchvision" else TransformersNetwork(Net())


@pytest.mark.traced  # poisoned memory is not on the device "meta"
@pytest.mark.parametrize("kind", ["segmenter", "fcn8s", "imported", "torchvision", "transformers"])
def test_constants_are_filled_after_to_empty(kind: str) -> None:
    want = dict(with_mean(kind).named_buffers(recurse=False))
    with torch.device("meta"):
        made = with_mean(kind)
    made.to_empty(device="cpu")
    for buffer in made.buffers():
        buffer.fill_(torch.nan)
    made.apply(lambda module: getattr(module, "reset_parameters", tuple)())
    got = dict(made.named_buffers(recurse=False))
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert "mean" in got
    assert not any("mean" in name for name in made.state_dict())


@pytest.mark.unchecked
def test_bad_networks_and_numbers() -> None:
    crf = CRFRNN(2, [Gaussian()])
    image = torch.zeros(1, 3, 6, 7)
    for output, got in (
        (None, "got NoneType"),
        ((), "got tuple of nothing"),
        ((image.sum(), image), "got tuple of Tensor, Tensor"),
        ({"mask": image, "aux": image}, "got dict with mask, aux"),
    ):
        with pytest.raises(TypeError, match=f"must return logits.*{got}.*Wrap the network in a"):
            Segmenter(Wrapped(nn.Identity(), lambda _, output=output: output), crf)(image)
    with pytest.raises(ValueError, match=r"must give logits.*got \(1, 2\) for \(1, 3, 6, 7\)"):
        Segmenter(Wrapped(nn.Identity(), lambda _: torch.zeros(1, 2)), crf)(image)
    with pytest.raises(ValueError, match="mean has 2 numbers for an image of 3 channels"):
        Segmenter(nn.Conv2d(3, 2, 1), crf, mean=(1.0, 2.0))(image)
    with pytest.raises(TypeError, match="network must be callable"):
        Segmenter(3, crf)
    with pytest.raises(TypeError, match="crf must be a CRFRNN"):
        Segmenter(nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1))
    with pytest.raises(ValueError, match="std is a standard deviation and must be positive"):
        Segmenter(nn.Conv2d(3, 2, 1), crf, std=0.0)
