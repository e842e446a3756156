"""The layer compiled and exported: the results of the layer itself, at every image size."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from crfrnn import CRFRNN, Bilateral, Gaussian, Step
from crfrnn.crf import filters, frank_wolfe, inference, kernel, kernels, lattice
from crfrnn.layer import prepared

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
CLASSES = 3
# The taps of the spatial Gaussian end before the border along 23 and 31 pixels, and not before.
KERNELS = [Bilateral(160, 3, weight=5), Gaussian(2, weight=3)]
SIZES = ((5, 6), (23, 6), (12, 31))


def layer(iterations: int = 2, **options: Any) -> CRFRNN:
    return CRFRNN(CLASSES, KERNELS, iterations=iterations, eval_iterations=iterations, **options)


def inputs(batch: int = 2, size: tuple[int, ...] = (9, 11)) -> tuple[Tensor, Tensor]:
    logits = torch.randn(batch, CLASSES, *size, requires_grad=True)
    return logits, torch.rand(batch, 3, *size) * 255


def loss_and_gradients(model: Any, logits: Tensor, image: Tensor) -> tuple[Tensor, ...]:
    z = model(logits, image)
    return z.detach(), *torch.autograd.grad(z.square().mean(), [logits, *model.parameters()])


@pytest.fixture
def bare_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the shape checks off methods, where even switched off they cannot be traced."""
    for module in (lattice, kernel, kernels, filters, prepared, frank_wolfe, inference):
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == module.__name__:
                for name, method in list(vars(value).items()):
                    if inspect.isfunction(method):
                        monkeypatch.setattr(value, name, inspect.unwrap(method))
                    elif isinstance(method, property):
                        getter = property(inspect.unwrap(method.fget))
                        monkeypatch.setattr(value, name, getter)


@pytest.fixture
def any_number_of_vertices() -> Iterator[None]:
    """Set what `fullgraph` implies since torch 2.10."""
    settings = {"capture_dynamic_output_shape_ops": True} if TORCH < (2, 10) else {}
    with torch._dynamo.config.patch(settings):
        yield


@pytest.mark.traced
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("bare_classes", "any_number_of_vertices")
@pytest.mark.filterwarnings("ignore:Skipping serialization:UserWarning")  # torch 2.6's own
def test_compiles_into_one_graph(backend: str) -> None:
    torch._dynamo.reset()
    made = layer(weights="matrix")
    args = inputs()
    expected = loss_and_gradients(made, *args)
    compiled = torch.compile(made, fullgraph=True, backend=backend)
    torch.testing.assert_close(loss_and_gradients(compiled, *args), expected, **CLOSE)


@pytest.mark.traced
@pytest.mark.usefixtures("bare_classes", "any_number_of_vertices")
def test_compiles_with_the_exact_filter() -> None:
    torch._dynamo.reset()
    made = layer(filter="exact")
    args = inputs(1, (5, 6))
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    expected = loss_and_gradients(made, *args)
    torch.testing.assert_close(loss_and_gradients(compiled, *args), expected, **CLOSE)


@pytest.mark.traced
@pytest.mark.usefixtures("bare_classes", "any_number_of_vertices")
def test_compiles_with_a_learned_step() -> None:
    torch._dynamo.reset()
    made = layer(step=Step("l2", strength=2.0, size=0.6, learn=True, mix=0.5))
    args = inputs(1, (5, 6))
    expected = loss_and_gradients(made, *args)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(loss_and_gradients(compiled, *args), expected, **CLOSE)


@pytest.mark.traced
@pytest.mark.usefixtures("bare_classes", "any_number_of_vertices")
@pytest.mark.parametrize("learn_bandwidths", [False, True])
@pytest.mark.parametrize("dynamic", [None, True])
def test_the_results_are_the_same_at_every_image_size(
    dynamic: bool | None, learn_bandwidths: bool
) -> None:
    torch._dynamo.reset()
    made = layer(1, learn_bandwidths=learn_bandwidths)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in SIZES:
        args = inputs(2, size)
        expected = loss_and_gradients(made, *args)
        torch.testing.assert_close(loss_and_gradients(compiled, *args), expected, **CLOSE)


@pytest.mark.traced
@pytest.mark.parametrize("normalization", ["none", "before", "symmetric"])
@pytest.mark.parametrize("width", [0.2, 1.0, 3.0, 40.0])
def test_a_band_whose_bandwidth_cannot_be_read_has_the_same_taps(
    monkeypatch: pytest.MonkeyPatch, width: float, normalization: str
) -> None:
    size, reach = 19, 3.3
    bandwidth = torch.tensor(width, requires_grad=True)
    build = [size, bandwidth, reach, normalization, torch.float64, torch.device("cpu")]
    band = filters._new_band(*build)
    monkeypatch.setattr("crfrnn._checks.number", lambda tensor: None)
    whole = filters._new_band(*build)
    margin = (whole.shape[1] - band.shape[1]) // 2
    padded = torch.nn.functional.pad(band, (margin, margin))
    torch.testing.assert_close(whole, padded, rtol=1e-12, atol=0)
    weights = torch.randn_like(whole)
    gradients = [
        torch.autograd.grad((weights * taps).sum(), bandwidth, retain_graph=True)[0]
        for taps in (whole, padded)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


@pytest.mark.traced
@pytest.mark.usefixtures("bare_classes")
@pytest.mark.filterwarnings(  # torch's own, before 2.8
    "ignore:Attempted to insert a get_attr Node:UserWarning",
    "ignore:.*does not reference an nn.Module:UserWarning",
)
def test_exports_with_any_batch_and_size() -> None:
    made = layer().eval()
    logits, image = (value.detach() for value in inputs())
    shape = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    with torch.no_grad():
        program = torch.export.export(made, (logits, image), dynamic_shapes=(shape, shape))
        for batch, size in ((2, (9, 11)), (1, (5, 7)), (3, (8, 6))):
            args = inputs(batch, size)
            torch.testing.assert_close(program.module()(*args), made(*args), **CLOSE)
