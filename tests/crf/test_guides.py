"""What a kernel can look at besides color: maps of any resolution and width, points, time."""

import numpy as np
import pytest

from crfrnn import Bilateral, FeatureGaussian, Gaussian, refine
from crfrnn._resampling import interpolate, resample
from crfrnn.crf.projection import principal_components
from tests.cases import needs_core, needs_torch

try:
    import torch
except ModuleNotFoundError:
    torch = None

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(size=(3, 12, 18)).astype(np.float32)
EXACT = {"filter": "exact", "iterations": 4}


# --- Resolution. ---


@needs_torch
@pytest.mark.parametrize("size", [(12, 18), (7, 5), (3, 18), (25, 4), (1, 1)], ids=str)
def test_maps_are_interpolated_as_torch_does(size: tuple[int, int]) -> None:
    maps = RNG.normal(size=(2, 6, 9))
    options = {"size": size, "mode": "bilinear", "antialias": True}
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], **options)[0]
    np.testing.assert_allclose(resample(maps, size), expected.numpy(), atol=1e-12)
    torch.testing.assert_close(resample(torch.from_numpy(maps), size), expected)


def test_nothing_shifts_by_half_a_pixel() -> None:
    """The centers of a coarse ramp lie where the centers of the fine pixels say."""
    coarse = (np.arange(8.0) + 0.5) / 8
    fine = interpolate(coarse, 0, 40)
    np.testing.assert_allclose(fine[3:-3], (np.arange(40)[3:-3] + 0.5) / 40)
    np.testing.assert_allclose(interpolate(fine, 0, 8)[1:-1], coarse[1:-1])
    corners = interpolate(np.arange(8.0), 0, 36, align_corners=True)
    np.testing.assert_allclose(corners, np.arange(36) / 5)


@needs_torch
def test_the_gradient_of_resampling() -> None:
    maps = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    for size in [(5, 7), (2, 9)]:
        assert torch.autograd.gradcheck(lambda maps, size=size: resample(maps, size), maps)


@needs_core
@pytest.mark.parametrize("axes", ["FHW", "HWF", "HW"])
@pytest.mark.parametrize("cells", [(4, 6), (6, 6), (24, 36)], ids=str)
def test_a_map_of_another_resolution(axes: str, cells: tuple[int, int]) -> None:
    kernels = [FeatureGaussian(bandwidth=3.0, position=4, weight=2)]
    maps = RNG.normal(size=(1 if axes == "HW" else 23, *cells)).astype(np.float32)
    given = {"FHW": maps, "HWF": np.moveaxis(maps, 0, 2), "HW": maps[0]}[axes]
    ours = refine(None, logits=LOGITS, kernels=kernels, features=[given])
    fine = resample(maps, (12, 18))
    expected = refine(None, logits=LOGITS, kernels=kernels, features=[fine])
    assert np.array_equal(ours.probs, expected.probs)
    assert np.abs(ours.probs - refine(None, logits=LOGITS, kernels=[Gaussian()]).probs).max() > 0.01


@needs_torch
@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_the_layer_takes_a_map_of_another_resolution(engine: str) -> None:
    from crfrnn import CRFRNN

    kernels = [Bilateral(5, 40), FeatureGaussian(bandwidth=0.7, position=4, weight=2, components=2)]
    logits = torch.from_numpy(np.stack([LOGITS, -LOGITS]))
    maps, image = torch.randn(2, 5, 4, 6), torch.rand(2, 3, 12, 18) * 255
    layer = CRFRNN(3, kernels, engine=engine, filter="exact", feature_gradients=True)
    maps.requires_grad_()
    z = layer(logits, image, features=[maps])
    options = {"kernels": kernels, "iterations": 5, "filter": "exact"}
    both = refine(image, logits=logits, features=[maps.detach()], **options)
    torch.testing.assert_close(z.softmax(1), both.probs, atol=1e-5, rtol=0)
    z.square().sum().backward()
    assert maps.grad.abs().min() > 0
    with pytest.raises(ValueError, match=r"features\[0\] to the proportions of the logits"):
        layer(logits, image, features=[torch.zeros(2, 5, 4, 17)])


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((6, 4), "or a square"), ((5, 4, 17), "or a square"), ((6, 6, 6), "channels_last=True")],
)
def test_maps_that_fit_no_grid(shape: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        refine(None, logits=LOGITS, kernels=[FeatureGaussian()], features=[np.zeros(shape)])


@needs_core
def test_a_map_whose_axes_could_be_either_is_read_as_told() -> None:
    kernels = [FeatureGaussian(bandwidth=0.7, weight=2)]
    cube = RNG.normal(size=(6, 6, 6)).astype(np.float32)
    told = refine(None, logits=LOGITS, kernels=kernels, features=[cube], channels_last=False)
    fine = resample(cube, (12, 18))
    expected = refine(None, logits=LOGITS, kernels=kernels, features=[fine])
    assert np.array_equal(told.probs, expected.probs)


# --- Width. ---


def test_components_are_the_directions_of_largest_variance() -> None:
    maps = RNG.normal(size=(2, 9, 5, 7)) * np.arange(1, 10)[:, None, None]
    ours = principal_components(maps, 3).reshape(2, 3, -1)
    for item, found in zip(maps.reshape(2, 9, -1), ours, strict=True):
        values = np.linalg.svd(item - item.mean(1, keepdims=True), compute_uv=False)
        np.testing.assert_allclose(sorted((found**2).sum(1))[::-1], values[:3] ** 2)
    assert principal_components(maps, 9) is maps


@needs_core
def test_a_wide_map_of_few_dimensions_loses_nothing() -> None:
    """Distances of a map that varies in two directions only are those of its two components."""
    maps = np.einsum("fk,khw->fhw", RNG.normal(size=(40, 2)), RNG.normal(size=(2, 12, 18)))
    maps = (maps + RNG.normal(size=(40, 1, 1))).astype(np.float64)
    logits = LOGITS.astype(np.float64)
    full, few = (
        refine(
            None,
            logits=logits,
            kernels=[FeatureGaussian(bandwidth=6.0, position=5, weight=3, components=components)],
            features=[maps],
            **EXACT,
        ).probs
        for components in (None, 2)
    )
    np.testing.assert_allclose(few, full, atol=1e-9)


@needs_torch
def test_components_of_tensors_and_their_gradient() -> None:
    maps = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    ours = principal_components(maps, 2)
    np.testing.assert_allclose(
        ours.detach().numpy(), principal_components(maps.detach().numpy(), 2), atol=1e-12
    )
    upstream = torch.randn_like(ours)
    (gradient,) = torch.autograd.grad(ours, maps, upstream)
    flat = maps.detach().flatten(2)
    centered = flat - flat.mean(2, keepdim=True)
    directions = ours.detach().flatten(2) @ torch.linalg.pinv(centered)  # B 2 F
    expected = directions.mT @ upstream.flatten(2)
    expected -= expected.mean(2, keepdim=True)
    torch.testing.assert_close(gradient.flatten(2), expected)


def test_components_are_checked_and_stored() -> None:
    from crfrnn import Kernel

    with pytest.raises(ValueError, match="components must be at least 1"):
        FeatureGaussian(components=0)
    kernel = FeatureGaussian(bandwidth=2.0, components=4)
    assert Kernel.from_dict(kernel.to_dict()) == kernel
    assert Kernel.from_dict({"kind": "FeatureGaussian"}).components is None
    with pytest.raises(ValueError, match="bandwidth has 3 numbers for 2"):
        refine(
            None,
            logits=LOGITS,
            kernels=[FeatureGaussian(bandwidth=(1, 2, 3), components=2)],
            features=[RNG.normal(size=(5, 12, 18))],
        )


# --- Points and time. ---


@needs_core
@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_a_point_cloud_has_no_order(filter: str) -> None:
    points, scores = RNG.normal(size=(200, 3)), RNG.normal(size=(4, 200))
    order = RNG.permutation(200)
    kernels = [FeatureGaussian(bandwidth=0.4, weight=3)]
    options = {"kernels": kernels, "filter": filter}
    ours = refine(None, logits=scores, features=[points], **options).probs
    other = refine(None, logits=scores[:, order], features=[points[order]], **options).probs
    np.testing.assert_allclose(other, ours[:, order], atol=1e-12)


@needs_core
def test_a_point_cloud_by_the_formula() -> None:
    points, scores = RNG.normal(size=(60, 3)), RNG.normal(size=(4, 60))
    kernels = [FeatureGaussian(bandwidth=0.5, weight=2)]
    options = {"kernels": kernels, "normalization": "symmetric", **EXACT}
    ours = refine(None, logits=scores, features=[points], **options).probs
    kernel = np.exp(-2 * ((points[:, None] - points) ** 2).sum(2))
    scale = kernel.sum(1) ** -0.5
    z = scores
    for _ in range(4):
        q = np.exp(z) / np.exp(z).sum(0)
        z = scores + 2 * (q * scale) @ kernel * scale
    np.testing.assert_allclose(ours, np.exp(z) / np.exp(z).sum(0), atol=1e-7)


@needs_core
def test_time_is_an_axis_with_a_bandwidth_of_its_own() -> None:
    """With a tiny bandwidth of time, the frames of a video do not know each other."""
    video, scores = RNG.uniform(0, 255, (3, 7, 9, 3)), RNG.normal(size=(2, 3, 7, 9))
    alone = Bilateral(position=(6, 6, 1e-3), color=60, weight=4)
    ours = refine(video, logits=scores, kernels=[alone], **EXACT).probs
    for t in range(3):
        flat = Bilateral(position=6, color=60, weight=4)
        frame = refine(video[t], logits=scores[:, t], kernels=[flat], **EXACT).probs
        np.testing.assert_allclose(ours[:, t], frame, atol=1e-7)
    linked = Bilateral(position=(6, 6, 2), color=60, weight=4)
    both = refine(video, logits=scores, kernels=[linked], **EXACT).probs
    assert np.abs(both - ours).max() > 0.01


@needs_core
def test_a_fifth_band_counts_with_its_own_bandwidth() -> None:
    """Near infrared beside color: a band that one bandwidth ignores and another one sees."""
    image = RNG.uniform(0, 255, (12, 18, 4))
    blind = Bilateral(6, (40, 40, 40, 1e6), 3)
    color = Bilateral(6, 40, 3)
    ours = refine(image, logits=LOGITS, kernels=[blind], **EXACT).probs
    expected = refine(image[..., :3], logits=LOGITS, kernels=[color], **EXACT).probs
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    sees = refine(image, logits=LOGITS, kernels=[Bilateral(6, 40, 3)], **EXACT).probs
    assert np.abs(sees - expected).max() > 0.01
