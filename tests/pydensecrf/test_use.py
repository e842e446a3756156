"""What the drop-in does beyond the original, and how it takes the original's name."""

import copy
import importlib
import inspect
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import crfrnn.pydensecrf as package
import crfrnn.pydensecrf.densecrf as dcrf
from crfrnn.pydensecrf import eigen, utils

W, H, C = 11, 7, 3
N = W * H


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def image(random: np.random.Generator) -> np.ndarray:
    return random.integers(0, 256, (H, W, 3), dtype=np.uint8)


@pytest.fixture
def unary(random: np.random.Generator) -> np.ndarray:
    return random.exponential(size=(C, N)).astype(np.float32)


def model(unary: np.ndarray, image: np.ndarray, kind: Any = dcrf.DenseCRF2D) -> dcrf.DenseCRF2D:
    d = kind(W, H, C)
    d.setUnaryEnergy(unary)
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=20, srgb=40, rgbim=image, compat=4)
    return d


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-5)


# Names and forms


SIGNATURES = {
    dcrf.DenseCRF: "nvar nlabels",
    dcrf.DenseCRF2D: "w h nlabels",
    dcrf.ConstUnary: "u",
    dcrf.LogisticUnary: "L f",
    dcrf.DenseCRF.setUnary: "self u",
    dcrf.DenseCRF.setUnaryEnergy: "self u f",
    dcrf.DenseCRF.addPairwiseEnergy: "self features compat kernel normalization",
    dcrf.DenseCRF2D.addPairwiseGaussian: "self sxy compat kernel normalization",
    dcrf.DenseCRF2D.addPairwiseBilateral: "self sxy srgb rgbim compat kernel normalization",
    dcrf.DenseCRF.inference: "self niter",
    dcrf.DenseCRF.startInference: "self",
    dcrf.DenseCRF.stepInference: "self Q tmp1 tmp2",
    dcrf.DenseCRF.klDivergence: "self Q",
    utils.unary_from_labels: "labels n_labels gt_prob zero_unsure",
    utils.compute_unary: "labels M GT_PROB",
    utils.unary_from_softmax: "sm scale clip",
    utils.softmax_to_unary: "sm GT_PROB",
    utils.create_pairwise_gaussian: "sdims shape",
    utils.create_pairwise_bilateral: "sdims schan img chdim",
    eigen.matrixXf: "arr",
    eigen.vectorXf: "arr",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_arguments_have_the_names_and_order_of_the_original(function: Callable[..., Any]) -> None:
    assert " ".join(inspect.signature(function).parameters) == SIGNATURES[function]


def test_constants_have_the_values_of_the_original() -> None:
    assert [int(kind) for kind in dcrf.KernelType] == [0, 1, 2]
    assert dcrf.DIAG_KERNEL is dcrf.KernelType.DIAG_KERNEL
    values = {
        "NO_NORMALIZATION": 0,
        "NORMALIZE_BEFORE": 1,
        "NORMALIZE_AFTER": 2,
        "NORMALIZE_SYMMETRIC": 3,
    }
    assert {kind.name: int(kind) for kind in dcrf.NormalizationType} == values
    assert {name: int(getattr(dcrf, name)) for name in values} == values


def test_positional_and_keyword_forms_agree(unary: np.ndarray, image: np.ndarray) -> None:
    named, placed = dcrf.DenseCRF2D(w=W, h=H, nlabels=C), dcrf.DenseCRF2D(W, H, C)
    after = dcrf.NORMALIZE_AFTER
    named.setUnaryEnergy(u=unary)
    placed.setUnaryEnergy(unary)
    named.addPairwiseGaussian(sxy=(3, 2), compat=3, kernel=dcrf.FULL_KERNEL, normalization=after)
    placed.addPairwiseGaussian((3, 2), 3, dcrf.FULL_KERNEL, after)
    options = {"kernel": dcrf.CONST_KERNEL, "normalization": after}
    named.addPairwiseBilateral(sxy=20, srgb=40, rgbim=image, compat=4, **options)
    placed.addPairwiseBilateral(20, 40, image, 4, dcrf.CONST_KERNEL, 2)
    features = utils.create_pairwise_gaussian(sdims=(2, 2), shape=(H, W))
    named.addPairwiseEnergy(features=features, compat=1, **options)
    placed.addPairwiseEnergy(features, 1, 0, 2)
    np.testing.assert_array_equal(named.inference(niter=3), placed.inference(3))


@pytest.mark.parametrize(
    ("given", "divisors", "warns"),
    [
        ({"sdims": (9, 8, 7), "schan": 5}, [9, 8, 7, 1, 5], "sdims lists 3 of 4 axes"),  # CellSeg3D
        ({"sdims": (9,), "schan": (5, 4), "chdim": 1}, [9, 1, 1, 5, 4, 1], "schan lists 2 of 3"),
    ],
)
@pytest.mark.filterwarnings("ignore:sdims lists 1 of 3 axes")
def test_axes_without_a_bandwidth_stay_as_they_are(
    given: dict[str, Any], divisors: list[float], warns: str
) -> None:
    bands = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    channels = bands.swapaxes(0, 1) if "chdim" in given else bands[None]
    rows = [*np.indices(channels.shape[1:]), *channels]
    expected = [row.ravel() / divisor for row, divisor in zip(rows, divisors, strict=True)]
    with pytest.warns(UserWarning, match=warns):
        found = utils.create_pairwise_bilateral(img=bands, **given)
    close(found, expected)


def test_surplus_bandwidths_are_ignored(unary: np.ndarray, image: np.ndarray) -> None:
    d = dcrf.DenseCRF2D(W, H, C)
    d.setUnaryEnergy(unary)
    with pytest.warns(UserWarning, match="sxy lists 3 numbers, but there are 2"):
        d.addPairwiseGaussian((3, 3, 99), 3)
    with pytest.warns(UserWarning, match="srgb lists 4 numbers, but there are 3"):
        d.addPairwiseBilateral(20, (40, 40, 40, 99), image, 4)
    close(d.inference(3), model(unary, image).inference(3))


def test_import_star_brings_the_names_of_the_original() -> None:
    names: dict[str, Any] = {}
    exec("from crfrnn.pydensecrf.utils import *", names)
    functions = {f.__name__ for f in SIGNATURES if f.__module__ == utils.__name__}
    assert set(names) - {"__builtins__"} == functions | {"np", "Number", "warning"}


# Results


def test_a_result_is_an_array_and_a_buffer(unary: np.ndarray, image: np.ndarray) -> None:
    q = model(unary, image).inference(3)
    assert isinstance(q, eigen.MatrixXf)
    assert type(q) is np.ndarray
    assert q.shape == (C, N)
    assert q.dtype == np.float32
    view = memoryview(q)
    assert (view.ndim, view.shape, view.format) == (2, (C, N), "f")
    np.testing.assert_array_equal(np.array(view), q)
    close(q.sum(axis=0), np.ones(N))
    assert q[1].shape == (N,)
    assert np.argmax(q, axis=0).reshape(H, W).shape == (H, W)
    q[0] = 0  # writable, and its own memory
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(q)), q)


def test_matrix_types_are_arrays() -> None:
    assert [eigen.MatrixXf().shape, eigen.VectorXf().shape] == [(0, 0), (0,)]
    given = np.array([[1.0, 2.0]], np.float32)
    matrix = eigen.matrixXf(given)
    assert isinstance(matrix, eigen.MatrixXf)
    assert not isinstance(matrix, eigen.VectorXf)
    assert isinstance(eigen.vectorXf(given[0]), eigen.VectorXf)
    assert not isinstance(given.astype(np.float64), eigen.MatrixXf)
    matrix[:] = 0
    assert given.any()


def test_a_result_does_not_change_later(unary: np.ndarray, image: np.ndarray) -> None:
    d = model(unary, image)
    first = d.inference(3)
    kept = np.array(first)
    d.inference(5)
    unary[:] = 0
    image[:] = 0
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(d.inference(3), kept)


def test_steps_equal_inference(unary: np.ndarray, image: np.ndarray) -> None:
    d = model(unary, image)
    q, tmp1, tmp2 = d.startInference()
    close(q, d.inference(0))
    for steps in range(1, 4):
        before = q
        assert d.stepInference(q, tmp1, tmp2) is None
        assert q is before
        close(q, d.inference(steps))
    plain = np.array(d.startInference()[0], dtype=np.float64, order="F")
    d.stepInference(plain)  # any writable array will do
    close(plain, d.inference(1))


def test_negligible_labels_are_left_out_and_return(
    image: np.ndarray, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import crfrnn.core.inference as module

    found = []
    infer = module.infer
    monkeypatch.setattr(
        module, "infer", lambda *args, **options: found.append(infer(*args, **options)) or found[-1]
    )
    energies = random.exponential(size=(9, N))
    energies[3:] += 14
    d = dcrf.DenseCRF2D(W, H, 9)
    d.setUnaryEnergy(energies)
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=20, srgb=40, rgbim=image, compat=4)
    q = d.inference(3)
    assert found[0].kept == [[0, 1, 2]]
    stepped = d.startInference()[0]
    for _ in range(3):
        d.stepInference(stepped)  # of which none is left out
    close(q, stepped)
    assert (q[3:] > 0).all()


def test_far_points_are_filtered_in_double(image: np.ndarray, unary: np.ndarray) -> None:
    """With a term in single precision beside them; steps filter each in its own."""
    far = np.float32(2.0**18) * (image[..., 0] > 127)
    d = dcrf.DenseCRF2D(W, H, C)
    d.setUnaryEnergy(unary)
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseEnergy(far.reshape(1, -1), compat=4)
    q = d.inference(3)
    assert q.dtype == np.float32
    stepped = d.startInference()[0]
    for _ in range(3):
        d.stepInference(stepped)
    close(stepped, q)
    near = dcrf.DenseCRF2D(W, H, C)
    near.setUnaryEnergy(unary)
    near.addPairwiseGaussian(sxy=3, compat=3)
    near.addPairwiseEnergy(far.reshape(1, -1) / 2**12, compat=4)  # as good as infinitely far
    np.testing.assert_array_equal(near.inference(3).argmax(axis=0), q.argmax(axis=0))
    assert d.klDivergence(q) < d.klDivergence(d.inference(0))
    close(pickle.loads(pickle.dumps(d)).inference(3), q)


def test_a_model_without_unary_starts_uniform() -> None:
    q = dcrf.DenseCRF(5, 4).startInference()[0]
    np.testing.assert_array_equal(q, np.full((4, 5), 0.25))


# Better than the original


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, bool])
def test_any_type_of_number(dtype: Any, unary: np.ndarray, image: np.ndarray) -> None:
    unary, image = unary.astype(dtype), (image // 128).astype(dtype)
    features = utils.create_pairwise_gaussian((2, 2), (H, W)).astype(dtype)
    matrix = np.eye(C, dtype=dtype)
    results = []
    for change in (np.asarray, lambda array: array.astype(np.float32)):
        d = dcrf.DenseCRF2D(W, H, C)
        d.setUnaryEnergy(change(unary))
        d.addPairwiseEnergy(change(features), change(matrix))
        if dtype not in (np.float64, np.float16):
            d.addPairwiseBilateral(9, 0.4, image, 2)
        results.append(d.inference(3))
        if dtype not in (np.float64, np.float16):
            continue
    np.testing.assert_array_equal(*results)


def test_any_layout_of_memory(unary: np.ndarray, image: np.ndarray) -> None:
    expected = model(unary, image).inference(3)
    twice = np.repeat(image, 2, axis=1)[:, ::2]
    close(model(np.asfortranarray(unary), twice).inference(3), expected)
    flipped = np.ascontiguousarray(image[:, :, ::-1])[:, :, ::-1]
    close(model(unary[::-1].copy()[::-1], flipped).inference(3), expected)
    unary.flags.writeable = image.flags.writeable = False
    close(model(unary, image).inference(3), expected)


@pytest.mark.parametrize("channels", [0, 1, 2, 4, 7])
def test_any_number_of_channels(
    channels: int, unary: np.ndarray, random: np.random.Generator
) -> None:
    shape = (H, W, channels) if channels else (H, W)
    bands = random.uniform(0, 255, shape)
    d, free = dcrf.DenseCRF2D(W, H, C), dcrf.DenseCRF(N, C)
    d.setUnaryEnergy(unary)
    d.addPairwiseBilateral(sxy=20, srgb=40, rgbim=bands, compat=4)
    free.setUnaryEnergy(unary)
    y, x = np.indices((H, W)).reshape(2, N)
    free.addPairwiseEnergy(np.stack([x / 20, y / 20, *(bands.reshape(N, -1).T / 40)]), 4)
    close(d.inference(5), free.inference(5))


def test_a_subclass(unary: np.ndarray, image: np.ndarray) -> None:
    class Named(dcrf.DenseCRF2D):
        def __init__(self, w: int, h: int, nlabels: int, name: str = "mine") -> None:
            super().__init__(w, h, nlabels)
            self.name = name

        def inference(self, niter: int) -> np.ndarray:
            return np.array(super().inference(niter)).reshape(C, H, W)

    d = model(unary, image, Named)
    assert d.name == "mine"
    close(d.inference(3).reshape(C, N), model(unary, image).inference(3))


@pytest.mark.parametrize(
    "clone",
    [lambda d: pickle.loads(pickle.dumps(d)), copy.deepcopy, copy.copy],
    ids=["pickle", "deepcopy", "copy"],
)
def test_copies_are_independent(
    clone: Callable[[Any], Any], unary: np.ndarray, image: np.ndarray
) -> None:
    d = model(unary, image)
    expected = d.inference(3)
    other = clone(d)
    np.testing.assert_array_equal(other.inference(3), expected)
    other.addPairwiseGaussian(sxy=1, compat=9)
    other.setUnaryEnergy(unary[::-1])
    np.testing.assert_array_equal(d.inference(3), expected)
    assert np.abs(other.inference(3) - expected).max() > 0.01


def test_one_unary_serves_two_models(unary: np.ndarray) -> None:
    term = dcrf.ConstUnary(unary)
    unary[:] = 0  # which the term does not see
    first, second = dcrf.DenseCRF(N, C), dcrf.DenseCRF(N, C)
    first.setUnary(term)
    second.setUnary(term)
    np.testing.assert_array_equal(first.inference(0), second.inference(0))
    assert np.ptp(second.inference(0)) > 0.1


def test_an_infinite_energy_forbids_a_label(unary: np.ndarray, image: np.ndarray) -> None:
    unary[1, ::2] = np.inf
    d = model(unary, image)
    q = d.inference(3)
    np.testing.assert_array_equal(q[1, ::2], 0)
    close(q.sum(axis=0), np.ones(N))
    stepped = d.startInference()[0]
    for _ in range(3):
        d.stepInference(stepped)
    close(stepped, q)
    assert np.isfinite(d.klDivergence(q))


def test_logistic_energies_from_two_arguments(random: np.random.Generator) -> None:
    slopes, features = random.normal(size=(C, 2)), random.normal(size=(2, N))
    d = dcrf.DenseCRF(N, C)
    d.setUnaryEnergy(slopes, features)
    e = np.exp(-slopes @ features)
    close(d.inference(0), e / e.sum(axis=0))


def test_a_matrix_is_symmetrised_and_a_potts_matrix_is_the_number(
    unary: np.ndarray, image: np.ndarray, random: np.random.Generator
) -> None:
    def marginals(compat: Any) -> np.ndarray:
        d = dcrf.DenseCRF2D(W, H, C)
        d.setUnaryEnergy(unary)
        d.addPairwiseBilateral(20, 40, image, compat)
        return d.inference(5)

    eye = np.eye(C)
    skewed = random.uniform(-1, 3, (C, C))
    close(marginals(skewed), marginals((skewed + skewed.T) / 2))
    for same in (3 * (1 - eye), -3 * eye, 7 - 3 * eye, [-3] * C, np.float32(3)):
        close(marginals(same), marginals(3))
    assert np.abs(marginals(3 * eye) - marginals(3)).max() > 0.1
    close(marginals([1, -2, 3]), marginals(np.diag([1, -2, 3])))


def test_threads_share_a_model(unary: np.ndarray, image: np.ndarray) -> None:
    d = model(unary, image)
    expected = d.inference(5)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: d.inference(5), range(16)))
        others = list(pool.map(lambda _: model(unary, image).inference(5), range(8)))
    for result in results + others:
        close(result, expected)


def test_other_threads_run_during_inference(random: np.random.Generator) -> None:
    size, labels = 192, 12
    d = dcrf.DenseCRF2D(size, size, labels)
    d.setUnaryEnergy(random.exponential(size=(labels, size * size)))
    d.addPairwiseBilateral(30, 20, random.integers(0, 256, (size, size, 3)), 4)
    ticks = [time.perf_counter()]
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    start = time.perf_counter()
    d.inference(10)
    seconds = time.perf_counter() - start
    done.set()
    ticker.join()
    longest = np.diff([*ticks, time.perf_counter()]).max()
    assert longest < max(seconds / 2, 0.05)


# The name of the original


@pytest.fixture
def unnamed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No trace of the name `pydensecrf` among the imported modules, before and after."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "pydensecrf"]:
        monkeypatch.delitem(sys.modules, name)
    yield
    package.uninstall()
    for name in [name for name in sys.modules if name.partition(".")[0] == "pydensecrf"]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def empty(unnamed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pydensecrf that works can be found: the first of that name is a source tree."""
    (tmp_path / "pydensecrf").mkdir()
    (tmp_path / "pydensecrf" / "__init__.py").touch()
    (tmp_path / "pydensecrf" / "densecrf.pyx").touch()
    monkeypatch.syspath_prepend(tmp_path)


def import_densecrf() -> ModuleType:
    import pydensecrf.densecrf as found

    return found


def test_install_and_uninstall(empty: None) -> None:
    assert package.install() is True
    assert package.install() is True
    assert import_densecrf() is dcrf
    import pydensecrf
    import pydensecrf.eigen
    import pydensecrf.utils
    from pydensecrf import densecrf
    from pydensecrf.utils import unary_from_softmax

    assert pydensecrf.densecrf is densecrf is dcrf
    assert pydensecrf.eigen is eigen
    assert unary_from_softmax is utils.unary_from_softmax
    assert importlib.util.find_spec("pydensecrf") is not None
    package.uninstall()
    package.uninstall()
    with pytest.raises(ImportError):
        import_densecrf()


@pytest.mark.parametrize("override", [False, True])
def test_install_in_a_clone_of_the_original(
    unnamed: None, override: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sources have a folder of C++ where the compiled module would be."""
    (tmp_path / "pydensecrf" / "densecrf").mkdir(parents=True)
    (tmp_path / "pydensecrf" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert package.install(override=override) is True
    assert import_densecrf() is dcrf


def test_what_was_pickled_under_the_old_name_needs_no_install(
    empty: None, unary: np.ndarray, image: np.ndarray
) -> None:
    package.install()
    data = pickle.dumps((model(unary, image), import_densecrf().DIAG_KERNEL))
    package.uninstall()
    d, kernel = pickle.loads(data)
    assert kernel is dcrf.DIAG_KERNEL
    close(d.inference(2), model(unary, image).inference(2))
