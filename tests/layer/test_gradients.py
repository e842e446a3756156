"""Every gradient of the layer against finite differences, in float64 on tiny inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from crfrnn import CRFRNN, Bilateral, FeatureGaussian, Gaussian, Lattice, gaussian_filter
from crfrnn.crf.mean_field import mean_field
from tests.cases import ENGINES, available_engines

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 3
KERNELS = (
    Bilateral(position=5.0, color=40.0, weight=1.0),
    Gaussian(position=1.5, weight=1.0),
    FeatureGaussian(bandwidth=(1.1, 0.7), position=4.0, weight=0.5),
    Gaussian(position=2.1, weight=0.3, lattice=True),
)
NORMALIZATIONS = ("symmetric", "after", "before", "none")


def layer(**options: Any) -> CRFRNN:
    made = CRFRNN(
        CLASSES, KERNELS, iterations=2, compatibility=torch.rand(CLASSES, CLASSES), **options
    )
    return made.double()


def maps(size: Sequence[int], wanted: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, image, features and a mask for a batch of two different items."""
    logits = torch.randn(2, CLASSES, *size, dtype=torch.float64, requires_grad=True)
    image = (torch.rand(2, 3, *size, dtype=torch.float64) * 255).requires_grad_(wanted)
    features = torch.randn(2, 2, *size, dtype=torch.float64).requires_grad_(wanted)
    return logits, image, features, torch.rand(2, *size) > 0.2


def as_function(made: CRFRNN, mask: Tensor | None) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The layer as a function of its inputs and then of each parameter."""
    names = [name for name, _ in made.named_parameters()]

    def run(logits: Tensor, image: Tensor, features: Tensor, *values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        options = {"mask": mask, "features": [features]}
        return torch.func.functional_call(made, given, (logits, image), options)

    return run, [value.detach().clone().requires_grad_() for value in made.parameters()]


def check(made: CRFRNN, size: Sequence[int], masked: bool) -> None:
    logits, image, features, mask = maps(size, made.recipe.feature_gradients)
    run, values = as_function(made, mask if masked else None)
    # The fast mode compares one random direction of each input; a wrong term shows in it.
    assert gradcheck(run, (logits, image, features, *values), fast_mode=True)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("filter", ["lattice", "exact"])
@pytest.mark.parametrize("learned", [False, True], ids=["fused", "bandwidths and features"])
def test_normalizations(learned: bool, filter: str, normalization: str, masked: bool) -> None:
    made = layer(
        normalization=normalization,
        filter=filter,
        learn_bandwidths=learned,
        feature_gradients=learned,
    )
    check(made, (3, 4), masked)


@pytest.mark.parametrize("weights", ["scalar", "class", "matrix"])
@pytest.mark.parametrize("learned", [False, True], ids=["fused", "bandwidths and features"])
def test_forms_of_weights(learned: bool, weights: str) -> None:
    check(layer(weights=weights, learn_bandwidths=learned), (3, 4), masked=False)


@pytest.mark.parametrize("size", [(7,), (2, 3, 2)], ids=["1-D", "3-D"])
@pytest.mark.parametrize("filter", ["lattice", "exact"])
@pytest.mark.parametrize("learned", [False, True], ids=["fused", "bandwidths and features"])
def test_other_dimensions(learned: bool, filter: str, size: Sequence[int]) -> None:
    made = layer(filter=filter, learn_bandwidths=learned, feature_gradients=learned)
    check(made, size, masked=True)


@pytest.mark.parametrize("engine", ENGINES)  # minutes in Triton's interpreter: see test_triton.py
def test_every_element_of_the_fused_operator(engine: str) -> None:
    made = CRFRNN(2, KERNELS[:2], iterations=3, weights="matrix", engine=engine).double()
    logits, image, features, _ = maps((2, 3), wanted=False)
    run, values = as_function(made, None)
    assert gradcheck(run, (logits[:, :2].detach().requires_grad_(), image, features, *values))


@pytest.mark.parametrize("method", ["lattice", "exact"])
def test_every_element_of_a_filter(method: str) -> None:
    features = (torch.rand(5, 2, dtype=torch.float64) * 2).requires_grad_()
    values = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)

    def run(values: Tensor, features: Tensor) -> Tensor:
        return gaussian_filter(values, features, method=method, normalization="symmetric")

    assert gradcheck(run, (values, features))


def test_the_weights_of_a_differentiable_lattice_are_those_of_the_built_one() -> None:
    features = torch.rand(2, 40, 5) * 4
    for engine in available_engines():
        plain = Lattice(features, engine=engine).arrays.weight
        learned = Lattice(features.clone().requires_grad_(), engine=engine).arrays.weight
        assert learned.requires_grad
        torch.testing.assert_close(learned.detach(), plain, rtol=0, atol=0)


def test_a_learned_bandwidth_goes_the_way_that_lowers_the_loss() -> None:
    """A coarse check that no chain is cut: five steps down the gradient of every bandwidth."""
    made = CRFRNN(CLASSES, KERNELS, learn_bandwidths=True)
    logits, image, features, _ = (value.float().detach() for value in maps((6, 7), wanted=False))
    labels = torch.randint(CLASSES, (2, 6, 7))
    bandwidths = [p for name, p in made.named_parameters() if name.startswith("log_bandwidths")]
    assert len(bandwidths) == 6
    losses = []
    for _ in range(6):
        z = made(logits, image, features=[features])
        loss = torch.nn.functional.cross_entropy(z, labels)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, bandwidths)
        with torch.no_grad():
            for parameter, gradient in zip(bandwidths, gradients, strict=True):
                assert gradient.abs().max() > 0
                parameter -= 0.05 * gradient
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_the_plain_recurrence_has_second_derivatives(filter: str) -> None:
    made = layer(filter=filter)
    logits, image, features, _ = maps((2, 3), wanted=False)
    filters = made.eval().prepare(image, features=[features], dtype=torch.float64).filters
    weights, penalty = (value.detach().requires_grad_() for value in made.parameters())

    def run(logits: Tensor, weights: Tensor, penalty: Tensor) -> Tensor:
        return mean_field(-logits, filters, weights, penalty, 2)

    assert gradgradcheck(run, (logits, weights, penalty), fast_mode=True)


def test_second_derivatives_of_features_are_refused_by_the_lattice() -> None:
    features = torch.rand(6, 2, dtype=torch.float64, requires_grad=True)
    values = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    out = Lattice(features).filter(values).square().sum()
    (gradient,) = torch.autograd.grad(out, features, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"second derivative of a lattice.*exact"):
        gradient.sum().backward()
