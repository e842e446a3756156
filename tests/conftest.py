"""What every test runs under: seeds, poisoned memory, checked shapes; with torch or without."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

try:
    import torch
except ModuleNotFoundError:  # `make test-offline`
    torch = None

# Without a GPU the Triton engine is tested in Triton's interpreter, which has to be asked for
# before Triton is imported. Nothing else here uses Triton.
if torch is not None and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Torch's compiler and `torch.device` remember torch's functions on first use. Use them here
# once, so that they remember the real ones and not the replacements of `poisoned`.
if torch is not None:
    importlib.import_module("torch._dynamo")
    with torch.device("meta"):
        torch.empty(0)

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "crfrnn"

# Before the library is imported: the hook checks every annotation in it at each call, but for the
# registered operators and what they use, which torch must see bare. The numeric tower lets an int
# stand for a float.
CHECKED = [f"crfrnn.{path.stem}" for path in SOURCES.iterdir() if path.stem not in ("core", "ops")]
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
if importlib.util.find_spec("beartype") is None:  # `make test-gpu`, `make test-offline`
    jaxtyping = None
    import crfrnn
else:
    import jaxtyping

    with jaxtyping.install_import_hook(CHECKED, CHECKER):
        import crfrnn

        for name in crfrnn.__all__:  # each loads its module when it is first asked for
            getattr(crfrnn, name)

LIBRARY = str(Path(crfrnn.__file__).parent)

# `make test-long` tries many more inputs, others each time; a failure prints how to repeat it.
if importlib.util.find_spec("hypothesis") is not None:
    from hypothesis import settings

    settings.register_profile(
        "short", max_examples=20, deadline=None, derandomize=True, database=None
    )
    settings.register_profile(
        "long", max_examples=1000, deadline=None, print_blob=True, database=None
    )
    settings.load_profile("short")

# More threads than this only fight each other on sizes that tests use.
if torch is not None:
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(2, min(4, (os.cpu_count() or 1) // processes)))

#: What needs torch, or is about the repository and not about the library. `make test-offline` runs
#: all other files; the tests in them that need torch are marked `needs_torch` of cases.py.
NEED_TORCH = [
    "ablation/test_ablate.py",
    "cli/test_device.py",
    "cli/test_segment.py",
    "crf/test_filter.py",
    "crf/test_filter_laws.py",
    "crf/test_frank_wolfe.py",
    "crf/test_kernels.py",
    "crf/test_mean_field.py",
    "crf/test_new_kernel.py",
    "crf/test_precision.py",
    "crf/test_pruning.py",
    "crf/test_targets.py",
    "crf/test_random_calls.py",
    "data/test_data.py",
    "evaluation/test_metrics.py",
    "frankwolfe/test_dense_gaussian_crf.py",
    "io/test_hub.py",
    "io/test_storage.py",
    "layer/test_clamp.py",
    "layer/test_compiled.py",
    "layer/test_crfrnn.py",
    "layer/test_gradients.py",
    "layer/test_independent.py",
    "layer/test_losses.py",
    "layer/test_potts_loss.py",
    "layer/test_transforms_of_torch.py",
    "models/test_models.py",
    "models/test_segmenter.py",
    "ops/test_memory.py",
    "ops/test_on_device.py",
    "ops/test_triton.py",
    "test_bench.py",
    "test_ci.py",
    "test_doors.py",
    "test_gate.py",
    "test_network_cost.py",
    "test_house.py",
    "test_refiners.py",
    "training/test_train.py",
]
collect_ignore = NEED_TORCH if torch is None else []


def pytest_report_header() -> list[str]:
    return str(crfrnn.info()).splitlines() if torch is not None else ["without torch"]


#: The states in which modules of tests made their generators.
_STATES: dict[int, Any] = {}


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> None:
    """Start every test from the same random numbers, whichever ran before it."""
    for value in vars(request.module).values():
        if isinstance(value, np.random.Generator):
            bits = value.bit_generator
            bits.state = _STATES.setdefault(id(value), bits.state)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for code that still draws from the global generator
    if torch is not None:
        torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For thousands of calls on a few pixels, where several threads only wait for each other."""
    from crfrnn.core.threads import limited_threads

    with limited_threads(1):
        yield


@pytest.fixture
def lines_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job writes its progress with the first step, and not after seconds."""
    monkeypatch.setattr("crfrnn.io.progress.FIRST", 0.0)
    monkeypatch.setattr("crfrnn.io.progress._BEAT", 3600.0)  # a slow first step has no line before


@pytest.fixture(scope="session", params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    # Session scope, because hypothesis refuses to share a narrower fixture between examples.
    if torch is None:
        pytest.skip("needs torch")
    return getattr(torch, request.param)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of photographs, scores and networks that lies beside a checkout, if it does."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the shared data folder beside the checkout (../shared/data)")
    return path


def _poisoned(empty: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`empty`, but filled with NaN where the library is the caller and the dtype has a NaN."""

    def call(*args: Any, **kwargs: Any) -> torch.Tensor:
        result = empty(*args, **kwargs)
        caller = sys._getframe(1).f_code.co_filename
        if caller.startswith(LIBRARY) and (result.is_floating_point() or result.is_complex()):
            with torch.no_grad():
                result.fill_(float("nan"))
        return result

    return call


def pytest_collection_finish() -> None:
    """Keep what lives now, modules and tests, out of every `gc.collect()` that follows."""
    gc.freeze()


@pytest.fixture(autouse=True)
def checked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Refuse arguments of a wrong type or shape before the library sees them."""
    if jaxtyping is None:
        yield
        return
    markers = {marker.name for marker in request.node.iter_markers()}
    jaxtyping.config.update("jaxtyping_disable", bool(markers & {"unchecked", "traced"}))
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def poisoned(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let memory that the library forgets to fill read as NaN."""
    if torch is None or request.node.get_closest_marker("traced"):
        return
    for owner, name in [
        (torch, "empty"),
        (torch, "empty_like"),
        (torch, "empty_strided"),
        (torch.Tensor, "new_empty"),
    ]:
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))
