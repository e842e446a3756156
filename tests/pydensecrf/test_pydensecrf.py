"""Call by call against stored results of the original pydensecrf."""

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import crfrnn.pydensecrf

GOLDEN = Path(__file__).parents[1] / "golden"
Cases = dict[str, Callable[[], Any]]


def stored(name: str) -> dict[str, dict[str, np.ndarray]]:
    """Case -> part -> what the original gave."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(GOLDEN / f"pydensecrf_{name}.npz") as file:
        for key in file.files:
            case, _, part = key.rpartition("/")
            found.setdefault(case, {})[part] = file[key]
    return found


SCENE = stored("scene")
PHOTOGRAPHS = {name: stored(name) for name in ("astronaut", "chelsea")}


def load(name: str) -> ModuleType:
    """Import a module of the golden folder, which imports `pydensecrf` as people do."""
    spec = importlib.util.spec_from_file_location(name, GOLDEN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The golden modules, running on this library through `install`."""
    assert crfrnn.pydensecrf.install(override=True)
    names = ["pydensecrf_scenes", "pydensecrf_snippets", "pydensecrf_cases"]
    yield {name.partition("_")[2]: load(name) for name in names}
    for name in names:
        del sys.modules[name]
    crfrnn.pydensecrf.uninstall()


@pytest.fixture(scope="module")
def cases(modules: dict[str, ModuleType]) -> Cases:
    modules["cases"].define(modules["scenes"])
    families = modules["cases"].scene_families(modules["snippets"], modules["scenes"])
    return {**modules["cases"].CASES, **families}


def agree(
    result: Any, golden: dict[str, np.ndarray], pack: Callable[..., Any], *, mean: float
) -> None:
    """Hold a result to the original's: 99.9 % of the labels, and the mean difference of Q."""
    if "value" in golden:
        value = np.asarray(result)
        if value.dtype.kind in "iu" or (value.ndim == 2 and set(np.unique(value)) <= {0, 1}):
            assert np.mean(value == golden["value"]) >= 0.999
        else:
            np.testing.assert_allclose(value, golden["value"], rtol=1e-4, atol=1e-5)
        return
    step = -(-golden["labels"].size // golden["q"].shape[1])
    ours = pack(result, step)
    assert ours["q"].shape == golden["q"].shape
    assert np.mean(ours["labels"] == golden["labels"]) >= 0.999
    assert np.abs(ours["q"].astype(float) - golden["q"]).mean() / 65535 <= mean


def test_every_case_is_stored(cases: Cases) -> None:
    assert set(cases) == set(SCENE)


@pytest.mark.parametrize("name", SCENE)
def test_scene(name: str, cases: Cases, modules: dict[str, ModuleType]) -> None:
    agree(cases[name](), SCENE[name], modules["cases"].pack, mean=5e-5)


@pytest.mark.parametrize(
    ("photograph", "name"),
    [(photograph, name) for photograph, of in PHOTOGRAPHS.items() for name in of],
)
def test_photograph(photograph: str, name: str, modules: dict[str, ModuleType]) -> None:
    pytest.importorskip("skimage", reason="the photographs come with scikit-image")
    image, probs = modules["scenes"].photograph(photograph)
    runs = modules["cases"].families(modules["snippets"], image, probs.argmax(axis=0), probs)
    runs |= modules["cases"].on_photograph(image, probs)
    agree(runs[name](), PHOTOGRAPHS[photograph][name], modules["cases"].pack, mean=1e-3)


#: A slice of a CT in Hounsfield units, with the bandwidth 0.01 of the original's notebook.
CT = """
import sys
import numpy as np
import pydensecrf.densecrf as dcrf
import pydensecrf.utils as utils

random = np.random.default_rng(0)
slice = np.full((60, 80, 1), -1000.0)
slice[10:50, 15:65], slice[20:35, 25:45], slice[40:48, 50:60] = 40, 300, 3000
slice += random.normal(0, 8, slice.shape).round()
probs = 0.3 + random.random((3, 60, 80))
y, x = np.indices((60, 80))
probs[np.digitize(slice[..., 0], [-500, 200]), y, x] += 0.3
crf = dcrf.DenseCRF2D(80, 60, 3)
crf.setUnaryEnergy(utils.unary_from_softmax(probs / probs.sum(axis=0)))
crf.addPairwiseGaussian(sxy=3, compat=0.3)
features = utils.create_pairwise_bilateral((10, 10), (0.01,), slice, chdim=2)
assert features.max() > 2**17
crf.addPairwiseEnergy(features, compat=2)
np.save(sys.argv[1], np.array(crf.inference(5)))
"""


def test_far_features_as_the_original_that_is_installed(tmp_path: Path) -> None:
    script = tmp_path / "ct.py"
    script.write_text(CT)
    found = []
    for name, command in {"theirs": [], "ours": ["-m", "crfrnn", "run"]}.items():
        arguments = [sys.executable, *command, str(script), str(tmp_path / name)]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
        if "No module named 'pydensecrf'" in done.stderr:
            pytest.skip("needs pydensecrf2")
        assert done.returncode == 0, done.stderr
        found.append(np.load(tmp_path / f"{name}.npy"))
    theirs, ours = found
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours.argmax(axis=0), theirs.argmax(axis=0))
    assert np.abs(ours - theirs).mean() < 1e-5
    assert np.mean(ours.max(axis=0) < 0.9) > 0.01  # some pixels are undecided


@pytest.mark.skipif(sys.platform == "win32", reason="forked pools need fork, which Windows has not")
def test_forked_pool_after_torch_has_used_its_threads(modules: dict[str, ModuleType]) -> None:
    image, _, probs = modules["scenes"].drawn()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of fork beside threads
        results = modules["snippets"].in_a_pool(image, probs)
    expected = modules["snippets"].stego(image, np.log(probs))
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-5)
