"""Call by call against stored results of the original pydensecrf."""

import importlib.util
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


@pytest.mark.skipif(sys.platform == "win32", reason="forked pools need fork, which Windows has not")
def test_forked_pool_after_torch_has_used_its_threads(modules: dict[str, ModuleType]) -> None:
    image, _, probs = modules["scenes"].drawn()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of fork beside threads
        results = modules["snippets"].in_a_pool(image, probs)
    expected = modules["snippets"].stego(image, np.log(probs))
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-5)
