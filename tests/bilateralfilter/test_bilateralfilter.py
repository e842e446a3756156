"""`bilateralfilter`: against the Gaussian sum, and what the losses that import it do with it."""

from pathlib import Path

import numpy as np
import pytest

from crfrnn import Lattice, bilateralfilter
from tests.cases import needs_torch, torch

ROOT = Path(__file__).parents[2]

SIZE = (7, 11)
MAPS = 4


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    image = random.random((2, 3, *SIZE), np.float32) * 255
    return image, random.random((2, MAPS, *SIZE), np.float32)


def features(image: np.ndarray, sigma_rgb: float, sigma_xy: float) -> np.ndarray:
    """(N, 5): x, y, red, green, blue, in bandwidths."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    place = np.stack([x, y]).reshape(2, -1) / sigma_xy
    return np.concatenate([place, image.reshape(3, -1) / sigma_rgb]).T


@pytest.mark.parametrize("sigmas", [(60.0, 8.0), (15.0, 100.0)])
def test_the_unnormalized_lattice_of_position_and_color(sigmas: tuple[float, float]) -> None:
    images, maps = scene()
    out = np.full(maps.size, np.nan, np.float32)
    bilateralfilter.bilateralfilter_batch(
        images.flatten(), maps.flatten(), out, 2, MAPS, *SIZE, *sigmas
    )
    for image, values, found in zip(images, maps, out.reshape(maps.shape), strict=True):
        points = features(image, *sigmas).astype(np.float32)
        expected = Lattice(points).filter(values.reshape(MAPS, -1).T)
        np.testing.assert_allclose(found.reshape(MAPS, -1).T, expected, rtol=1e-5, atol=1e-6)
        single = np.zeros(values.size, np.float32)
        bilateralfilter.bilateralfilter(image.flatten(), values.flatten(), single, *SIZE, *sigmas)
        np.testing.assert_array_equal(single, found.flatten())


def test_the_original_gives_the_same() -> None:
    """Results of the extension of meng-tang/rloss, compiled from its sources, without SWIG."""
    with np.load(ROOT / "tests" / "golden" / "bilateralfilter.npz") as golden:
        images, probs = golden["images"], golden["probs"]
        for sigma_rgb, sigma_xy, expected in zip(
            golden["sigma_rgb"].tolist(),
            golden["sigma_xy"].tolist(),
            golden["filtered"],
            strict=True,
        ):
            out = np.zeros(probs.size, np.float32)
            bilateralfilter.bilateralfilter_batch(
                images.flatten(), probs.flatten(), out, *probs.shape, sigma_rgb, sigma_xy
            )
            np.testing.assert_allclose(out.reshape(probs.shape), expected, rtol=1e-4)


def test_smooth_points_give_the_gaussian_sum_but_for_the_gain() -> None:
    """On a smooth image the lattice is near the sum; its gain is the same everywhere."""
    ramp = np.broadcast_to(np.linspace(0, 60, SIZE[1]), (3, *SIZE)).astype(np.float32)
    _, maps = scene()
    out = np.zeros(maps[0].size, np.float32)
    bilateralfilter.bilateralfilter(ramp.flatten(), maps[0].flatten(), out, *SIZE, 40.0, 12.0)
    points = features(ramp, 40.0, 12.0)
    weights = np.exp(-0.5 * ((points[:, None] - points) ** 2).sum(-1))
    expected = weights @ maps[0].reshape(MAPS, -1).T
    ratio = out.reshape(MAPS, -1).T / expected
    assert 0.4 < ratio.mean() < 1
    assert ratio.std() / ratio.mean() < 0.15


@needs_torch
@pytest.mark.parametrize("inside", [False, True])
def test_a_loss_that_calls_it_has_the_value_and_gradient_of_the_dense_sum(inside: bool) -> None:
    """-S·A S / N, whose gradient programs take to be -2 A S / N, as if A were symmetric."""
    images, maps = scene()
    sigma_rgb, sigma_xy = 60.0, 8.0
    probs = torch.from_numpy(maps).double().softmax(1)
    roi = torch.ones(2, 1, *SIZE, dtype=torch.float64)
    if inside:
        roi[..., :4] = 0

    class Energy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, image, s):
            flat = (s * roi).float().numpy().flatten()
            filtered = np.zeros(flat.shape, dtype=np.float32)
            bilateralfilter.bilateralfilter_batch(
                image.flatten(), flat, filtered, *s.shape, sigma_rgb, sigma_xy
            )
            ctx.filtered = torch.from_numpy(filtered.reshape(s.shape))
            return torch.tensor([-np.dot(flat, filtered) / len(s)])

        @staticmethod
        def backward(ctx, grad):
            return None, (-2 * grad * ctx.filtered / len(ctx.filtered)) * roi

    s = probs.clone().requires_grad_()
    value = Energy.apply(images, s)
    value.backward()
    expected, matrices = 0.0, []
    for image, q in zip(images, (probs * roi).numpy(), strict=True):
        lattice = Lattice(features(image, sigma_rgb, sigma_xy))
        matrix = lattice.filter(np.eye(SIZE[0] * SIZE[1]))  # the dense N x N matrix
        flat = q.reshape(MAPS, -1)
        expected -= np.einsum("ci,ij,cj->", flat, matrix, flat) / 2
        matrices.append(matrix)
    np.testing.assert_allclose(float(value.detach()[0]), expected, rtol=1e-5)
    for matrix, q, slope, mask in zip(
        matrices, (probs * roi).numpy(), s.grad.numpy(), roi.numpy(), strict=True
    ):
        flat = q.reshape(MAPS, -1)
        got = slope.reshape(MAPS, -1)
        inner = mask.reshape(1, -1)
        np.testing.assert_allclose(got, -(flat @ matrix.T) * inner, rtol=1e-4, atol=1e-6)
        # The derivative of the value itself: the lattice's blurs commute only nearly.
        exact = -(flat @ (matrix + matrix.T)) / 2 * inner
        cosine = (got * exact).sum() / np.linalg.norm(got) / np.linalg.norm(exact)
        assert cosine > 0.99


def test_whatever_numpy_reads_goes_in() -> None:
    images, maps = scene()
    arguments = (2, MAPS, *SIZE, 30, 10)
    first = np.zeros(maps.size, np.float32)
    bilateralfilter.bilateralfilter_batch(images.flatten(), maps.flatten(), first, *arguments)
    second = np.zeros_like(maps)
    as_bytes = images.astype(np.float64)
    bilateralfilter.bilateralfilter_batch(as_bytes, maps.tolist(), second, *arguments)
    np.testing.assert_array_equal(second.flatten(), first)
    if torch is not None:
        third = np.zeros(maps.size, np.float32)
        bilateralfilter.bilateralfilter_batch(
            torch.from_numpy(images), torch.from_numpy(maps), third, *arguments
        )
        np.testing.assert_array_equal(third, first)


def call(images=None, ins=None, outs=None, size=(2, MAPS, *SIZE), sigmas=(15.0, 50.0)) -> None:
    photographs, maps = scene()
    bilateralfilter.bilateralfilter_batch(
        photographs if images is None else images,
        maps if ins is None else ins,
        np.zeros(maps.size, np.float32) if outs is None else outs,
        *size,
        *sigmas,
    )


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"outs": np.zeros(2 * MAPS * 77)}, TypeError, "float32 NumPy array.*got a float64 array"),
        ({"outs": [0.0]}, TypeError, "out must be a C-contiguous float32 NumPy array.*got a list"),
        ({"outs": np.zeros(616 * 2, np.float32)[::2]}, TypeError, "C-contiguous"),
        ({"outs": np.zeros(5, np.float32)}, ValueError, "out has 5 numbers for 616 of the input"),
        ({"images": np.zeros(77)}, ValueError, r"image has 77 numbers; 2 x 3 x 7 x 11 were exp"),
        ({"ins": np.zeros(77)}, ValueError, r"in has 77 numbers; 2 x 4 x 7 x 11 were expected"),
        ({"ins": np.full(616, np.nan)}, ValueError, "in must be finite"),
        ({"size": (2, 0, *SIZE)}, ValueError, "K must be at least 1"),
        ({"sigmas": (0.0, 50.0)}, ValueError, "color is a standard deviation and must be positive"),
    ],
)
def test_bad_input_is_named(arguments, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(**arguments)
