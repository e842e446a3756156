"""`crfrnn refine --device`: through tensors, and the same files as from arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crfrnn import ops
from crfrnn.cli import main
from crfrnn.jobs.settings import Settings
from crfrnn.offline import device as devices
from tests.cli.scene import logits, photograph

#: The processors, spelled so that the photograph and its scores become tensors there.
TENSORS = "cpu:0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "scores"):
        Path(name).mkdir()
    for stem in "abc":
        Image.fromarray(photograph()).save(f"photos/{stem}.png")
        np.save(f"scores/{stem}.npy", logits())
    return tmp_path


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The inputs of every refinement, as they come to `refine`."""
    seen: list[Any] = []
    original = devices.refine_inputs

    def refine_inputs(inputs: Any, options: Any) -> Any:
        seen.append(inputs)
        return original(inputs, options)

    monkeypatch.setattr(devices, "refine_inputs", refine_inputs)
    return seen


def files(*folders: str) -> dict[str, bytes]:
    paths = (path for name in folders for path in Path(name).iterdir())
    return {path.name: path.read_bytes() for path in paths if path.suffix != ".json"}


def seeds() -> None:
    drawn = np.full(photograph().shape[:2], 255, np.uint8)
    drawn[3:6, 20:24] = 1
    Image.fromarray(drawn).save("seeds.png")


CASES: dict[str, tuple[Any, list[str]]] = {
    "logits": (logits, []),
    "probs-in-float64": (lambda: np.full((2, 24, 32), 0.5), ["--kind", "probs"]),
    "labels-of-16-bits": (lambda: logits().argmax(0).astype(np.uint16), ["--kind", "labels"]),
    "masks": (lambda: logits()[:2] > 0, ["--kind", "masks"]),
    "guard": (logits, ["--guard", "--band", "5"]),
    "compatibility": (logits, ["--compatibility", "matrix.npy"]),
    "seeds": (logits, ["--clamp", "seeds.png"]),
    "reference": (logits, ["--engine", "reference"]),
}


@pytest.mark.parametrize("case", CASES)
def test_files_from_tensors_are_those_from_arrays(
    folder: Path, moved: list[Any], capsys: pytest.CaptureFixture[str], case: str
) -> None:
    scores, options = CASES[case]
    np.save("scores/a.npy", scores())
    np.save("matrix.npy", 1 - np.eye(3))
    seeds()
    suffix = ".npy" if case == "masks" else ".png"
    reports = []
    for name, device in (("arrays", []), ("tensors", ["--device", TENSORS])):
        Path(name).mkdir()
        moved.clear()
        command = ["refine", "photos/a.png", "scores/a.npy", "-o", f"{name}/labels{suffix}"]
        command += ["--probs", f"{name}/probs.npy", "--json", *options, *device]
        assert main(command) == 0
        refined = moved[-1]  # the first ones are rehearsals
        given = (refined.image, refined.scores, refined.clamp)
        kinds = {type(value) for value in given if value is not None}
        assert kinds == ({torch.Tensor} if device else {np.ndarray})
        reports.append(json.loads(capsys.readouterr().out))
    assert files("arrays") == files("tensors")
    for report in reports:
        for name in ("outputs", "seconds"):
            del report[name]
    assert reports[0] == reports[1]  # with the parameters, which do not name the device


def test_a_job_continues_on_another_device(
    folder: Path, moved: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    job = ["refine", "photos", "scores", "-o", "out", "--kind", "logits"]
    assert main(job) == 0
    first = files("out")
    Path("out/b.png").unlink()
    moved.clear()
    assert main([*job, "--device", TENSORS]) == 0
    assert "1 refined, 2 already there" in capsys.readouterr().out
    assert isinstance(moved[-1].image, torch.Tensor)
    assert files("out") == first
    assert "device" not in Path("out/crfrnn-refine.json").read_text()


def test_a_manifest_on_a_device(folder: Path, moved: list[Any]) -> None:
    Path("jobs.csv").write_text("id,image,scores\nx,photos/a.png,scores/a.npy\n")
    assert main(["refine", "--manifest", "jobs.csv", "-o", "out", "--device", TENSORS]) == 0
    assert isinstance(moved[-1].scores, torch.Tensor)
    assert Path("out/x.png").exists()


def test_a_result_frees_the_scores_on_the_device() -> None:
    from crfrnn.io.scores import Scores
    from crfrnn.jobs.files import refine_scores
    from crfrnn.offline.options import RefineOptions

    given = Scores(logits(), "logits")
    here = refine_scores(photograph(), given, RefineOptions())
    back = refine_scores(photograph(), given, RefineOptions(), device=TENSORS)
    assert back._before is None
    assert back.changed == here.changed
    assert back.changed.relabeled > 0


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The message of a folder job that is refused before any work."""
    assert main(["refine", "photos", "scores", "-o", "out", *options]) == 2
    assert not Path("out").exists()
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "gpu"], "unknown device 'gpu'; expected cpu, cuda, cuda:1"),
        (["--device", "cuda:x"], "unknown device 'cuda:x'"),
        (["--device", "meta"], "the device meta cannot be used on this machine: "),
        (["--device", "cuda", "--engine", "cpu"], "the engine 'cpu' runs on processors"),
        (["--device", "cuda", "--tile", "99"], "--device cuda is for photographs; photos with"),
        (["--device", "cuda", "--on", "ray"], "with --on ray, give --gpus 1"),
        (["--gpus", "1"], "--gpus is for a cluster; give --on ray too"),
        pytest.param(
            ["--device", "cuda"],
            f"cuda is not available on this machine: torch {torch.__version__}",
            marks=no_cuda,
        ),
    ],
)
def test_devices_that_cannot_work(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in refused(capsys, *options)


def test_a_gpu_that_the_machine_lacks(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    message = refused(capsys, "--device", "cuda:2")
    assert "cuda:2 is not available on this machine, which has 2; expected cuda:0 to cu" in message


def test_a_gpu_without_triton(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None, **more: zeros(*size, **more))
    monkeypatch.setattr(ops, "triton_missing", lambda: "Triton is not installed; pip install it")
    message = refused(capsys, "--device", "cuda")
    assert "the device cuda needs Triton: Triton is not installed; pip install it" in message
    assert "'reference' does without" in message


def test_a_device_without_torch(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crfrnn._extras.has_torch", lambda: False)
    message = refused(capsys, "--device", "cuda")
    assert "the device cuda needs torch; install it with pip install" in message


def test_a_device_that_cannot_refine_is_found_before_the_first_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where torch has a device, but the device lacks a type or an operator."""
    original = devices.refine_inputs

    def refine_inputs(inputs: Any, options: Any) -> Any:
        if isinstance(inputs.scores, torch.Tensor):
            raise RuntimeError("no float64 here")
        return original(inputs, options)

    monkeypatch.setattr(devices, "refine_inputs", refine_inputs)
    message = refused(capsys, "--device", TENSORS)
    assert f"the device {TENSORS} cannot refine these scores: no float64 here." in message


def test_the_device_is_no_parameter() -> None:
    from crfrnn.io.options import ReadOptions
    from crfrnn.offline.options import RefineOptions

    here, there = (Settings(ReadOptions(), RefineOptions(), device=d) for d in ("cpu", "cuda"))
    assert here.parameters() == there.parameters()


@pytest.mark.gpu
def test_labels_from_a_gpu_are_those_of_the_processors(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((20, 20, 1)))
    picture = (picture + rng.normal(0, 8, picture.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(picture).save("photos/a.png")
    coarse = rng.normal(0, 2, (5, 12, 16)).astype(np.float32)
    np.save("scores/a.npy", coarse)
    results = {}
    for device in ("cpu", "cuda"):
        command = ["refine", "photos/a.png", "scores/a.npy", "-o", f"{device}.png", "--kind"]
        command += ["logits", "--probs", f"{device}.npy", "--json", "--device", device]
        assert main(command) == 0
        engine = json.loads(capsys.readouterr().out)["engine"]
        assert (engine == "triton") == (device == "cuda")
        with Image.open(f"{device}.png") as image:
            results[device] = np.asarray(image), np.load(f"{device}.npy")
    (labels, probs), (there, probs_there) = results["cpu"], results["cuda"]
    assert (labels == there).mean() >= 0.999
    # A class that the processors prune keeps a little probability on the GPU.
    np.testing.assert_allclose(probs_there, probs, atol=1e-3, rtol=0)
