"""The Triton engine against the reference: in Triton's interpreter on the CPU, or on a GPU.

Shapes are few and small, because the interpreter takes a tenth of a millisecond for each operation
of each program.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import crfrnn
from crfrnn import (
    CRFRNN,
    Bilateral,
    Gaussian,
    Lattice,
    Segmenter,
    gaussian_filter,
    ops,
    refine,
)
from crfrnn.core.inference import Options
from crfrnn.core.limits import FARTHEST
from crfrnn.crf.filters import ExactFilter
from crfrnn.crf.frank_wolfe import Rates, Step
from crfrnn.ops import reference
from tests.cases import TOLERANCE, GridCase, PointCase, build_filters, gaussian_sum, infer, pixels

ROOT = Path(__file__).parents[2]
DOUBLE = torch.float64
FLOAT = torch.float32

pytestmark = pytest.mark.skipif(bool(ops.triton_missing()), reason=ops.triton_missing() or "")


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        return "cuda"
    if not engine().INTERPRETED:
        pytest.skip("a CUDA device is here: kernels are compiled for it, not interpreted")
    return "cpu"


def engine() -> ModuleType:
    from crfrnn.ops import triton

    return triton


def close(ours: Tensor, expected: Tensor, factor: float = 1.0) -> None:
    bound = {name: factor * value for name, value in TOLERANCE[expected.dtype].items()}
    torch.testing.assert_close(ours.cpu(), expected.cpu(), **bound)


# --- The lattice. ---

LATTICES = [
    (PointCase(1, 1, 5, 3), FLOAT),
    (PointCase(2, 13, 1, 2, 3), FLOAT),
    (PointCase(1, 97, 2, 5, 4), DOUBLE),
    (PointCase(2, 61, 3, 7, 2), FLOAT),
    (PointCase(3, 23, 5, 21, 1), FLOAT),
    (PointCase(1, 67, 5, 4, 100), FLOAT),
    (PointCase(1, 71, 3, 2, 5, "lattice-points"), FLOAT),
    (PointCase(2, 19, 5, 3, 2, "strided"), DOUBLE),
    (PointCase(1, 11, 4, 67, 1), FLOAT),
]


@pytest.mark.parametrize(("case", "dtype"), LATTICES, ids=str)
def test_lattice(case: PointCase, dtype: torch.dtype, device: str) -> None:
    features, values = case.make(dtype)
    ours = Lattice(features.to(device), engine="triton")
    expected = Lattice(features, engine="reference")
    assert ours.vertices == expected.vertices
    # To the same bits: learned bandwidths compute the weights again in plain PyTorch.
    assert torch.equal(ours.arrays.weight.cpu(), expected.arrays.weight)
    for reverse in (False, True):
        out = ours.filter(values.to(device), reverse=reverse)
        close(out, expected.filter(values, reverse=reverse))


@pytest.mark.parametrize("kind", ["constant", "random"])
def test_vertices_with_hundreds_of_points(kind: str, device: str) -> None:
    """More entries than one part holds, in several parts of both batch items."""
    features, values = PointCase(2, 307, 1, 3, 0.2, kind).make(FLOAT)
    ours = Lattice(features.to(device), engine="triton").filter(values.to(device))
    close(ours, Lattice(features, engine="reference").filter(values), 3)


def test_keys_of_several_words(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from crfrnn.ops.triton import packing

    features, values = PointCase(2, 23, 3, 2, 3).make(FLOAT)
    features, values = features.to(device), values.to(device)
    expected = Lattice(features, engine="triton")
    monkeypatch.setattr(packing, "_CAPACITY", 500)
    assert packing.pack(features).words >= 3
    ours = Lattice(features, engine="triton")
    assert torch.equal(ours.arrays.neighbor, expected.arrays.neighbor)
    assert torch.equal(ours.filter(values), expected.filter(values))


def test_a_lattice_of_twenty_dimensions(device: str) -> None:
    from crfrnn.ops.triton import packing

    features, values = PointCase(1, 7, 20, 1, 3).make(FLOAT)
    assert packing.pack(features).words >= 2
    ours = Lattice(features.to(device), engine="triton").filter(values.to(device))
    close(ours, Lattice(features, engine="reference").filter(values))


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE], ids=str)
@pytest.mark.parametrize("d", [1, 6])
def test_features_as_far_as_a_lattice_goes(d: int, dtype: torch.dtype, device: str) -> None:
    features = torch.rand(11, d, dtype=dtype) * 2 - 1
    features *= FARTHEST[str(dtype).removeprefix("torch.")] / features.abs().max()
    ours = Lattice(features.to(device), engine="triton")
    expected = Lattice(features, engine="reference")
    assert torch.equal(ours.arrays.weight[0].cpu(), expected.arrays.weight[0])
    values = torch.ones(11, 1, dtype=dtype)
    close(ours.filter(values.to(device)), expected.filter(values))


@pytest.mark.parametrize(
    ("case", "options"),
    [
        (PointCase(2, 17, 3, 5, 2), {"normalization": "symmetric"}),
        (PointCase(2, 37, 3, 2, 1), {"method": "exact"}),
    ],
    ids=["lattice", "exact"],
)
def test_gradients_of_filters(device: str, case: PointCase, options: dict[str, Any]) -> None:
    features, values = case.make(DOUBLE)
    gradients = []
    for name, where in (("triton", device), ("reference", "cpu")):
        points = features.to(where).requires_grad_()
        given = values.to(where).requires_grad_()
        out = gaussian_filter(given, points, **options, engine=name)
        gradients.append(torch.autograd.grad(out.pow(2).sum(), (given, points)))
    for ours, expected in zip(*gradients, strict=True):
        close(ours, expected, 100)


def test_half_storage_adds_little(device: str) -> None:
    features, values = PointCase(1, 61, 3, 7, 1).make(FLOAT)
    arrays = Lattice(features.to(device), engine="triton").arrays
    values = values.abs().to(device)
    full = engine().filter(values, arrays, False)
    half = engine().filter(values, arrays, False, storage=torch.float16)
    assert 0 < (half - full).norm() / full.norm() < 1e-3


# --- The exact filter. ---

EXACT = [
    (PointCase(1, 1, 1, 1), DOUBLE),
    (PointCase(2, 97, 2, 5, 4), FLOAT),
    (PointCase(2, 41, 5, 17, 2, "duplicated"), FLOAT),
    (PointCase(1, 67, 5, 1, 100), FLOAT),
    (PointCase(1, 13, 10, 67, 0.5), FLOAT),
    (PointCase(2, 71, 3, 2, 2, "strided"), DOUBLE),
]


@pytest.mark.parametrize(("case", "dtype"), EXACT, ids=str)
def test_exact(case: PointCase, dtype: torch.dtype, device: str) -> None:
    features, values = case.make(dtype)
    out = ExactFilter(features.to(device), engine="triton").filter(values.to(device))
    close(out, torch.from_numpy(gaussian_sum(features, values)).to(dtype))


def test_exact_leaves_out_only_what_is_below_the_tolerance(device: str) -> None:
    from crfrnn.ops.triton.ordering import arrange

    features, values = PointCase(2, 301, 3, 2, 6).make(DOUBLE)
    tiles = arrange(features.to(device), 1e-3, 16)
    order, near, begin = (x.cpu().numpy() for x in (tiles.order, tiles.near, tiles.begin))
    assert (np.sort(order, axis=1) == np.arange(301)).all()
    kept = np.zeros((2, 19, 19), bool)
    for tile in range(2 * 19):
        kept[tile // 19, tile % 19, near[begin[tile] : begin[tile + 1]]] = True
    assert 0.03 < kept.mean() < 0.9
    for b in range(2):
        points = features[b].numpy()[order[b]]
        squared = ((points[:, None] - points[None]) ** 2).sum(2)
        pairs = np.argwhere(np.exp(-0.5 * squared) > 1e-3) // 16
        assert kept[b][tuple(pairs.T)].all()
    values = values.abs()
    loose = engine().exact(values.to(device), features.to(device), 1e-3).cpu()
    error = (torch.from_numpy(gaussian_sum(features, values)) - loose).abs()
    assert 0 < error.max() < 1e-3 * values.sum(1).max()


# --- The separable filter. ---


@pytest.mark.parametrize("size", [(1,), (13,), (5, 7), (2, 3, 5)], ids=str)
def test_separable(size: tuple[int, ...], device: str, dtype: torch.dtype) -> None:
    values = torch.randn(2, *size, 3, dtype=dtype)
    bands = [torch.randn(n, 2 * min(n - 1, 3) + 1, dtype=dtype) for n in size]
    out = engine().separable(values.to(device), [band.to(device) for band in bands])
    close(out, reference.separable(values, bands))


# --- The recurrence. ---


def filters_of(case: GridCase, dtype: torch.dtype, name: str, where: str, **options: Any) -> Any:
    logits, image = (tensor.to(where) for tensor in case.make(dtype))
    kernels = [Bilateral(position=9, color=40), Gaussian(position=1.5)]
    options = {"filter": "lattice", "normalization": "symmetric", **options}
    if options.pop("masked", False):
        options["mask"] = (torch.arange(logits[:, 0].numel()) % 4 > 0).view(logits[:, 0].shape)
        options["mask"] = options["mask"].to(where)
    return logits, build_filters(kernels, logits, image, (), engine=name, **options)


def parameters(case: GridCase, dtype: torch.dtype, kind: str) -> list[Tensor]:
    c = case.classes
    generator = torch.Generator().manual_seed(c)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=DOUBLE).to(dtype)

    return {
        "potts": lambda: [random(2, c) * 2],
        "matrix": lambda: [random(2, c, c) - 0.5, random(c, c) - 0.5],
    }[kind]()


def both(run: Callable[[str, str], list[Tensor]], device: str) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(run("triton", device), run("reference", "cpu"), strict=True)


RECURRENCES = [
    (GridCase(1, 2, (1, 1)), "potts", FLOAT, {}),
    (GridCase(1, 1, (3, 5)), "potts", DOUBLE, {}),
    (GridCase(2, 5, (3, 7)), "potts", FLOAT, {}),
    (GridCase(2, 5, (3, 7)), "matrix", FLOAT, {"normalization": "after"}),
    (GridCase(2, 3, (5, 3)), "potts", FLOAT, {"masked": True, "normalization": "before"}),
    (GridCase(2, 3, (5, 3)), "matrix", DOUBLE, {"masked": True}),
    (GridCase(3, 21, (1, 5)), "potts", FLOAT, {}),
    (GridCase(1, 4, (2, 3, 2), 2), "potts", DOUBLE, {}),
    (GridCase(2, 3, (23,), 1), "potts", FLOAT, {"filter": "exact", "masked": True}),
    (GridCase(2, 5, (3, 7)), "matrix", DOUBLE, {"filter": "exact"}),
    (GridCase(1, 17, (3, 3), 3, "strided"), "potts", DOUBLE, {}),
]


@pytest.mark.parametrize(("case", "kind", "dtype", "options"), RECURRENCES, ids=str)
def test_recurrence(case: GridCase, kind: str, dtype: torch.dtype, options, device: str) -> None:
    def run(name: str, where: str) -> list[Tensor]:
        logits, filters = filters_of(case, dtype, name, where, **options)
        weights, *penalty = (tensor.to(where) for tensor in parameters(case, dtype, kind))
        inputs = [tensor.requires_grad_() for tensor in (logits, weights, *penalty)]
        z, steps = infer(logits, filters, weights, *(penalty or [None]), 2, engine=name)
        assert steps.tolist() == [2] * case.batch
        generator = torch.Generator().manual_seed(1)
        target = torch.randn(z.shape, generator=generator, dtype=DOUBLE).to(z)
        return [z, *torch.autograd.grad((z * target).sum(), inputs)]

    for ours, expected in both(run, device):
        close(ours, expected, 10 if dtype == FLOAT else 100)


#: A step, and the case, weights and options that it is tried with.
STEPS = [
    (Step("l2"), GridCase(2, 5, (3, 7)), "potts", {}),
    (Step("l2", strength=0.7, mix=0.5), GridCase(1, 21, (2, 3)), "potts", {"masked": True}),
    (Step("l2", strength=2, size=0.6, learn=True, mix=0.2), GridCase(2, 3, (5, 3)), "matrix", {}),
    (Step("entropy", strength=0.7), GridCase(1, 4, (2, 3, 2), 2), "potts", {}),
    (Step("entropy", size=0.6, learn=True), GridCase(2, 5, (3, 5)), "potts", {"filter": "exact"}),
    (Step("entropy", size=0.9, mix=0.5), GridCase(1, 2, (1, 7)), "matrix", {}),
]


@pytest.mark.parametrize(("step", "case", "kind", "options"), STEPS, ids=str)
def test_frank_wolfe(step: Step, case: GridCase, kind: str, options, device: str) -> None:
    def run(name: str, where: str) -> list[Tensor]:
        logits, filters = filters_of(case, DOUBLE, name, where, **options)
        weights, *penalty = (tensor.to(where) for tensor in parameters(case, DOUBLE, kind))
        rates = [torch.tensor(r, dtype=DOUBLE, device=where) for r in (step.strength, step.size)]
        inputs = [logits, weights, *penalty, *(rates if step.learn else [])]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        learned = {"rates": Rates(*rates)} if step.learn else {}
        given = (filters, weights, *(penalty or [None]))
        z, _ = infer(logits, *given, 3, engine=name, step=step, **learned)
        target = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
        # Not the floor of exact zeros, whose gradient is that of the constant alone.
        target *= (z > z.amax(1, keepdim=True) - 60).cpu()
        gradients = torch.autograd.grad((z * target.to(where)).sum(), inputs)
        with torch.no_grad():
            stopped = infer(logits, *given, 4, tolerance=0.02, engine=name, step=step, **learned)
        return [z, *gradients, *stopped]

    for ours, expected in both(run, device):
        close(ours.double(), expected.double(), 1000)


def test_many_blocks(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that every kernel has several blocks of rows, and the last is not full."""
    from crfrnn.ops.triton import launch

    monkeypatch.setattr(launch, "TILE", 16)
    case = GridCase(2, 3, (3, 3))

    def run(name: str, where: str) -> list[Tensor]:
        logits, filters = filters_of(case, DOUBLE, name, where)
        (weights,) = (tensor.to(where) for tensor in parameters(case, DOUBLE, "potts"))
        inputs = [tensor.requires_grad_() for tensor in (logits, weights)]
        z, _ = infer(logits, filters, weights, None, 1, engine=name)
        with torch.no_grad():
            stopped = infer(logits, filters[1:], weights[1:], None, 3, tolerance=0.02, engine=name)
        return [z, *torch.autograd.grad(z.pow(2).sum(), inputs), *stopped]

    for ours, expected in both(run, device):
        close(ours.double(), expected.double(), 100)


def test_two_lattices_and_a_large_matrix(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lattice that is not fused, and the product that is left to torch."""
    from crfrnn.ops.triton import inference

    monkeypatch.setattr(inference, "_WIDEST", 1)
    case = GridCase(1, 3, (2, 2))
    for kind in ("potts", "matrix"):

        def run(name: str, where: str, kind: str = kind) -> list[Tensor]:
            logits, image = (tensor.to(where) for tensor in case.make(DOUBLE))
            kernels = [Bilateral(9, 40), Gaussian(1.5, lattice=True)]
            filters = build_filters(
                kernels, logits, image, (), normalization="after", filter="lattice", engine=name
            )
            weights, *penalty = (tensor.to(where) for tensor in parameters(case, DOUBLE, kind))
            inputs = [tensor.requires_grad_() for tensor in (logits, weights)]
            z, _ = infer(logits, filters, weights, *(penalty or [None]), 2, engine=name)
            return [z, *torch.autograd.grad(z.pow(2).sum(), inputs)]

        for ours, expected in both(run, device):
            close(ours, expected, 100)


def test_images_stop_early_one_by_one(device: str) -> None:
    case = GridCase(2, 3, (3, 5))

    def run(name: str, where: str) -> list[Tensor]:
        logits, filters = filters_of(case, DOUBLE, name, where, filter="exact")
        logits[1] *= 20  # certain from the start
        (weights,) = (tensor.to(where) for tensor in parameters(case, DOUBLE, "potts"))
        return list(infer(logits, filters, weights, None, 4, tolerance=3e-3, engine=name))

    made = list(both(run, device))
    assert made[1][0].tolist() == made[1][1].tolist()
    assert len(set(made[1][0].tolist())) == 2
    close(*made[0], 100)


def test_pruning_and_no_steps(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, image = GridCase(2, 6, (3, 5)).make(FLOAT)
    logits[:, 2:5] -= 12

    def run(name: str, where: str) -> Any:
        return refine(image.to(where), logits=logits.to(where), engine=name, iterations=2)

    assert run("triton", device).pruned == [None] * 2  # so few scores are not worth it
    monkeypatch.setattr(engine(), "_WORTH_PRUNING", 0)
    results = [run("triton", device), run("reference", "cpu")]
    for result in results:  # one certificate for all images of the batch
        assert [certificate.kept for certificate in result.pruned] == [(0, 1, 5)] * 2
    close(results[0].probs, results[1].probs)
    none = refine(image.to(device), logits=logits.to(device), engine="triton", iterations=0)
    close(none.probs, logits.softmax(1))


def test_learned_bandwidths(device: str) -> None:
    gradients = []
    logits, image = GridCase(1, 3, (3, 5)).make(FLOAT)
    for name, where in (("triton", device), ("reference", "cpu")):
        kernels = [Bilateral(9, 9, 2), Gaussian(1.5, weight=1)]
        layer = CRFRNN(3, kernels, iterations=1, learn_bandwidths=True, engine=name)
        layer.to(where)(logits.to(where), image.to(where)).pow(2).sum().backward()
        gradients.append([parameter.grad for parameter in layer.parameters()])
    for ours, expected in zip(*gradients, strict=True):
        close(ours, expected, 10)


@pytest.mark.traced
def test_operators_are_registered_as_torch_wants_them(device: str) -> None:
    from crfrnn.ops import filters as registered

    features = torch.randn(1, 5, 2, device=device)
    values = torch.randn(1, 5, 3, device=device, requires_grad=True)
    lattice = ops.build(features, "triton")
    weight = lattice.weight.clone().requires_grad_()
    arrays = lattice._replace(weight=weight)
    torch.library.opcheck(registered._build, (features, "triton"))
    torch.library.opcheck(registered._filter, (values, *arrays, False, "triton"))


# --- What it refuses, and who is chosen. ---


@pytest.mark.unchecked
def test_features_out_of_range_are_refused(device: str) -> None:
    features = torch.rand(5, 3, device=device)
    with pytest.raises(ValueError, match="bandwidths, beyond the 131072"):
        engine().build((features * 3e5)[None])
    features[2, 1] = float("nan")
    with pytest.raises(ValueError, match="features must be finite"):
        engine().build(features[None])


@pytest.mark.unchecked
def test_an_engine_that_does_not_suit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match=r"takes float32 or float64 .* got torch.float16"):
        ops.resolve_engine("triton", cpu, torch.float16)
    monkeypatch.setattr(engine(), "INTERPRETED", False)
    with pytest.raises(ValueError, match=r"CUDA or ROCm device; got torch.float32 on cpu"):
        ops.resolve_engine("triton", cpu, FLOAT)


def test_the_device_decides() -> None:
    assert ops.resolve_engine(None, torch.device("cuda"), FLOAT) == "triton"
    assert ops.resolve_engine(None, torch.device("cuda"), torch.float16) == "reference"
    assert ops.resolve_engine(None, torch.device("cpu"), FLOAT) != "triton"
    told = crfrnn.info()
    assert told.engines["triton"].startswith("ready")
    assert told.runs["CUDA float32"] == "triton"


def test_without_triton_a_device_runs_in_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    from crfrnn.ops import engines

    monkeypatch.setattr(engines, "triton_missing", lambda: "it is not there")
    engines._say_once.cache_clear()
    with pytest.warns(UserWarning, match="runs on cuda in plain PyTorch.*it is not there"):
        assert ops.resolve_engine(None, torch.device("cuda"), FLOAT) == "reference"
    with pytest.raises(ValueError, match="engine 'triton' cannot run: it is not there"):
        ops.resolve_engine("triton", torch.device("cuda"), FLOAT)


def test_other_devices_say_once_that_they_are_slow() -> None:
    from crfrnn.ops import engines

    engines._say_once.cache_clear()
    mps = torch.device("mps")
    with pytest.warns(UserWarning, match="runs on mps in plain PyTorch"):
        assert ops.resolve_engine(None, mps, FLOAT) == "reference"
    assert ops.resolve_engine(None, mps, FLOAT) == "reference"  # a second warning would be an error


# --- The compiler, without a GPU. ---


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Distinct launches, with the block sizes of a GPU, as `compile_kernels` reads them."""
    if not engine().INTERPRETED:
        pytest.skip("a CUDA device is here: every other test compiles")
    from triton.runtime.interpreter import InterpretedFunction

    from crfrnn.ops.triton import launch

    seen: dict[str, dict[str, Any]] = {}
    run = InterpretedFunction.run

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        named = [str(a.dtype)[6:] if isinstance(a, Tensor) else 1001 for a in args]
        given = zip(self.arg_names, args, strict=False)
        sizes = {name for name, value in given if not isinstance(value, Tensor)}
        # Or another size of picture would be compiled for anew.
        assert sizes <= set(self.kwargs["do_not_specialize"] or ()), self.fn.__name__
        found = {
            "module": self.fn.__module__,
            "kernel": self.fn.__name__,
            "arguments": named,
            "options": options,
        }
        seen.setdefault(json.dumps(found), found)
        return run(self, *args, grid=grid, warmup=warmup, **options)

    monkeypatch.setattr(InterpretedFunction, "run", record)
    monkeypatch.setattr(launch, "TILE", 1024)
    return seen


def test_kernels_compile_for_hopper(launches, tmp_path: Path) -> None:
    """The compiler refuses what the interpreter lets pass; registers and loads tell the rest."""
    case = GridCase(1, 21, (2, 3))
    logits, filters = filters_of(case, FLOAT, "triton", "cpu")
    logits.requires_grad_()
    (weights,) = parameters(case, FLOAT, "potts")
    infer(logits, filters, weights, None, 1, engine="triton")[0].sum().backward()
    with torch.no_grad():
        infer(logits, filters, *parameters(case, FLOAT, "matrix"), 1, engine="triton")
        infer(logits, filters[:1], weights[:1], None, 2, tolerance=1e-3, engine="triton")
    for regularizer in ("l2", "entropy"):
        learned = torch.tensor(0.7, requires_grad=True)
        rates = Rates(learned, learned)
        for step, given in ((Step(regularizer, strength=2), None), (Step(mix=0.5), rates)):
            step = replace(step, regularizer=regularizer)
            z, _ = infer(logits, filters, weights, None, 2, engine="triton", step=step, rates=given)
            z.sum().backward()
    with torch.no_grad():
        values, arrays = torch.randn(1, 6, 24), filters[0].gaussian.arrays
        engine().filter(values, arrays, False, storage=torch.float16)
        engine().filter_to_weight(values, values, arrays, False)
        engine().exact(values, torch.randn(1, 6, 5), 1e-8)
        engine().exact(values[..., :1], torch.randn(1, 6, 5), 1e-8)

    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(Path(__file__).with_name("compile_kernels.py"))]
    shares = [list(launches.values())[start::2] for start in range(2)]
    compilers = [
        subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, env=environment, text=True)
        for _ in shares
    ]
    for compiler, share in zip(compilers, shares, strict=True):
        compiler.stdin.write("\n".join(json.dumps(found) for found in share))
        compiler.stdin.close()
        compiler.stdin = None
    results = [compiler.communicate() for compiler in compilers]
    for compiler, share, (out, errors) in zip(compilers, shares, results, strict=True):
        assert compiler.returncode == 0, errors
        for found, line in zip(share, out.splitlines(), strict=True):
            check_compiled(found, json.loads(line))


def check_compiled(found: dict[str, Any], facts: dict[str, int]) -> None:
    assert facts["local"] == 0, f"spills registers: {found} {facts}"
    options = found["options"]
    hot = {"splat_kernel", "blur_kernel", "update_kernel", "adjoint_kernel", "separable_kernel"}
    unary_alone = options.get("KIND") == "none" and not options.get("MESSAGE")
    if found["kernel"] in hot and options["WIDTH"] == 24 and not unary_alone:
        assert facts["widest"] == 16, f"narrow loads: {found} {facts}"


# --- On a GPU. ---


@pytest.fixture
def cuda() -> str:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return "cuda"


def picture(height: int, width: int, classes: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Smooth logits and an image of patches with noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(batch, classes, height // 25 + 1, width // 25 + 1, generator=generator)
    logits = torch.nn.functional.interpolate(4 * coarse, size=(height, width), mode="bilinear")
    patches = torch.rand(batch, 3, height // 20 + 1, width // 20 + 1, generator=generator) * 255
    image = torch.nn.functional.interpolate(patches, size=(height, width))
    image += 4 * torch.randn(image.shape, generator=generator)
    return logits, image.clamp(0, 255)


@pytest.mark.gpu
@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_two_runs_are_the_same_to_the_bit(filter: str, cuda: str) -> None:
    logits, image = (tensor.to(cuda) for tensor in picture(151, 211, 21, 2))
    results = []
    for _ in range(2):
        layer = CRFRNN(21, filter=filter, learn_bandwidths=filter == "lattice").to(cuda)
        given = logits.clone().requires_grad_()
        z = layer(given, image)
        results.append([z, *torch.autograd.grad(z.pow(2).sum(), (given, *layer.parameters()))])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@pytest.mark.gpu
@pytest.mark.parametrize("filter", ["lattice", "exact"])
@pytest.mark.parametrize("prune", [False, True])
def test_labels_are_those_of_the_cpu(
    filter: str, prune: bool, cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine(), "_WORTH_PRUNING", 0)
    logits, image = picture(151, 211, 21)
    options = {"filter": filter, "prune": prune, "preset": "krahenbuhl"}
    here = refine(image, logits=logits, **options)
    there = refine(image.to(cuda), logits=logits.to(cuda), **options)
    assert there.engine == "triton"
    assert there.labels.device.type == cuda
    assert (there.labels.cpu() == here.labels).float().mean() >= 0.999


@pytest.mark.gpu
def test_nothing_waits_between_the_steps(cuda: str) -> None:
    logits, image = (tensor.to(cuda) for tensor in picture(50, 60, 5))
    prepared = CRFRNN(5).to(cuda).eval().prepare(image)
    terms = [kernel.term for kernel in prepared.filters]
    flat, weights = logits.flatten(2), torch.ones(2, 5, device=cuda)
    model = ops.Model(weights, (50, 60), terms, "triton")

    def run() -> Tensor:
        return engine().mean_field(flat, model, Options(5))[0]

    expected = run()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    graph.replay()
    assert torch.equal(captured, expected)


@pytest.mark.gpu
def test_what_inference_keeps_can_be_trained_with(cuda: str) -> None:
    logits, image = (tensor.to(cuda) for tensor in picture(41, 51, 5))
    layer = CRFRNN(5).to(cuda)
    with torch.inference_mode():
        layer(logits, image)
    layer(logits.requires_grad_(), image).sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.gpu
def test_a_launch_finds_the_kernel_for_its_alignment(cuda: str) -> None:
    """Rows of one channel, which later batch items and steps begin at any address."""
    values = torch.randn(2, 1001, 1, device=cuda)
    features = torch.rand(2, 1001, 2, device=cuda)
    for item in (0, 1, 0):
        one, points = values[item][None], features[item][None]
        ours = Lattice(points).filter(one)
        close(ours, Lattice(points.cpu(), engine="reference").filter(one.cpu()))


@pytest.mark.gpu
@pytest.mark.slow
def test_a_megapixel_of_150_classes_fits(cuda: str) -> None:
    logits, image = (tensor.to(cuda) for tensor in picture(1000, 1000, 150))
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    refined = refine(image, logits=logits, prune=False, iterations=2)
    assert torch.isfinite(refined.probs).all()
    assert torch.cuda.max_memory_allocated() - held < 12e9


@pytest.mark.gpu
def test_the_layer_trains_on_the_device(cuda: str) -> None:
    logits, image = (tensor.to(cuda) for tensor in picture(40, 50, 4, 2))
    layer = CRFRNN(4).to(cuda)
    for dtype in (FLOAT, torch.float16, torch.bfloat16):
        given = logits.to(dtype, copy=True).requires_grad_()
        z = layer(given, image)
        assert z.dtype == dtype
        z.float().pow(2).mean().backward()
        assert torch.isfinite(given.grad).all()


@pytest.mark.gpu
def test_a_segmenter_gives_the_labels_of_the_cpu(cuda: str) -> None:
    _, image = picture(60, 70, 2, 2)
    model = Segmenter(torch.nn.Conv2d(3, 7, 3, padding=1), CRFRNN(7), image_range=255).eval()
    with torch.no_grad():
        here = model(image).argmax(1)
        there = model.to(cuda)(image.to(cuda)).argmax(1)
    assert (here == there.cpu()).float().mean() >= 0.999


def test_a_lattice_stays_on_its_device(device: str) -> None:
    """The starts too, which other engines keep on the CPU: the kernels read them."""
    features = torch.from_numpy(pixels((3, 4))).float().to(device)
    arrays = ops.build(features[None] / 2, "triton")
    assert {array.device.type for array in arrays} == {device}
