"""CRFRNN: what it computes, what it learns, what it stores, what it refuses."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crfrnn import (
    CRFRNN,
    Bilateral,
    FeatureGaussian,
    Gaussian,
    Lattice,
    Step,
    free_energy,
    mean_field,
)
from crfrnn.core.inference import Options
from crfrnn.crf.frank_wolfe import frank_wolfe
from tests.cases import ENGINES

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def inputs(
    classes: int, size: tuple[int, ...], batch: int = 2, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    logits = torch.randn(batch, classes, *size, dtype=dtype)
    return logits, torch.rand(batch, 3, *size, dtype=dtype) * 255


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm().clamp_min(1e-12))


# The fused operator against Algorithm 1


@pytest.mark.filterwarnings("ignore:a CRF with one class")
@pytest.mark.parametrize("iterations", [0, 1, 5, 10])
@pytest.mark.parametrize("classes", [1, 2, 21, 150])
@pytest.mark.parametrize("engine", ENGINES)
def test_fused_equals_plain(engine: str, classes: int, iterations: int) -> None:
    size = (7, 11) if classes < 100 else (5, 7)
    logits, image = inputs(classes, size)
    logits.requires_grad_()
    kernels = [Bilateral(30, 40, weight=2.0), Gaussian(2, weight=1.0)]
    made = CRFRNN(classes, kernels, iterations=iterations, engine=engine)
    upstream = torch.randn_like(logits)
    filters = made.prepare(image).filters
    weights, penalty = made.kernel_weights, made.penalty()
    plain = mean_field(-logits, filters, weights, penalty, iterations)
    fused = made(logits, image)
    torch.testing.assert_close(fused, plain, **CLOSE)
    wanted = (logits, weights, penalty) if iterations else (logits,)
    expected = torch.autograd.grad(plain, wanted, upstream)
    got = torch.autograd.grad(fused, wanted, upstream)
    for one, other in zip(got, expected, strict=True):
        assert relative(one, other) <= 1e-4 or other.norm() < 1e-5  # C = 1 has no gradient


@pytest.mark.parametrize("engine", ENGINES)
def test_exact_filter_gives_the_gradient_of_the_dense_kernel(engine: str) -> None:
    size, classes = (11, 13), 5
    logits, image = inputs(classes, size, batch=1)
    labels = torch.randint(classes, (1, *size))
    made = CRFRNN(
        classes, [Bilateral(20, 30, 5.0), Gaussian(3, 3.0)], filter="exact", engine=engine
    )

    def dense(points: Tensor) -> Any:
        kernel = torch.exp(-0.5 * torch.cdist(points, points) ** 2)
        scale = kernel.sum(1).rsqrt()
        kernel = scale[:, None] * kernel * scale
        return lambda q: (q.flatten(2) @ kernel).view(q.shape)

    y, x = torch.meshgrid(*(torch.arange(n).double() for n in size), indexing="ij")
    position = torch.stack([x, y], -1).flatten(0, 1)
    color = image[0].double().flatten(1).T
    filters = [dense(torch.cat([position / 20, color / 30], 1)), dense(position / 3)]
    unary = -logits.double().requires_grad_()
    weights = torch.tensor([[5.0], [3.0]]).expand(2, classes).double()
    z = mean_field(unary, filters, weights, 1 - torch.eye(classes).double(), 5)
    (expected,) = torch.autograd.grad(torch.nn.functional.cross_entropy(z, labels), unary)
    logits.requires_grad_()
    loss = torch.nn.functional.cross_entropy(made(logits, image), labels)
    (got,) = torch.autograd.grad(loss, logits)
    cosine = torch.nn.functional.cosine_similarity(got.double().flatten(), -expected.flatten(), 0)
    assert cosine >= 0.99999


@pytest.mark.parametrize("size", [(13,), (5, 7), (3, 4, 5)], ids=["1-D", "2-D", "3-D"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_dimension_and_image(size: tuple[int, ...], channels: int) -> None:
    logits = torch.randn(2, 3, *size)
    image = torch.randint(256, (2, channels, *size), dtype=torch.uint8)
    made = CRFRNN(3)
    z = made(logits, image)
    each = [made(logits[b, None], image[b, None]) for b in range(2)]  # the batch does not mix
    torch.testing.assert_close(z, torch.cat(each), **CLOSE)
    torch.testing.assert_close(z, made(logits, image.float()), rtol=0, atol=0)


def test_a_masked_pixel_takes_no_part_and_keeps_its_logits() -> None:
    logits, image = inputs(3, (6, 8))
    mask = torch.ones(2, 6, 8, dtype=torch.bool)
    mask[:, :, 6:] = False
    made = CRFRNN(3)
    z = made(logits, image, mask=mask)
    torch.testing.assert_close(z[..., 6:], logits[..., 6:], rtol=0, atol=0)
    other = logits.clone()
    other[..., 6:] = 9 * torch.randn(2, 3, 6, 2)
    torch.testing.assert_close(made(other, image, mask=mask)[..., :6], z[..., :6], **CLOSE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize(
    "step",
    [
        Step(),
        Step("l2"),
        Step(strength=2.0),
        Step("l2", mix=0.5),
        Step("l2", size=0.5),
        Step(learn=True),
    ],
    ids=str,
)
def test_no_step_moves_a_masked_pixel(step: Step, trace: bool, engine: str) -> None:
    logits, image = inputs(3, (6, 8))
    logits.requires_grad_()
    mask = torch.ones(2, 6, 8, dtype=torch.bool)
    mask[:, :, 6:] = False
    made = CRFRNN(3, step=step, engine=engine)
    prepared = made.prepare(image, mask=mask)
    done = made.infer(logits, prepared, iterations=3, trace=trace)
    torch.testing.assert_close(done.logits[..., 6:], logits[..., 6:], rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(done.logits[..., 6:].sum(), logits)
    torch.testing.assert_close(gradient[..., 6:], torch.ones(2, 3, 6, 2), rtol=0, atol=0)
    alone = made.infer(logits[..., :6], image[..., :6], iterations=3)
    torch.testing.assert_close(done.logits[..., :6], alone.logits, **CLOSE)


def test_iterations_of_training_and_evaluation() -> None:
    logits, image = inputs(3, (5, 7))
    made = CRFRNN(3, iterations=2, eval_iterations=4)
    filters = made.prepare(image).filters
    for mode, steps in ((True, 2), (False, 4)):
        expected = mean_field(-logits, filters, made.kernel_weights, made.penalty(), steps)
        torch.testing.assert_close(made.train(mode)(logits, image), expected, **CLOSE)


@pytest.mark.parametrize("weights", ["scalar", "class", "matrix"])
@pytest.mark.parametrize("learn", [False, True])
def test_all_forms_of_the_start_are_the_same_model(weights: str, learn: bool) -> None:
    logits, image = inputs(4, (5, 7))
    made = CRFRNN(4, weights=weights, learn_compatibility=learn)
    shapes = {"scalar": (2,), "class": (2, 4), "matrix": (2, 4, 4)}
    assert made.kernel_weights.shape == shapes[weights]
    assert (made.compatibility is None) == (not learn)
    torch.testing.assert_close(made(logits, image), CRFRNN(4)(logits, image), **CLOSE)


def test_prepared_filters_serve_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, image = inputs(3, (6, 7))
    made = CRFRNN(3)
    expected = made(logits, image)
    prepared = made.prepare(image)
    built = []
    monkeypatch.setattr(Lattice, "__init__", lambda *_, **__: built.append(1))
    torch.testing.assert_close(made(logits, prepared), expected, rtol=0, atol=0)
    made(logits + 1, prepared)
    assert not built


def change(log_bandwidths: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in log_bandwidths.parameters():
            parameter += 0.5


@pytest.mark.parametrize(
    "alter",
    [
        lambda made: change(made.log_bandwidths),
        lambda made: made.log_bandwidths[0]["color"].data.add_(1),
        lambda made: made.load_state_dict(
            CRFRNN(2, [Bilateral(4, 9)], learn_bandwidths=True).state_dict()
        ),
    ],
    ids=["in place", "data", "state"],
)
def test_filters_of_other_bandwidths_are_refused(alter: Any) -> None:
    logits, image = inputs(2, (5, 7))
    made = CRFRNN(2, [Bilateral(5, 20)], learn_bandwidths=True).eval()
    prepared = made.prepare(image)
    other = copy.deepcopy(made)
    expected = made(logits, image)
    torch.testing.assert_close(made(logits, prepared), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other(logits, prepared), expected, rtol=1e-4, atol=1e-5)
    alter(other)
    with pytest.raises(ValueError, match=r"have other bandwidths.*Prepare the image again"):
        other(logits, prepared)
    alter(made)
    with pytest.raises(ValueError, match="have other bandwidths"):
        made(logits, prepared)
    made(logits, made.prepare(image))
    made.reset_parameters()
    made(logits, prepared)
    with pytest.raises(ValueError, match="have other bandwidths"):
        CRFRNN(2, [Bilateral(5, 20)])(logits, prepared)


def test_prepared_filters_do_not_train_bandwidths() -> None:
    logits, image = inputs(2, (5, 7))
    made = CRFRNN(2, [Bilateral(5, 20)], learn_bandwidths=True).eval()
    prepared = made.prepare(image)
    made.train()
    with pytest.raises(ValueError, match=r"no gradient reaches bandwidths.*the image itself"):
        made(logits, prepared)
    with torch.no_grad():
        made(logits, prepared)
    assert made.log_bandwidths is not None
    made.log_bandwidths.requires_grad_(False)
    made(logits, prepared)


# Learning


def test_parameters_have_the_documented_names() -> None:
    kernels = [Bilateral((4, 5), 9), FeatureGaussian(bandwidth=2.0, position=3.0), Gaussian(2)]
    made = CRFRNN(3, kernels, learn_bandwidths=True, step=Step(learn=True))
    assert {name: tuple(p.shape) for name, p in made.named_parameters()} == {
        "kernel_weights": (3, 3),
        "compatibility": (3, 3),
        "step_strength": (),
        "step_size": (),
        "log_bandwidths.0.position": (2,),
        "log_bandwidths.0.color": (),
        "log_bandwidths.1.bandwidth": (),
        "log_bandwidths.1.position": (),
        "log_bandwidths.2.position": (),
    }
    assert [str(k).split("(")[0] for k in made.current_kernels()] == [
        "Bilateral",
        "FeatureGaussian",
        "Gaussian",
    ]
    assert made.current_kernels()[0].position == pytest.approx((4, 5))
    groups = {g["name"]: g["lr"] for g in made.parameter_groups(2.0, weights=10, others=3)}
    assert groups == {"crf.kernel_weights": 20, "crf.compatibility": 2, "crf.others": 6}
    torch.optim.SGD(made.parameter_groups(0.1))


def test_a_start_with_learned_bandwidths_is_the_fixed_model() -> None:
    logits, image = inputs(3, (6, 7))
    kernels = [Bilateral((5, 9), (20, 30, 40)), Gaussian((2, 3)), Gaussian((4, 3), lattice=True)]
    for normalization in ("symmetric", "after", "before", "none"):
        fixed = CRFRNN(3, kernels, normalization=normalization)
        learned = CRFRNN(3, kernels, normalization=normalization, learn_bandwidths=True)
        torch.testing.assert_close(
            learned(logits, image), fixed(logits, image), rtol=1e-4, atol=1e-4
        )


def test_training_lowers_the_loss() -> None:
    logits, image = inputs(3, (6, 7))
    labels = torch.randint(3, (2, 6, 7))
    made = CRFRNN(3, learn_bandwidths=True, weights="matrix")
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(made(logits, image), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# Types and devices


@pytest.mark.parametrize(
    "given",
    [
        [[0.0, 1.0], [1.0, 0.0]],
        np.array([[0.0, 1.0], [1.0, 0.0]]),
        torch.tensor([[0.0, 1.0], [1.0, 0.0]]).half(),
    ],
    ids=["lists", "double", "half"],
)
def test_parameters_have_the_default_type(given: Any) -> None:
    def types() -> set[torch.dtype]:
        made = CRFRNN(2, compatibility=given, learn_bandwidths=True, step=Step(learn=True))
        fixed = CRFRNN(2, compatibility=given, learn_compatibility=False)
        return {value.dtype for value in [*made.parameters(), *fixed.state_dict().values()]}

    assert types() == {torch.float32}
    torch.set_default_dtype(torch.float64)
    try:
        assert types() == {torch.float64}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("weights", ["scalar", "class", "matrix"])
@pytest.mark.parametrize("compatibility", ["potts", torch.rand(2, 2)], ids=["potts", "matrix"])
def test_the_default_device_is_followed(compatibility: Any, weights: Any) -> None:
    options = {"compatibility": compatibility, "weights": weights, "learn_bandwidths": True}
    with torch.device("meta"):
        made = CRFRNN(2, **options, step=Step(learn=True))
    assert all(parameter.is_meta for parameter in made.parameters())
    made.to_empty(device="cpu").reset_parameters()
    expected = CRFRNN(2, **options, step=Step(learn=True)).state_dict()
    for name, value in made.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"filter": "exact"},
        {"step": Step("l2", mix=0.5)},
        {"step": Step(learn="strength", size=0.5)},
        {"tol": 0.01},
        {"learn_bandwidths": True},
        {"independent": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("engine", ENGINES)
def test_data_may_lie_beside_the_default_device(engine: Any, options: dict[str, Any]) -> None:
    logits, image = inputs(3, (5, 7))
    made = CRFRNN(3, engine=engine, **options)
    for training in (True, False):
        made.train(training)
        expected = made(logits, image)
        with torch.device("meta"):
            got = made(logits, image)
            got.square().mean().backward()
            with torch.no_grad():
                alone = made(logits, image)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
        torch.testing.assert_close(alone, expected, **CLOSE)


# Storing, and starting anew


def made_with(index: int) -> CRFRNN:
    """One of five layers that differ in all that they learn and store."""
    options: dict[str, Any] = [
        {},
        {"weights": "matrix", "learn_bandwidths": True, "tol": 0.01},
        {"compatibility": torch.rand(3, 3), "learn_compatibility": False, "filter": "exact"},
        {
            "step": Step("l2", size=0.5, learn=True, mix=0.5),
            "kernels": [Gaussian((2, 3), (1, 2, 3))],
        },
        {"step": Step("l2", size=0.5, learn="strength")},
    ][index]
    return CRFRNN(3, **options).eval()


def train_at_random(layer: CRFRNN) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 + torch.rand_like(parameter)


@pytest.mark.parametrize("index", range(5))
def test_saved_layers_come_back_the_same(index: int, tmp_path: Path) -> None:
    logits, image = inputs(3, (5, 7))
    made = made_with(index)
    train_at_random(made)
    made.save_pretrained(tmp_path / "layer")
    assert sorted(p.name for p in (tmp_path / "layer").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    json.loads((tmp_path / "layer" / "config.json").read_text())
    again = CRFRNN.from_pretrained(tmp_path / "layer")
    assert str(again) == str(made)
    torch.testing.assert_close(again(logits, image), made(logits, image), rtol=0, atol=0)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("index", range(5))
def test_reset_parameters_forgets_what_was_learned(
    index: int, stored: bool, tmp_path: Path
) -> None:
    made = made_with(index)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    train_at_random(made)
    if stored:
        made.save_pretrained(tmp_path / "layer")
        made = CRFRNN.from_pretrained(tmp_path / "layer")
    for name, parameter in made.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    held = dict(made.named_parameters())
    made.reset_parameters()
    assert all(held[name] is parameter for name, parameter in made.named_parameters())
    after = made.state_dict()
    assert after.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)


def test_a_learned_compatibility_starts_from_the_one_given() -> None:
    given = torch.rand(3, 3)
    made = CRFRNN(3, compatibility=given)
    start = given.clone()
    train_at_random(made)
    given += 1  # it is the caller's own
    made.reset_parameters()
    assert torch.equal(made.penalty(), start)


@pytest.mark.parametrize("index", range(5))
def test_a_layer_made_without_memory_is_filled_later(index: int) -> None:
    torch.manual_seed(0)
    expected = made_with(index).state_dict()
    torch.manual_seed(0)
    made = made_with(index).to("meta").to_empty(device="cpu")
    made.reset_parameters()
    for name, value in made.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_published_weights_are_forgotten_too() -> None:
    state = dict.fromkeys(
        ("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix"), torch.rand(4, 4)
    )
    made = CRFRNN.from_crfasrnn(state)
    assert torch.equal(made.penalty(), -state["compatibility_matrix"])
    made.reset_parameters()
    assert torch.equal(made.penalty(), 1 - torch.eye(4))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config.json; expected a directory"):
        CRFRNN.from_pretrained(tmp_path)


def published(image: Tensor, logits: Tensor, state: dict[str, Tensor], iterations: int) -> Tensor:
    """The forward of the CrfRnn module of sadeepj/crfasrnn_pytorch, for (C, H, W), by its maths."""
    classes, height, width = logits.shape
    x = torch.arange(width, dtype=torch.float32).repeat(height, 1)
    y = torch.arange(height, dtype=torch.float32).view(-1, 1).repeat(1, width)
    near = torch.stack([x / 3.0, y / 3.0], dim=2).view(-1, 2)
    far = torch.cat([torch.stack([x / 160.0, y / 160.0], 2), (image / 3.0).permute(1, 2, 0)], dim=2)

    def filtered(points: Tensor, q: Tensor) -> Tensor:
        lattice = Lattice(points)
        norm = lattice.filter(torch.ones(len(points), 1))[:, 0]
        return lattice.filter(q.view(classes, -1).T.contiguous()).T / (norm + 1e-20)

    current = logits
    for _ in range(iterations):
        q = torch.softmax(current, dim=0)
        spatial = torch.mm(state["spatial_ker_weights"], filtered(near, q))
        bilateral = torch.mm(state["bilateral_ker_weights"], filtered(far.view(-1, 5), q))
        message = torch.mm(state["compatibility_matrix"], spatial + bilateral)
        current = message.view(logits.shape) + logits
    return current


@pytest.mark.parametrize("prefix", ["", "crfrnn."])
def test_published_weights_give_the_published_layer(prefix: str, tmp_path: Path) -> None:
    classes = 5
    state = {
        "spatial_ker_weights": 3 * torch.eye(classes) + 0.2 * torch.rand(classes, classes),
        "bilateral_ker_weights": 5 * torch.eye(classes) + 0.2 * torch.rand(classes, classes),
        "compatibility_matrix": torch.eye(classes) + 0.1 * torch.rand(classes, classes),
    }
    logits, image = inputs(classes, (9, 12), batch=1)
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "crf.pth")
    made = CRFRNN.from_crfasrnn(tmp_path / "crf.pth")
    for mode, iterations in ((True, 5), (False, 10)):
        expected = published(image[0], logits[0], state, iterations)
        got = made.train(mode)(logits, image)[0]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


def test_published_weights_may_be_arrays() -> None:
    state = dict.fromkeys(
        ("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix"), torch.rand(4, 4)
    )
    arrays = {name: value.numpy() for name, value in state.items()}
    made, expected = CRFRNN.from_crfasrnn(arrays), CRFRNN.from_crfasrnn(state)
    assert torch.equal(made.kernel_weights, expected.kernel_weights)
    assert torch.equal(made.penalty(), expected.penalty())


def test_other_state_dicts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one bilateral_ker_weights.*got 0.*It has: x"):
        CRFRNN.from_crfasrnn({"x": torch.zeros(1)})


def test_presets() -> None:
    made = CRFRNN.from_preset("crfasrnn", 21)
    assert made.recipe.normalization == "after"
    assert (made.iterations, made.eval_iterations) == (5, 10)
    gentle = CRFRNN.from_preset("saliency", 2)
    assert (gentle.iterations, gentle.eval_iterations) == (1, 1)
    with pytest.raises(ValueError, match=r"unknown preset 'x'; expected one of: deeplab"):
        CRFRNN.from_preset("x", 21)


# Convergence


def brute_energy(unary: Tensor, q: Tensor, points: Tensor, weight: float, penalty: Tensor) -> float:
    """Expected energy - entropy, each pair of pixels once, by two loops."""
    n = len(points)
    total = float((q * unary).sum() + (q * q.log()).sum())
    for i in range(n):
        for j in range(i + 1):
            kernel = float(torch.exp(-0.5 * ((points[i] - points[j]) ** 2).sum()))
            share = 0.5 if i == j else 1.0
            total += share * weight * kernel * float(q[:, i] @ penalty @ q[:, j])
    return total


def test_free_energy_counts_each_pair_once() -> None:
    logits, _ = inputs(3, (2, 3), batch=1, dtype=torch.float64)
    penalty = torch.rand(3, 3)  # a layer is made in torch's default type
    penalty = (penalty + penalty.T).double()
    made = CRFRNN(3, [Gaussian(1.3, 2.0)], filter="exact", normalization="none",
                  compatibility=penalty, weights="scalar").double()  # fmt: skip
    filters = made.prepare(torch.zeros(1, 1, 2, 3), dtype=torch.float64).filters
    q = logits.softmax(1)
    got = free_energy(-logits, q, filters, made.kernel_weights, made.penalty())
    points = torch.tensor([(x, y) for y in range(2) for x in range(3)]).double() / 1.3
    expected = brute_energy(-logits[0].flatten(1), q[0].flatten(1), points, 2.0, penalty)
    assert got.item() == pytest.approx(expected, rel=1e-9)


def test_energy_falls_at_every_step_and_tol_stops_each_image_by_itself() -> None:
    logits, image = inputs(3, (8, 9))
    logits[1] *= 20  # decided from the start
    made = CRFRNN(3, [Bilateral(20, 30, 2.0), Gaussian(2, 1.0)], eval_iterations=30).eval()
    traced = made.infer(logits, image, trace=True)
    assert traced.energy is not None
    assert traced.energy.shape == (31, 2)
    falls = -traced.energy.detach().diff(dim=0)
    assert (falls >= -1e-5 * traced.energy.detach().abs()[1:]).all()  # float32 sums
    assert traced.steps.tolist() == [30, 30]
    with torch.no_grad():
        stopped = made.infer(logits, image, tol=1e-3)
        assert stopped.steps[1] < stopped.steps[0] < 30
        q, whole = stopped.logits.softmax(1), made(logits, image).softmax(1)
    assert (q - whole).abs().mean() < 1e-2  # what later steps would still add up to
    made.tol = 1e-3
    with torch.no_grad():
        torch.testing.assert_close(made(logits, image), stopped.logits, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_recurrence_stops_at_the_same_step(
    engine: str,
) -> None:
    logits, image = inputs(3, (8, 9))
    logits[1] *= 20
    kernels = [Bilateral(20, 30, 2.0), Gaussian(2, 1.0)]
    made = CRFRNN(3, kernels, eval_iterations=30, tol=1e-3, engine=engine).eval()
    with torch.no_grad():
        fused = made.infer(logits, image)
    plain = made.infer(logits, image)  # with gradients the plain recurrence runs
    assert plain.steps.tolist() == fused.steps.tolist()
    torch.testing.assert_close(plain.logits, fused.logits, rtol=1e-4, atol=1e-4)


def test_the_guard_calms_a_repulsive_model() -> None:
    logits = 0.1 * torch.randn(1, 2, 12, 12)
    made = CRFRNN(2, [Gaussian(1.0, -12.0)], eval_iterations=60).eval()
    prepared = made.prepare(torch.zeros(1, 1, 12, 12))

    def change(steps: int, **options: Any) -> float:
        runs = [made.infer(logits, prepared, iterations=n, **options) for n in (steps, steps + 1)]
        first, second = (run.logits.softmax(1) for run in runs)
        return float((first - second).detach().abs().mean())

    assert change(59) > 0.1
    assert change(59, tol=1e-9) < 1e-2


# Other steps


def test_a_step_next_to_the_default_one_is_mean_field() -> None:
    logits, image = inputs(4, (5, 7))
    made = CRFRNN(4)
    filters, weights = made.prepare(image).filters, made.kernel_weights
    expected = mean_field(-logits, filters, weights, made.penalty(), 5)
    stepped = CRFRNN(4, step=Step(strength=1.0, size=1 - 1e-7))
    z = stepped(logits, image)  # up to a constant per pixel
    torch.testing.assert_close(z.log_softmax(1), expected.log_softmax(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("regularizer", ["entropy", "l2"])
def test_steps_solve_their_subproblem(regularizer: str) -> None:
    """Each target maximises ⟨z, s⟩ - λ r(s): no random distribution does better."""
    logits = torch.randn(1, 4, 3, dtype=torch.float64)
    strength = 0.7
    step = Step(regularizer, strength=strength)
    done = frank_wolfe(logits, torch.zeros_like, Options(1), step)
    s = done.logits.softmax(1)

    def objective(s: Tensor) -> Tensor:
        r = torch.xlogy(s, s) if regularizer == "entropy" else 0.5 * s**2
        return (logits * s - strength * r).sum(1)

    others = torch.distributions.Dirichlet(torch.ones(4).double()).sample((500, 3)).mT
    assert (objective(s) >= objective(others) - 1e-9).all()


def test_l2_steps_are_sparse_and_still_learn() -> None:
    logits, image = inputs(4, (5, 7))
    logits.requires_grad_()
    made = CRFRNN(4, step=Step("l2", strength=0.5, size=0.5, learn=True, mix=0.5))
    z = made(logits, image)
    labels = torch.randint(4, (2, 5, 7))
    torch.nn.functional.cross_entropy(z, labels).backward()
    for value in (logits, *made.parameters()):
        assert value.grad is not None
        assert torch.isfinite(value.grad).all()
        assert value.grad.abs().max() > 0
    sharp = CRFRNN(4, step=Step("l2"))(logits, image).softmax(1)
    assert (sharp < 1e-30).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regularizer": "x"}, "unknown regularizer 'x'; expected one of: entropy, l2"),
        ({"strength": 0}, "Step strength is a weight and must be positive"),
        ({"size": 1.5}, r"Step size must be in \(0, 1\]; got 1.5"),
        ({"mix": 1.0}, r"Step mix must be in \[0, 1\); got 1.0"),
    ],
)
def test_bad_steps(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Step(**options)


# Bad input


def bad(**changes: Any) -> dict[str, Any]:
    return {"logits": torch.zeros(2, 5, 6, 7), "image": torch.zeros(2, 3, 6, 7), **changes}


BAD = {
    "swapped": (
        bad(logits=torch.zeros(2, 3, 6, 7), image=torch.zeros(2, 5, 6, 7)),
        r"wrong order: got logits \(2, 3, 6, 7\), and an image \(2, 5, 6, 7\).*layer\(logits, im",
    ),
    "classes": (bad(logits=torch.zeros(2, 4, 6, 7)), r"num_classes = 5 channels; got.*\(2, 4, 6"),
    "rank": (bad(logits=torch.zeros(5, 6)), r"must be \(B, C, \*S\).*got \(5, 6\).*logits\[None\]"),
    "empty": (bad(logits=torch.zeros(2, 5, 0, 7)), "not empty"),
    "no batch": (bad(logits=torch.zeros(5, 6, 7)), r"like one image \(C, \*S\) of 5.*logits\[No"),
    "integers": (bad(logits=torch.zeros(2, 5, 6, 7).int()), r"floating point; got torch.int32"),
    "image rank": (bad(image=torch.zeros(3, 6, 7)), r"as many axes.*\(3, 6, 7\)"),
    "image batch": (bad(image=torch.zeros(1, 3, 6, 7)), "same batch and size.*one image per item"),
    "image size": (bad(image=torch.zeros(2, 3, 12, 14)), r"same batch and size.*Upsample the log"),
    "channels last": (bad(image=torch.zeros(2, 6, 7, 3)), r"movedim\(-1, 1\)"),
    "image type": (bad(image=torch.zeros(2, 3, 6, 7) > 0), r"must hold numbers.*torch.bool"),
    "image class": (bad(image="x"), r"image must be a torch tensor.*got str"),
    "image missing": (bad(image=None), "Bilateral kernel needs an image"),
    "image device": (bad(image=torch.zeros(2, 3, 6, 7, device="meta")), "on cpu but image on meta"),
    "mask type": (
        bad(mask=torch.ones(2, 6, 7)),
        r"mask must be bool.*float32.*labels != 255",
    ),
    "mask size": (bad(mask=torch.ones(2, 1, 6, 7) > 0), r"mask must be \(B, \*S\) = \(2, 6, 7\)"),
    "mask device": (bad(mask=torch.ones(2, 6, 7, device="meta") > 0), "mask on meta"),
    "image gradient": (bad(image=torch.zeros(2, 3, 6, 7).requires_grad_()), "image requires a gra"),
    "NaN in logits": (
        bad(logits=torch.zeros(2, 5, 6, 7).index_fill(1, torch.tensor(3), torch.nan)),
        r"logits must be finite; got 84 NaN.*index \(0, 3, 0, 0\).*half precision",
    ),
    "NaN in the image": (
        bad(image=torch.zeros(2, 3, 6, 7).index_fill(2, torch.tensor(1), torch.inf)),
        r"image must be finite; got 42 NaN.*index \(0, 0, 1, 0\)",
    ),
}


@pytest.mark.unchecked
@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_named(name: str) -> None:
    arguments, message = BAD[name]
    with pytest.raises((ValueError, TypeError), match="(?s)" + message) as error:
        CRFRNN(5)(**arguments)
    assert "crf" in str(error.value).lower() or "Bilateral" in str(error.value)


@pytest.mark.parametrize("name", ["kernel_weights", "compatibility", "log_bandwidths.0.color"])
def test_nan_in_a_parameter_is_named(name: str) -> None:
    made = CRFRNN(3, learn_bandwidths=True)
    with torch.no_grad():
        made.get_parameter(name).fill_(torch.nan)
    with pytest.raises(ValueError, match=f"parameter {name} is not finite.*lower the learning ra"):
        made(*inputs(3, (5, 7)))


@pytest.mark.unchecked
def test_prepared_filters_know_what_they_are_for() -> None:
    logits, image = inputs(3, (5, 7))
    made = CRFRNN(3)
    prepared = made.prepare(image)
    with pytest.raises(ValueError, match=r"batch and size.*Prepare the image again"):
        made(logits[:1], prepared)
    with pytest.raises(ValueError, match=r"need torch.float64"):
        made(logits.double(), prepared)
    with pytest.raises(ValueError, match="call prepare of this layer"):
        CRFRNN(3, normalization="after")(logits, prepared)
    with pytest.raises(ValueError, match="give mask and features to prepare"):
        made(logits, prepared, mask=torch.ones(2, 5, 7) > 0)
    with pytest.raises(ValueError, match=r"cannot be prepared; call layer.eval"):
        CRFRNN(3, learn_bandwidths=True).prepare(image)
    with pytest.raises(ValueError, match="prepare needs an image"):
        made.prepare(None)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"num_classes": 2.5}, "num_classes must be an integer"),
        ({"iterations": -1}, "iterations must not be negative"),
        ({"weights": "x"}, "unknown weights 'x'; expected one of: scalar, class, matrix"),
        ({"normalization": "x"}, "unknown normalization"),
        ({"filter": "x"}, "unknown filter"),
        ({"compatibility": "x"}, "unknown compatibility"),
        ({"compatibility": torch.zeros(2, 3)}, r"a matrix \(3, 3\).*got \(2, 3\)"),
        ({"kernels": [3]}, "kernels must be a list of Gaussian"),
        ({"kernels": [Gaussian(weight=(1, 2))]}, "weight has 2 numbers for 3 classes"),
        ({"kernels": [Gaussian(weight=(1, 2, 3))], "weights": "scalar"}, "one weight each"),
        ({"tol": -1}, "tol is a mean change and must be positive"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        CRFRNN(**{"num_classes": 3, **options})


def test_an_image_on_0_to_1_is_warned_of() -> None:
    logits, image = inputs(3, (5, 7))
    with pytest.warns(UserWarning, match="multiply an image on 0..1 by 255"):
        CRFRNN(3)(logits, image / 255)


def test_a_layer_on_another_device_is_said_to_be() -> None:
    with pytest.raises(ValueError, match=r"parameters are on meta but.*layer.to\('cpu'\)"):
        CRFRNN(5).to("meta")(**bad())


@pytest.mark.unchecked
def test_a_step_given_by_name_is_answered_with_what_to_type() -> None:
    with pytest.raises(TypeError, match=r'step must be a Step, such as Step\("l2"\); got \'l2\''):
        CRFRNN(3, step="l2")
    with pytest.raises(TypeError, match="step must be a Step"):
        CRFRNN(3, step=0.5)


@pytest.mark.unchecked
def test_empty_batches_are_refused_with_a_remedy_of_their_own() -> None:
    with pytest.raises(ValueError, match=r"not empty.*Skip empty batches"):
        CRFRNN(3)(torch.zeros(0, 3, 4, 5), torch.zeros(0, 3, 4, 5))
