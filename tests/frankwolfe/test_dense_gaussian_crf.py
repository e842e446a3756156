"""`DenseGaussianCRF`: against its formulas in float64, and what programs do with it."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crfrnn import CRFRNN
from crfrnn.frankwolfe import DenseGaussianCRF, FrankWolfeParams
from tests.cases import gaussian_matrix, pixels

SIZE = (7, 11)
CLASSES = 4

#: Bandwidths and weights, none of them a default.
OPTIONS = {
    "alpha": 5.0,
    "beta": 0.3,
    "gamma": 1.7,
    "spatial_weight": 0.9,
    "bilateral_weight": 2.1,
    "compatibility": 1.2,
}


def scene(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """An image on 0..1 and logits, in a batch of two."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, *SIZE, generator=generator, dtype=torch.float64)
    logits = torch.randn(2, CLASSES, *SIZE, generator=generator, dtype=torch.float64)
    return image.to(dtype), logits.to(dtype)


# --- The energy's updates by hand: no code is shared with the library. ---


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def nearest(z: np.ndarray) -> np.ndarray:
    """The point of the simplex nearest to each row, by trying every size of the support."""
    found = np.zeros_like(z)
    for row, to in zip(z, found, strict=True):
        order = np.argsort(-row)
        points = []
        for size in range(1, len(row) + 1):
            inside = order[:size]
            point = np.zeros_like(row)
            point[inside] = row[inside] - (row[inside].sum() - 1) / size
            if point.min() >= 0:
                points.append(point)
        to[:] = min(points, key=lambda point, row=row: ((row - point) ** 2).sum())
    return found


def marginals_by_hand(image: np.ndarray, logits: np.ndarray, params: Any, steps: int) -> np.ndarray:
    """Marginals (N, C) of one image (3 H W) and its logits (C H W); `params` None is mean field."""
    o = OPTIONS
    place, color = pixels(SIZE), image.reshape(3, -1).T
    u = logits.reshape(CLASSES, -1).T
    kernels = [
        (o["bilateral_weight"], np.concatenate([place / o["alpha"], color / o["beta"]], 1)),
        (o["spatial_weight"], place / o["gamma"]),
    ]
    filters = [(w, gaussian_matrix(f)) for w, f in kernels]
    filters = [(w, g / g.sum(1, keepdims=True)) for w, g in filters]
    start = q = softmax(u)
    for _ in range(steps):
        message = sum(w * (g @ q) for w, g in filters)
        # Potts: each label pays for the neighbors with all other labels.
        z = u - o["compatibility"] * (message.sum(1, keepdims=True) - message)
        if params is None:
            q = softmax(z)
            continue
        aim = (nearest if params.regularizer == "l2" else softmax)(z / params.lambda_)
        q = q + params.stepsize * (aim - q)
    mix = 0.0 if params is None else params.x0_weight
    return mix * start + (1 - mix) * q


PARAMS = [
    None,
    FrankWolfeParams(),
    FrankWolfeParams(regularizer="l2", x0_weight=0.0),
    FrankWolfeParams(regularizer="l2", lambda_=0.6, stepsize=0.7, x0_weight=0.2),
    FrankWolfeParams(regularizer="entropy", lambda_=1.4, stepsize=0.5, x0_weight=0.0),
]


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_the_updates_are_those_of_the_paper(params: FrankWolfeParams | None) -> None:
    image, logits = scene()
    solver = "mf" if params is None else "fw"
    crf = DenseGaussianCRF(
        CLASSES, **OPTIONS, solver=solver, iterations=4, params=params, filter="exact"
    ).double()
    z = crf(image, logits)
    assert z.shape == logits.shape
    assert z.dtype == logits.dtype
    for item in range(2):
        ours = z[item].detach().softmax(0).reshape(CLASSES, -1).T
        expected = marginals_by_hand(image[item].numpy(), logits[item].numpy(), params, 4)
        # The table of options is stored in single precision.
        torch.testing.assert_close(ours.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_lattice_is_near_the_formulas() -> None:
    image, logits = scene()
    params = FrankWolfeParams(x0_weight=0.0)
    exact, near = (
        DenseGaussianCRF(CLASSES, **OPTIONS, params=params, filter=filter, output_logits=False)
        for filter in ("exact", "lattice")
    )
    difference = (exact(image, logits) - near(image, logits)).abs().mean()
    assert 0 < difference < 0.05


def test_only_the_ratio_of_image_and_beta_counts() -> None:
    image, logits = scene()
    on_one = DenseGaussianCRF(CLASSES, **OPTIONS)
    on_bytes = DenseGaussianCRF(CLASSES, **{**OPTIONS, "beta": OPTIONS["beta"] * 255})
    torch.testing.assert_close(
        on_one(image, logits), on_bytes(image * 255, logits), rtol=1e-4, atol=1e-4
    )
    whole = (image * 255).round()
    as_bytes = on_bytes(whole.to(torch.uint8), logits)
    torch.testing.assert_close(as_bytes, on_bytes(whole, logits), rtol=1e-5, atol=1e-5)


def test_training_moves_weights_and_compatibility_and_is_stored() -> None:
    image, logits = scene(torch.float32)
    crf = DenseGaussianCRF(CLASSES, **OPTIONS)
    before = crf(image, logits).detach()
    optimizer = torch.optim.SGD(crf.parameters(), lr=0.1)
    network = logits.clone().requires_grad_()
    # Some clients pass the network's logits for the image, too.
    crf(network, network).pow(2).mean().backward()
    assert network.grad.abs().max() > 0
    optimizer.step()
    assert {name for name, _ in crf.named_parameters()} == {
        "layer.kernel_weights",
        "layer.compatibility",
    }
    after = crf(image, logits).detach()
    assert (after - before).abs().max() > 1e-4
    again = DenseGaussianCRF(CLASSES, **OPTIONS)
    again.load_state_dict(crf.state_dict())
    assert torch.equal(again(image, logits), after)
    assert torch.equal(copy.deepcopy(crf)(image, logits), after)


@pytest.mark.parametrize("stepsize", [1.0, 0.6])
def test_lambda_alone_is_learned(stepsize: float) -> None:
    image, logits = scene()
    made = [
        DenseGaussianCRF(
            CLASSES,
            **OPTIONS,
            params=FrankWolfeParams(stepsize=stepsize, lambda_=0.7, lambda_learnable=learnable),
        )
        for learnable in (True, False)
    ]
    learned, fixed = (crf(image, logits) for crf in made)
    torch.testing.assert_close(learned.softmax(1), fixed.softmax(1), rtol=1e-5, atol=1e-6)
    learned.log_softmax(1)[:, 0].mean().backward()
    assert made[0].layer.step_strength.grad.abs() > 0
    assert made[0].layer.step_size is None


def test_a_learned_lambda_is_stored_and_reset(tmp_path: Path) -> None:
    image, logits = scene()
    params = FrankWolfeParams(stepsize=1.0, lambda_=0.7, lambda_learnable=True)
    crf = DenseGaussianCRF(CLASSES, **OPTIONS, params=params)
    expected = crf(image, logits)
    crf.layer.save_pretrained(tmp_path)
    again = CRFRNN.from_pretrained(tmp_path)
    assert torch.equal(again(logits, features=[image]), expected)
    assert [name for name, _ in again.named_parameters()] == [
        name for name, _ in crf.layer.named_parameters()
    ]
    with torch.no_grad():
        crf.layer.step_strength.add_(1)
    assert not torch.equal(crf(image, logits), expected)
    crf.layer.reset_parameters()
    torch.testing.assert_close(crf(image, logits), expected, rtol=0, atol=0)


def test_can_be_made_without_memory() -> None:
    image, logits = scene()
    params = FrankWolfeParams(lambda_learnable=True)
    with torch.device("meta"):
        crf = DenseGaussianCRF(CLASSES, **OPTIONS, params=params)
    assert all(parameter.is_meta for parameter in crf.parameters())
    crf.to_empty(device="cpu").layer.reset_parameters()
    expected = DenseGaussianCRF(CLASSES, **OPTIONS, params=params)
    assert torch.equal(crf(image, logits), expected(image, logits))


def test_a_sharp_mask_from_a_coarse_one() -> None:
    """A band around a coarse boundary is left open, and the image decides."""
    truth = torch.zeros(64, 80, dtype=torch.bool)
    truth[16:48, 21:61] = True
    image = torch.where(truth, 0.8, 0.3).expand(1, 3, -1, -1) + 0.02 * torch.randn(1, 3, 64, 80)
    coarse = torch.zeros_like(truth)
    coarse[13:45, 24:64] = True
    mask = coarse.float()[None, None]
    grown = torch.nn.functional.max_pool2d(mask, 9, 1, 4)[0, 0] > 0
    shrunk = torch.nn.functional.max_pool2d(-mask, 9, 1, 4)[0, 0] < 0
    band = grown & ~shrunk
    chance = torch.where(band, 0.5, torch.where(shrunk, 0.95, 0.05))
    logits = torch.stack([-chance.logit(), chance.logit()])[None]
    params = FrankWolfeParams("fixed", 1.0, "l2", 1.0, False, 0.0, False)
    crf = DenseGaussianCRF(
        classes=2, alpha=8.0, beta=0.03, gamma=3.0, spatial_weight=3.0, bilateral_weight=20.0,
        compatibility=1.0, init="potts", solver="fw", iterations=10, params=params,
    ).to("cpu")  # fmt: skip
    with torch.no_grad():
        refined = crf(image.clamp(0, 1), logits)
    found = torch.where(band, refined[0, 1] > refined[0, 0], coarse)

    def iou(mask: Tensor) -> float:
        return float((mask & truth).sum() / (mask | truth).sum())

    assert iou(coarse) < 0.8
    assert iou(found) > 0.97


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"init": "random"}, ValueError, r"init must be 'potts'; got 'random'.*CRFRNN\(compat"),
        ({"solver": "admm"}, ValueError, "unknown DenseGaussianCRF: solver 'admm'; .*fw, mf"),
        ({"compatibility": torch.eye(4)}, TypeError, "compatibility must be a number.*Tensor"),
        ({"compatibility": float("nan")}, ValueError, "compatibility must be finite; got nan"),
        ({"params": {"stepsize": 1}}, TypeError, "params must be a FrankWolfeParams; got dict"),
        ({"ergodic": True}, TypeError, "ergodic: not supported; leave it out"),
        ({"alpha": 0}, ValueError, "alpha is a standard deviation and must be positive.*got 0"),
        ({"beta": -1.0}, ValueError, "beta is a standard deviation .*; got -1"),
        ({"classes": 0}, ValueError, "classes must be at least 1; got 0"),
        ({"iterations": -1}, ValueError, "iterations must not be negative; got -1"),
        ({"filter": "fast"}, ValueError, "unknown filter 'fast'"),
    ],
)
def test_bad_arguments(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DenseGaussianCRF(**{"classes": 4, **change})


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": "linesearch"}, "scheme must be 'fixed', a constant step; got 'linesearch'"),
        ({"x0_weight_learnable": True}, "x0_weight_learnable is not supported"),
        ({"regularizer": "l1"}, "unknown FrankWolfeParams: regularizer 'l1'; .* l2, entropy"),
        ({"lambda_": 0.0}, "lambda_ is a weight and must be positive"),
        ({"stepsize": 1.5}, r"stepsize must be in \(0, 1\]; got 1.5"),
        ({"x0_weight": 1.0}, r"x0_weight must be in \[0, 1\); got 1.0"),
    ],
)
def test_bad_parameters(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrankWolfeParams(**change)


@pytest.mark.unchecked
def test_bad_input() -> None:
    image, logits = scene()
    crf = DenseGaussianCRF(CLASSES)
    with pytest.raises(ValueError, match="the image comes first, crf"):
        crf(logits, image)
    with pytest.raises(TypeError, match="image must be a torch tensor; got ndarray"):
        crf(image.numpy(), logits)
    with pytest.raises(ValueError, match="must have the same batch and size"):
        crf(image[..., 1:], logits)
    with pytest.raises(ValueError, match=r"give image\[None\] and logits\[None\]"):
        crf(image[0], logits[0])
    with pytest.raises(ValueError, match="must be finite"):
        crf(image, logits / 0)
    assert isinstance(crf.layer, CRFRNN)
