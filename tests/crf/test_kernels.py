"""Kernels: which points they compare, in which order, with which weights and normalisation."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from crfrnn import Bilateral, FeatureGaussian, Gaussian, refine
from crfrnn.crf.kernel import Scene
from crfrnn.crf.kernels import weight_table
from crfrnn.presets import PRESETS
from tests.cases import (
    ENGINES,
    NORMALIZATIONS,
    TOLERANCE,
    GridCase,
    build_filters,
    gaussian_matrix,
    pixels,
)

DOUBLE = torch.float64
SIZES = [(1, 1), (7,), (5, 7), (1, 6), (3, 5, 2)]


def normalized(matrix: np.ndarray, normalization: str) -> np.ndarray:
    n = matrix.sum(1)
    return {
        "symmetric": matrix / np.sqrt(np.outer(n, n)),
        "after": matrix / n[:, None],
        "before": matrix / n,
        "none": matrix,
    }[normalization]


def grid(size: tuple[int, ...], classes: int = 3, batch: int = 2):
    """Logits, image of two channels and a feature map of three, as (B, ·, *S)."""
    logits, image = GridCase(batch, classes, size, 2).make(DOUBLE)
    maps = torch.randn(batch, 3, *size, dtype=DOUBLE)
    return logits, image, maps


def points_of(kernel, size, image, maps, b) -> np.ndarray:
    """The points of a kernel divided by its bandwidths, spelled out: (x, y, z, channels...)."""
    columns = []
    if kernel.position is not None:
        theta = np.broadcast_to(np.array(kernel.position, float), len(size))
        columns.append(pixels(size) / theta)
    if isinstance(kernel, Bilateral):
        columns.append(image[b].flatten(1).T.numpy() / np.array(kernel.color))
    if isinstance(kernel, FeatureGaussian):
        columns.append(maps[b].flatten(1).T.numpy() / np.array(kernel.bandwidth))
    return np.concatenate(columns, axis=1)


KERNELS = [
    Gaussian(position=1.7),
    Gaussian(position=1.7, lattice=True),
    Bilateral(position=4, color=70),
    Bilateral(position=4, color=(50, 90)),
    FeatureGaussian(bandwidth=0.8),
    FeatureGaussian(bandwidth=(0.8, 1.5, 2), position=3),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_exact_filters_are_the_normalized_gaussian(size, kernel, engine: str, dtype) -> None:
    logits, image, maps = grid(size)
    q = logits.softmax(1).to(dtype)
    for normalization in NORMALIZATIONS:
        (filter,) = build_filters(
            [kernel],
            q,
            image,
            [maps],
            normalization=normalization,
            filter="exact",
            engine=engine,
        )
        expected = [
            normalized(gaussian_matrix(points_of(kernel, size, image, maps, b)), normalization)
            @ q[b].flatten(1).T.double().numpy()
            for b in range(2)
        ]
        expected = torch.from_numpy(np.stack(expected)).transpose(1, 2).reshape(q.shape)
        torch.testing.assert_close(filter(q), expected.to(dtype), **TOLERANCE[dtype])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 2.5, 6, 40])
@pytest.mark.parametrize("size", [*SIZES, (43,), (3, 59)], ids=str)
def test_truncated_separable_gaussian_is_near_the_sum(size, bandwidth, engine: str) -> None:
    """Outside exact mode the taps end at 3.3 bandwidths, for 0.1 % of a message at most."""
    logits, *_ = grid(size)
    q = logits.softmax(1)
    matrix = gaussian_matrix(pixels(size) / bandwidth)
    for normalization in ("symmetric", "after"):
        (filter,) = build_filters(
            [Gaussian(bandwidth)],
            q,
            None,
            [],
            normalization=normalization,
            filter="lattice",
            engine=engine,
        )
        expected = normalized(matrix, normalization) @ q[0].flatten(1).T.numpy()
        torch.testing.assert_close(
            filter(q)[0].flatten(1).T, torch.from_numpy(expected), rtol=0, atol=1e-3
        )


def test_positions_come_in_the_order_x_y_z_then_channels() -> None:
    """The lattice is not invariant to this order, and published weights depend on it."""
    logits, image, maps = grid((2, 3, 5), batch=1)
    kernel = Bilateral(position=(10, 20, 30), color=(7, 8))
    widths = torch.tensor([10.0, 20, 30, 7, 8], dtype=logits.dtype)
    given = logits.new_tensor(1.0, requires_grad=True) * widths
    scene = Scene(logits, image, [maps])
    for points in (
        kernel.points(scene),
        kernel.points(scene, {"position": given[:3], "color": given[3:]}),
    ):
        rows = points[0].view(2, 3, 5, 5)
        for z, y, x in itertools.product(range(2), range(3), range(5)):
            expected = [x, y, z, *image[0, :, z, y, x].tolist()]
            torch.testing.assert_close(rows[z, y, x], rows.new_tensor(expected) / widths)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("filter", ["lattice", "exact"])
@pytest.mark.parametrize("lattice", [False, True], ids=["separable", "lattice"])
def test_the_first_bandwidth_is_that_of_x(lattice: bool, filter: str, engine: str) -> None:
    """A wide bandwidth along x alone carries a row to its end and not to the next row."""
    probs = torch.full((2, 5, 9), 0.5)
    probs[:, 2, 0] = torch.tensor([0.01, 0.99])
    refined = refine(
        None,
        probs=probs,
        kernels=[Gaussian(position=(8, 0.2), weight=5, lattice=lattice)],
        iterations=1,
        filter=filter,
        engine=engine,
    )
    moved = refined.probs[1] - 0.5
    assert (moved[2] > 1e-2).all()
    assert moved[[0, 1, 3, 4]].abs().max() < 1e-3


def test_coordinates_are_those_of_the_last_axis_first_in_a_volume() -> None:
    """A bandwidth per axis of a volume acts as the same kernel on the transposed volume."""
    logits, image, _ = grid((3, 5, 7), batch=1)
    kernels = [Bilateral(position=(2, 3, 4), color=60, weight=2), Gaussian((1, 2, 3), 1)]
    turned = [Bilateral(position=(4, 3, 2), color=60, weight=2), Gaussian((3, 2, 1), 1)]
    one = refine(image[0], logits=logits[0], kernels=kernels, filter="exact")
    other = refine(
        image[0].transpose(1, 3), logits=logits[0].transpose(1, 3), kernels=turned, filter="exact"
    )
    torch.testing.assert_close(other.probs.transpose(1, 3), one.probs, **TOLERANCE[DOUBLE])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_a_mask_leaves_what_filtering_only_the_inside_gives(kernel, normalization, engine) -> None:
    size = (5, 7)
    logits, image, maps = grid(size)
    q = logits.softmax(1)
    mask = torch.rand(2, *size) > 0.4
    (filter,) = build_filters(
        [kernel],
        q,
        image,
        [maps],
        normalization=normalization,
        filter="exact",
        mask=mask,
        engine=engine,
    )
    out = filter(q).flatten(2)
    for b in range(2):
        inside = mask[b].flatten().numpy()
        matrix = gaussian_matrix(points_of(kernel, size, image, maps, b)[inside])
        expected = normalized(matrix, normalization) @ q[b].flatten(1).T.numpy()[inside]
        torch.testing.assert_close(
            out[b].T[mask[b].flatten()], torch.from_numpy(expected), **TOLERANCE[DOUBLE]
        )
        assert (out[b].T[~mask[b].flatten()] == 0).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_a_full_mask_changes_nothing(kernel, engine: str) -> None:
    logits, image, maps = grid((5, 7))
    options = {"normalization": "symmetric", "filter": "lattice", "engine": engine}
    mask = torch.ones(2, 5, 7, dtype=torch.bool)
    (plain,) = build_filters([kernel], logits, image, [maps], **options)
    (masked,) = build_filters([kernel], logits, image, [maps], mask=mask, **options)
    torch.testing.assert_close(masked(logits), plain(logits), **TOLERANCE[DOUBLE])


def test_each_feature_kernel_finds_its_map() -> None:
    logits, _, maps = grid((3, 4), batch=1)
    options = {"iterations": 2, "filter": "exact"}
    both = [torch.zeros(3, 4, 1, dtype=DOUBLE), maps[0]]
    second = refine(None, logits=logits[0], kernels=[FeatureGaussian(1)], features=both, **options)
    alone = refine(
        None, logits=logits[0], kernels=[FeatureGaussian()], features=[maps[0]], **options
    )
    torch.testing.assert_close(second.probs, alone.probs, rtol=0, atol=0)
    first = refine(None, logits=logits[0], kernels=[FeatureGaussian(0)], features=both, **options)
    assert (first.probs - alone.probs).abs().max() > 0.01


def test_a_bilateral_kernel_is_a_feature_kernel_over_the_image() -> None:
    logits, image, _ = grid((5, 7))
    ours = refine(image, logits=logits, kernels=[Bilateral(9, 40, 2)])
    same = refine(
        None,
        logits=logits,
        kernels=[FeatureGaussian(bandwidth=40, position=9, weight=2)],
        features=[image],
    )
    torch.testing.assert_close(ours.probs, same.probs, rtol=0, atol=0)


def test_weights_make_a_table() -> None:
    kernels = [Gaussian(weight=2), Bilateral(weight=(1, 2, 3)), FeatureGaussian(weight=0.5)]
    table = weight_table(kernels, 3)
    assert table.tolist() == [[2, 2, 2], [1, 2, 3], [0.5, 0.5, 0.5]]
    assert weight_table([], 3).shape == (0, 3)


def test_defaults_are_those_of_the_paper() -> None:
    assert Gaussian() == Gaussian(position=3, weight=3, lattice=False)
    assert Bilateral() == Bilateral(position=160, color=3, weight=5)


# Spatial (bandwidth, weight), bilateral (position, colour, weight), steps, from their
# published sources.
PUBLISHED = {
    "deeplab": ((1, 3), (67, 3, 4), 10, "symmetric"),
    "krahenbuhl": ((3, 3), (80, 13, 10), 5, "symmetric"),
    "crfasrnn": ((3, 3), (160, 3, 5), 10, "after"),
    "psa": ((3, 3), (80, 13, 10), 10, "symmetric"),
    "irn": ((3, 3), (50, 5, 10), 10, "symmetric"),
    "maskcut": ((3, 7), (50, 5, 10), 10, "symmetric"),
    "saliency": ((3, 3), (60, 5, 5), 1, "symmetric"),
}


def test_presets_are_the_published_ones() -> None:
    assert PRESETS.keys() == PUBLISHED.keys()
    for name, (spatial, bilateral, iterations, normalization) in PUBLISHED.items():
        preset = PRESETS[name]
        assert preset.name == name
        assert set(preset.kernels) == {Bilateral(*bilateral), Gaussian(*spatial)}
        assert (preset.iterations, preset.normalization) == (iterations, normalization)
        assert preset.purpose
        assert preset.source


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bandwidth", [1e-30, 1e-9, 1e-3])
def test_a_vanishing_bandwidth_compares_a_pixel_with_itself_alone(bandwidth, engine) -> None:
    """Where the filter can tell pixels apart; the lattice refuses instead (test_bad_input.py)."""
    logits, image, _ = grid((5, 7))
    kernels = [Gaussian(bandwidth)]
    for filter in ("lattice", "exact"):
        for normalization in NORMALIZATIONS:
            (run,) = build_filters(
                kernels,
                logits,
                image,
                [],
                normalization=normalization,
                filter=filter,
                engine=engine,
            )
            torch.testing.assert_close(run(logits), logits, **TOLERANCE[DOUBLE])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_an_endless_bandwidth_compares_all_pixels_alike(filter: str, engine: str) -> None:
    logits, image, _ = grid((5, 7))
    (run,) = build_filters(
        [Gaussian(1e30)],
        logits,
        image,
        [],
        normalization="after",
        filter=filter,
        engine=engine,
    )
    mean = logits.mean((2, 3), keepdim=True).expand_as(logits)
    torch.testing.assert_close(run(logits), mean, **TOLERANCE[DOUBLE])
    assert math.isfinite(float(run(logits).sum()))


@pytest.mark.unchecked
def test_numbers_of_arrays_are_plain_numbers() -> None:
    given = Bilateral(np.array([30, 20]), np.float32(3), [1.0, 2.0])
    assert given == Bilateral((30, 20), 3, (1, 2))
    assert hash(given) == hash(Bilateral((30, 20), 3, (1, 2)))
    assert json.loads(json.dumps(given.to_dict())) == {
        "kind": "Bilateral",
        "position": [30, 20],
        "color": 3,
        "weight": [1, 2],
    }


@pytest.mark.unchecked
def test_numbers_of_tensors_are_plain_numbers() -> None:
    given = Gaussian(torch.tensor(2.0), torch.tensor([1.0, 2.0]))
    assert given == Gaussian(2, (1, 2))
    assert type(given.position) is float
    assert type(given.weight) is tuple
