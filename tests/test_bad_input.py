"""Bad input through Python: each case ends in its documented error or result.

Never in a crash, a NaN or a bare traceback from below. The library's own errors must show, so these
tests run without the shape checks that other tests have on arguments.
"""

import math
import re
import warnings

import numpy as np
import pytest

import crfrnn
from crfrnn import Bilateral, FeatureGaussian, Gaussian, refine, upsample
from tests.cases import ENGINES, containers, needs_torch, torch

pytestmark = pytest.mark.unchecked

H, W, C = 5, 7, 3


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(C, H, W)).astype(np.float32)


@pytest.fixture
def probs(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits)
    return e / e.sum(0)


def refuses(error: type[Exception], *parts: str):
    """Expect an error whose message has these parts in this order."""
    return pytest.raises(error, match=".*".join(map(re.escape, parts)))


def fine(refined, shape=(C, H, W)) -> None:
    assert refined.probs.shape == shape
    assert np.isfinite(np.asarray(refined.probs)).all()
    np.testing.assert_allclose(np.asarray(refined.probs).sum(0), 1, rtol=1e-5)


# --- NaN and infinity. ---


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["logits", "probs", "energy"])
def test_scores_that_are_not_finite(image, probs, name: str, bad: float) -> None:
    probs[1, 2, 3] = bad
    with refuses(ValueError, f"{name} must be finite", "got 1 NaN or infinite", "(1, 2, 3)"):
        refine(image, **{name: probs})
    for container in containers():
        with refuses(ValueError, f"{name} must be finite", "got 2 NaN or infinite", "(0, 1, 2, 3)"):
            refine(np.stack([image] * 2), **{name: container(np.stack([probs] * 2))})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_images_that_are_not_finite(image, logits, dtype: type, bad: float) -> None:
    image = image.astype(dtype)
    image[4, 0, 2] = bad
    with refuses(ValueError, "image must be finite", "the first at index (4, 0, 2)"):
        refine(image, logits=logits)


def test_feature_maps_that_are_not_finite(logits) -> None:
    maps = np.zeros((H, W, 2))
    maps[0, 6, 1] = math.nan
    with refuses(ValueError, "features must be finite"):
        refine(None, logits=logits, kernels=[FeatureGaussian()], features=[maps])


def test_an_image_beyond_single_precision(image, logits) -> None:
    with refuses(ValueError, "image must be finite"):
        refine(1e300 * image.astype(np.float64), logits=logits)


@needs_torch
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["lattice", "exact"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite(bad: float, method: str, engine: str) -> None:
    features = torch.randn(11, 5)
    features[3, 2] = bad
    with refuses(ValueError, "features must be finite", "index (3, 2)"):
        crfrnn.gaussian_filter(torch.ones(11, 1), features, method=method, engine=engine)
    with refuses(ValueError, "features must be finite"):
        crfrnn.Lattice(features, engine=engine)


@needs_torch
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["lattice", "exact"])
def test_values_that_are_not_finite_do_not_crash(method: str, engine: str) -> None:
    """Values are not looked at: what is not finite spreads, as in any sum."""
    values = torch.ones(11, 2)
    values[3, 0] = math.nan
    out = crfrnn.gaussian_filter(values, torch.zeros(11, 5), method=method, engine=engine)
    assert out[:, 0].isnan().all()


# --- Probabilities that are none. ---


def test_an_all_zero_pixel(image, probs) -> None:
    probs[:, 2, 3] = 0
    with refuses(
        ValueError, "probs must sum to 1", "1 pixels do not (1 of them all-zero", "(2, 3)"
    ):
        refine(image, probs=probs)


def test_another_number_of_classes_than_the_scores_have(image, probs) -> None:
    with refuses(ValueError, "num_classes=7", f"probs have {len(probs)} classes", "leave"):
        refine(image, probs=probs, num_classes=7)
    refine(image, probs=probs, num_classes=len(probs))


def test_probabilities_that_do_not_sum_to_one(image, probs) -> None:
    with refuses(ValueError, "probs must sum to 1", "35 pixels", "sum 0.9", "Divide by the sum"):
        refine(image, probs=0.9 * probs)
    with refuses(ValueError, "probs must sum to 1", "index (1, 0, 0)"):
        refine(np.stack([image] * 2), probs=np.stack([probs, 0.5 * probs]))


def test_scores_called_probabilities(image, logits) -> None:
    with refuses(ValueError, "probs must lie in 0..1", "go to logits="):
        refine(image, probs=logits)
    with refuses(ValueError, "probs must lie in 0..1"):
        refine(image, probs=np.full((1, H, W), 200.0))


# --- Ranks and sizes. ---


@pytest.mark.parametrize("shape", [(), (7,), (2, 2, 2, 2, 2, 2)])
def test_scores_of_a_wrong_rank(image, shape: tuple[int, ...]) -> None:
    with refuses(ValueError, "logits must be (C, H, W)", f"got {shape}"):
        refine(image, logits=np.zeros(shape))


def test_scores_without_classes(image, logits) -> None:
    with refuses(ValueError, "class axis is missing", "must be (C, H, W)"):
        refine(image, logits=logits[0])


@pytest.mark.parametrize("classes", [2, 4, 21])
def test_scores_with_the_classes_last(image, classes: int) -> None:
    with refuses(ValueError, "class axis must come first", "np.moveaxis(logits, -1, 0)"):
        refine(image, logits=np.zeros((H, W, classes)))


@pytest.mark.parametrize("shape", [(H, W, 3), (2, H, W, 3), (W, 3)])
def test_scores_with_as_many_classes_last_as_the_image_has_channels(shape) -> None:
    """They fit, as H or W classes beside as many image channels; that is never meant."""
    image, scores = np.zeros(shape, np.uint8), np.zeros(shape)
    with refuses(ValueError, "class axis comes last, and must come first", "channels_last=False"):
        refine(image, logits=scores)
    assert refine(image, logits=scores, channels_last=False).probs.shape == shape


def test_swapped_images_with_as_many_channels_as_there_are_classes(logits) -> None:
    """They fit, as a batch of three signals."""
    image = np.zeros((3, W, H), np.uint8)
    with refuses(ValueError, "height and width are swapped", "channels_last=True"):
        refine(image, logits=logits)
    assert refine(image, logits=logits, channels_last=True).labels.shape == (3, W)


def test_labels_of_a_wrong_rank(image) -> None:
    with refuses(ValueError, "image and labels must have the same size"):
        refine(image, labels=np.zeros((1, H, W), np.int64))


@pytest.mark.parametrize("shape", [(H, W - 1, 3), (H + 1, W, 3), (3, H, W + 2), (2 * H, 2 * W)])
def test_sizes_that_differ(logits, shape: tuple[int, ...]) -> None:
    parts = ["the same size", f"image {shape}", f"logits {(C, H, W)}", "Upsample the scores"]
    with refuses(ValueError, *parts):
        refine(np.zeros(shape, np.uint8), logits=logits)


def test_coarse_scores(image, logits) -> None:
    coarse = logits[:, ::2, ::2]
    with refuses(ValueError, "crfrnn.upsample(logits, image)"):
        refine(image, logits=coarse)
    fine(refine(image, logits=upsample(coarse, image)), (C, H, W))


def test_one_map_of_the_foreground(image, logits) -> None:
    probs = 1 / (1 + np.exp(-logits[0]))
    with refuses(ValueError, "class axis is missing", "probs[None]"):
        refine(image, probs=probs)
    fine(refine(image, probs=probs[None]), (2, H, W))
    with refuses(ValueError, "masks must be bools", "Apply the sigmoid"):
        refine(image, masks=logits)


def test_batches_that_differ(image, logits) -> None:
    with refuses(ValueError, "the same size"):
        refine(np.stack([image] * 4), logits=np.stack([logits] * 2))
    with refuses(ValueError, "the same size"):
        refine(image, logits=np.stack([logits] * 2))


def test_height_and_width_swapped(image, logits) -> None:
    turned = image.transpose(1, 0, 2)
    for picture in (turned, turned.transpose(2, 0, 1), turned[..., 0]):
        with refuses(ValueError, "Height and width look swapped", "transpose one"):
            refine(picture, logits=logits[:2])
    with refuses(ValueError, "Height and width look swapped"):
        refine(np.stack([turned] * 2), logits=np.stack([logits] * 2))
    with refuses(ValueError, "Height and width look swapped"):
        refine(image, labels=np.zeros((W, H), np.int64))


def test_channels_on_the_side_denied(image, logits) -> None:
    with refuses(ValueError, "the same size"):
        refine(image, logits=logits, channels_last=False)
    with refuses(ValueError, "the same size"):
        refine(np.moveaxis(image, -1, 0), logits=logits, channels_last=True)


def test_masks_and_maps_of_a_wrong_size(image, logits) -> None:
    with refuses(ValueError, "mask must have the size of the scores", "(5, 7)", "got (7, 5)"):
        refine(image, logits=logits, mask=np.ones((W, H), bool))
    with refuses(
        ValueError, "features must have the size of the scores, (5, 7), or", "got (7, 5, 2)"
    ):
        refine(image, logits=logits, features=[np.zeros((W, H, 2))])


@pytest.mark.parametrize("shape", [(0, 3, W), (C, 0, W), (C, H, 0)])
def test_empty_scores(image, shape: tuple[int, ...]) -> None:
    with refuses(ValueError, "logits must not be empty"):
        refine(image, logits=np.zeros(shape))


@pytest.mark.parametrize("shape", [(0, W, 3), (H, 0, 3), (0, 0, 3), (H, W, 0), (0,)])
def test_empty_images(logits, shape: tuple[int, ...]) -> None:
    with refuses(ValueError, "The image is empty"):
        refine(np.zeros(shape, np.uint8), logits=logits)


# --- Types. ---


@pytest.mark.parametrize("name", ["logits", "probs", "energy"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, bool])
def test_integer_scores(image, name: str, dtype: type) -> None:
    with refuses(
        TypeError, f"{name} must be floating point", "go to labels=", "(x - zero) * scale"
    ):
        refine(image, **{name: np.ones((C, H, W), dtype)})


def test_fractional_labels(image) -> None:
    with refuses(TypeError, "labels must be integers", "logits= or probs="):
        refine(image, labels=np.zeros((H, W)))


@pytest.mark.parametrize(
    "thing", ["photo.png", {"a": 1}, object(), [["a"]]], ids=lambda thing: type(thing).__name__
)
def test_what_is_no_array(image, logits, thing: object) -> None:
    with refuses(TypeError, "image must be a NumPy array or a torch tensor"):
        refine(thing, logits=logits)
    with refuses(TypeError, "logits must be a NumPy array or a torch tensor"):
        refine(image, logits=thing)


def test_complex_numbers(image, logits) -> None:
    with refuses(TypeError, "logits must be", "complex"):
        refine(image, logits=logits.astype(complex))
    for container in containers():
        with refuses(TypeError, "image must", "real numbers", "complex"):
            refine(container(image.astype(np.complex64)), logits=logits)


def test_more_or_less_than_one_kind_of_scores(image, logits) -> None:
    with refuses(ValueError, "exactly one of logits=, probs=, labels=, energy=, masks=; got none"):
        refine(image)
    with refuses(ValueError, "exactly one", "got logits, energy"):
        refine(image, logits=logits, energy=-logits)


# --- Classes. ---


def test_one_class(image, logits) -> None:
    """One channel is the foreground; one energy, or one label, decides nothing."""
    fine(refine(image, logits=logits[:1]), (2, H, W))
    with refuses(ValueError, "energy must have at least two classes"):
        refine(image, energy=logits[:1])
    with refuses(ValueError, "num_classes=1, at least 2"):
        refine(image, labels=np.zeros((H, W), np.int64), num_classes=1)
    refined = refine(image, labels=np.zeros((H, W), np.int64))
    fine(refined, (2, H, W))
    assert (refined.labels == 0).all()


def test_labels_outside_the_classes(image) -> None:
    labels = np.zeros((H, W), np.int64)
    labels[1, 1] = 5
    with refuses(ValueError, "labels must lie in 0..2", "got 0 to 5"):
        refine(image, labels=labels, num_classes=3)
    labels[1, 1] = -1
    with refuses(ValueError, "labels must lie in", "got -1 to 0"):
        refine(image, labels=labels)


@pytest.mark.parametrize("confidence", [0, 0.5, 1, 1.5, -0.2, math.nan])
def test_confidence_out_of_range(image, confidence: float) -> None:
    labels = np.zeros((H, W), np.int64)
    with refuses(ValueError, "confidence must lie between", "0.5 and 1"):
        refine(image, labels=labels, confidence=confidence)


def test_an_ignore_index_that_is_no_integer(image) -> None:
    with pytest.raises(TypeError, match="integer"):
        refine(image, labels=np.zeros((H, W), np.int64), ignore_index=None)


# --- Kernels. ---

BANDWIDTHS = [
    (lambda value: Gaussian(position=value), "Gaussian position"),
    (lambda value: Bilateral(position=value), "Bilateral position"),
    (lambda value: Bilateral(color=value), "Bilateral color"),
    (lambda value: Bilateral(color=(3, value)), "Bilateral color"),
    (lambda value: FeatureGaussian(bandwidth=value), "FeatureGaussian bandwidth"),
    (lambda value: FeatureGaussian(position=value), "FeatureGaussian position"),
]


@pytest.mark.parametrize("value", [0, 0.0, -3, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("make", "name"), BANDWIDTHS)
def test_bandwidths_that_are_no_standard_deviation(make, name: str, value: float) -> None:
    with refuses(ValueError, f"{name} is a standard deviation and must be positive and finite"):
        make(value)


@pytest.mark.parametrize("value", [1e-31, 5e-324, 1e31, 1e308])
@pytest.mark.parametrize(("make", "name"), BANDWIDTHS)
def test_bandwidths_that_single_precision_would_lose(make, name: str, value: float) -> None:
    with refuses(ValueError, f"{name} must lie between 1e-30 and 1e30"):
        make(value)


@pytest.mark.parametrize("value", ["3", None, [], "abc"], ids=repr)
def test_bandwidths_that_are_no_numbers(value: object) -> None:
    with pytest.raises((TypeError, ValueError), match="Gaussian position"):
        Gaussian(position=value)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bandwidth", [1e-9, 1e-30])
def test_tiny_bandwidths(image, logits, bandwidth: float, engine: str) -> None:
    """A lattice refuses what it cannot tell apart; the exact filter and the separable one can."""
    for kernel in [Bilateral(color=bandwidth), Bilateral(position=bandwidth)]:
        with refuses(ValueError, "bandwidths", "Is a bandwidth too small?", "the exact filter"):
            refine(image, logits=logits, kernels=[kernel], engine=engine)
        exact = refine(image, logits=logits, kernels=[kernel], filter="exact", engine=engine)
        fine(exact)
    with refuses(ValueError, "Is a bandwidth too small?"):
        refine(image, logits=logits, kernels=[Gaussian(bandwidth, lattice=True)], engine=engine)
    for filter in ("lattice", "exact"):
        kernels = [Gaussian(bandwidth)]
        fine(refine(image, logits=logits, kernels=kernels, filter=filter, engine=engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_flat_black_image_has_no_color_to_lose(logits, engine: str) -> None:
    image = np.zeros((H, W, 3), np.uint8)
    fine(refine(image, logits=logits, kernels=[Bilateral(color=1e-9)], engine=engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_overflow_of_features_inside_the_library(logits, engine: str) -> None:
    """Numbers that are each in range, whose quotient is not."""
    image = np.full((H, W, 3), 1e20, np.float32)
    for filter in ("lattice", "exact"):
        with refuses(ValueError, "features must be finite"):
            refine(
                image,
                logits=logits,
                kernels=[Bilateral(color=1e-25)],
                filter=filter,
                engine=engine,
            )


@needs_torch
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("d", [1, 2, 5, 8, 32])
def test_features_as_far_as_a_lattice_goes(d: int, dtype, engine: str) -> None:
    limit = {torch.float32: 2.0**17, torch.float64: 2.0**23}[dtype]
    features = (2 * torch.rand(31, d, dtype=torch.float64) - 1).to(dtype) * limit
    features[0] = limit
    features[1] = -limit
    out = crfrnn.Lattice(features, engine=engine).filter(torch.ones(31, 2, dtype=dtype))
    assert out.isfinite().all()
    assert (out > 0.2 / (d + 1)).all()  # points so far apart hear themselves, and little else
    with refuses(ValueError, "features reach", "bandwidths"):
        crfrnn.Lattice(1.01 * features, engine=engine)


def test_numbers_that_do_not_fit_the_axes(image, logits) -> None:
    with refuses(ValueError, "Gaussian position has 3 numbers for 2 axes", "give one, or 2"):
        refine(image, logits=logits, kernels=[Gaussian((1, 2, 3))])
    with refuses(ValueError, "Bilateral color has 2 numbers for 3 image channels"):
        refine(image, logits=logits, kernels=[Bilateral(color=(1, 2))])
    with refuses(ValueError, "Gaussian weight has 2 numbers for 3 classes"):
        refine(image, logits=logits, kernels=[Gaussian(weight=(1, 2))])


@pytest.mark.parametrize("weight", [math.nan, math.inf, (1, math.nan)])
def test_weights_that_are_not_finite(weight) -> None:
    for kernel in (Gaussian, Bilateral, FeatureGaussian):
        with refuses(ValueError, "weight must be finite"):
            kernel(weight=weight)
    with refuses(TypeError, "weight must be a number or one number per class"):
        Gaussian(weight="2")


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_too_large_for_the_type(image, logits, engine: str) -> None:
    with refuses(ValueError, "not finite in float32", "kernel weights up to 1e+39", "down, or"):
        refine(image, logits=logits, kernels=[Gaussian(weight=1e39)], engine=engine)
    double = logits.astype(np.float64)
    fine(refine(image, logits=double, kernels=[Gaussian(weight=1e39)], engine=engine))


def test_kernels_that_are_none(image, logits) -> None:
    with refuses(TypeError, "kernels must be a list of Gaussian, Bilateral and FeatureGaussian"):
        refine(image, logits=logits, kernels=["deeplab"])
    with refuses(TypeError, "kernels must be a list", "got 3"):
        refine(image, logits=logits, kernels=3)
    with refuses(TypeError, "got 'deeplab'", 'PRESETS["deeplab"].kernels'):
        refine(image, logits=logits, kernels="deeplab")
    with refuses(TypeError, "got <class", "Bilateral()"):
        refine(image, logits=logits, kernels=[Bilateral])
    with refuses(TypeError, "got {'kind': 'Gaussian'}", "Kernel.from_dict"):
        refine(image, logits=logits, kernels={"kind": "Gaussian"})


def test_scores_in_one_row_as_pydensecrf_has_them(image, logits) -> None:
    with refuses(ValueError, "in one row", "logits.reshape(3, 5, 7)"):
        refine(image, logits=logits.reshape(C, -1))
    with refuses(ValueError, "in one row", "logits.reshape(3, 5, 7)"):
        refine(image.transpose(2, 0, 1), logits=logits.reshape(C, -1))
    with refuses(ValueError, "in one row", "labels.reshape(5, 7)"):
        refine(image, labels=logits.argmax(0).ravel())


def test_scores_with_a_batch_axis_that_the_image_lacks(image, logits) -> None:
    with refuses(ValueError, "batch axis", "give logits[0]"):
        refine(image, logits=logits[None])
    with refuses(ValueError, "batch axis", "give one of logits"):
        refine(image, logits=np.stack([logits] * 2))


def test_labels_as_indicators(image, logits) -> None:
    with refuses(ValueError, "fit as a volume", "labels.argmax(-1)", "image[None, ..., None]"):
        refine(image, labels=image)
    assert refine(image[None, ..., None], labels=image[None] % 2).labels.shape == (1, H, W, 3)
    one_hot = np.eye(C + 2, dtype=int)[logits.argmax(0)]
    with refuses(ValueError, "one class number per pixel", "labels.argmax(-1)"):
        refine(image, labels=one_hot)
    with refuses(ValueError, "one class number per pixel", "labels.argmax(0)"):
        refine(image, labels=np.moveaxis(one_hot, -1, 0))


def test_one_map_where_several_are_expected(image, logits) -> None:
    with refuses(ValueError, "mask axis is missing", "masks[None]"):
        refine(image, masks=logits[0] > 0)
    with refuses(ValueError, "values must be", "values[None]"):
        upsample(logits[0, ::2, ::2], image)


def test_paths_in_place_of_arrays(image, logits, tmp_path) -> None:
    for path in ("photo.png", tmp_path / "photo.png"):
        with refuses(TypeError, "image must be", "Read the file first", "PIL.Image.open"):
            refine(path, logits=logits)
    with refuses(TypeError, "logits must be", "np.load"):
        refine(image, logits="scores.npy")


def test_values_and_points_of_one_axis() -> None:
    points, values = np.zeros((9, 2), np.float32), np.ones(9, np.float32)
    with refuses(ValueError, "values must be", "values[..., None]"):
        crfrnn.gaussian_filter(values, points)
    with refuses(ValueError, "features must be", "features[:, None]"):
        crfrnn.gaussian_filter(values[:, None], points[:, 0])


def test_kernels_without_what_they_look_at(image, logits) -> None:
    with refuses(ValueError, "a Bilateral kernel needs an image", "refine(image, logits=logits)"):
        refine(None, logits=logits)
    with refuses(ValueError, "needs 2 feature maps; got 1", "features=[...]"):
        refine(
            image,
            logits=logits,
            kernels=[FeatureGaussian(features=1)],
            features=[np.zeros((H, W, 1))],
        )
    with refuses(ValueError, "FeatureGaussian features must not be negative"):
        FeatureGaussian(features=-1)


# --- Other options. ---


@pytest.mark.parametrize("option", ["preset", "normalization", "filter", "engine"])
def test_unknown_options(image, logits, option: str) -> None:
    with refuses(ValueError, f"unknown {option} 'nonsense'; expected one of: "):
        refine(image, logits=logits, **{option: "nonsense"})


def test_unknown_presets_are_answered_with_the_known_ones(image, logits) -> None:
    with refuses(ValueError, "deeplab, krahenbuhl, crfasrnn"):
        refine(image, logits=logits, preset="DeepLab")


@pytest.mark.parametrize(
    ("iterations", "error", "message"),
    [(-1, ValueError, "must not be negative"), (2.5, TypeError, "integer"), (True, TypeError, "")],
)
def test_iterations_that_are_no_count(image, logits, iterations, error, message: str) -> None:
    with refuses(error, "iterations", message):
        refine(image, logits=logits, iterations=iterations)


@pytest.mark.parametrize("tol", [0, -1e-3, math.nan])
def test_tolerances_that_are_none(image, logits, tol: float) -> None:
    with refuses(ValueError, "tol is a mean change and must be positive and finite"):
        refine(image, logits=logits, tol=tol)


def test_compatibilities_that_are_none(image, logits) -> None:
    with refuses(ValueError, "compatibility must be (3, 3)", "got (2, 2)"):
        refine(image, logits=logits, compatibility=np.eye(2))
    with refuses(ValueError, "compatibility must be finite"):
        refine(image, logits=logits, compatibility=np.full((3, 3), math.nan))
    integers = refine(image, logits=logits, compatibility=1 - np.eye(3, dtype=np.int64))
    np.testing.assert_allclose(integers.probs, refine(image, logits=logits).probs, atol=1e-6)


def test_an_image_that_looks_like_0_to_1_warns(image, logits) -> None:
    unit = image.astype(np.float32) / 255
    tensors = [container(unit) for container in containers()]
    for picture in (*tensors, unit.astype(np.float64), image > 99):
        with pytest.warns(UserWarning, match="multiply an image on 0..1 by 255"):
            fine(refine(picture, logits=logits))


def test_images_that_may_well_be_dark_do_not_warn(image, logits) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for picture in (
            image,
            image.astype(np.float32),
            np.minimum(image, 1),  # 8 bits: nobody scales these
            np.zeros((H, W, 3), np.float32),
        ):
            fine(refine(picture, logits=logits))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(1, 1), (1, W), (H, 1)])
def test_tiny_images(image, logits, shape: tuple[int, int], engine: str) -> None:
    height, width = shape
    for filter in ("lattice", "exact"):
        refined = refine(
            image[:height, :width],
            logits=logits[:, :height, :width],
            filter=filter,
            engine=engine,
        )
        fine(refined, (C, *shape))


@pytest.mark.parametrize("engine", ENGINES)
def test_logits_as_large_as_they_come(image, logits, engine: str) -> None:
    fine(refine(image, logits=logits * np.float32(1e38), engine=engine))


# --- The filters themselves. ---


@needs_torch
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["lattice", "exact"])
def test_filters_refuse_what_does_not_fit(method: str, engine: str) -> None:
    def run(values, features):
        return crfrnn.gaussian_filter(values, features, method=method, engine=engine)

    points = torch.randn(11, 2)
    for shape in [(11,), (10, 3), (1, 11, 3), (0, 3), (11, 0)]:
        with refuses(ValueError, "values must be (..., N, C)", "(11,)", f"got {shape}"):
            run(torch.zeros(shape), points)
    for shape in [(11,), (0, 2), (11, 0)]:
        with refuses(ValueError, "features must be (..., N, D) and not empty"):
            run(torch.zeros(11, 3), torch.zeros(shape))
    with refuses(TypeError, "values must be floating point", "torch.int64"):
        run(torch.zeros(11, 3, dtype=torch.int64), points)
    with refuses(TypeError, "features must be floating point"):
        run(torch.zeros(11, 3), torch.zeros(11, 2, dtype=torch.uint8))


@needs_torch
def test_filters_refuse_unknown_options() -> None:
    points = torch.randn(11, 2)
    for option in ("method", "normalization", "engine"):
        with refuses(ValueError, f"unknown {option} 'nonsense'; expected one of: "):
            crfrnn.gaussian_filter(torch.ones(11, 1), points, **{option: "nonsense"})


@needs_torch
@pytest.mark.parametrize("engine", ENGINES)
def test_a_lattice_has_at_most_32_dimensions(engine: str) -> None:
    crfrnn.Lattice(torch.randn(5, 32), engine=engine)
    with refuses(ValueError, "1 to 32 feature dimensions; got 33", "exact filter"):
        crfrnn.Lattice(torch.randn(5, 33), engine=engine)


@needs_torch
@pytest.mark.parametrize("engine", ENGINES)
def test_a_lattice_refuses_values_of_another_size(engine: str) -> None:
    lattice = crfrnn.Lattice(torch.randn(2, 11, 3), engine=engine)
    for shape in [(11, 3), (2, 10, 3), (3, 11, 3), (2, 11)]:
        with refuses(ValueError, "values must be (..., N, C)", "(2, 11)"):
            lattice.filter(torch.zeros(shape))
