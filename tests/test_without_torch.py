"""What runs where torch or the core is missing: small scripts and commands in processes without."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crfrnn._extras import install
from tests.cases import needs_core, needs_torch

# Python's own finders see no torch, as if it were not installed: imports raise
# ModuleNotFoundError, and `importlib.util.find_spec` gives None. The core is hidden likewise.
HIDE = """
import sys

HIDDEN = {hidden!r}

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):  # finding the metadata of packages
        return getattr(self.finder, name)

    def find_spec(self, name, *more):
        hides = name.partition(".")[0] in HIDDEN or name in HIDDEN
        return None if hides else self.finder.find_spec(name, *more)

sys.meta_path[:] = [Hiding(f) if hasattr(f, "find_spec") else f for f in sys.meta_path]
"""

SIZE = (20, 28)
NAMES = ("a", "b", "c")
DATA = ("--data", "folder", "--images", "images", "--masks", "masks", "--classes", "3")


def python(
    script: str, folder: Path, hidden: tuple[str, ...] = ("torch",)
) -> subprocess.CompletedProcess[str]:
    text = f"{HIDE.format(hidden=hidden)}{textwrap.dedent(script)}"
    text += "\nassert not {*HIDDEN} & {*sys.modules}"
    command = [sys.executable, "-W", "error", "-c", text]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def crfrnn(
    folder: Path, *arguments: str, hidden: tuple[str, ...] = ("torch",)
) -> subprocess.CompletedProcess[str]:
    main = f"from crfrnn.cli import main\ncode = main({list(arguments)!r})"
    return python(f"{main}\nassert code == 0, code", folder, hidden)


def out(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs, masks with a void row, and scores and labels whose edge is off by two."""
    for name in ("images", "masks", "scores", "labels"):
        (tmp_path / name).mkdir()
    for index, name in enumerate(NAMES):
        edge = 10 + 2 * index
        image = np.full((*SIZE, 3), 40, np.uint8)
        image[:, edge:] = 200
        mask = np.zeros(SIZE, np.uint8)
        mask[:, edge:] = 1 + index % 2
        found = np.roll(mask, 2, axis=1)
        found[:, :2] = 0
        logits = np.where(np.arange(3)[:, None, None] == found, 1, -1).astype(np.float32)
        mask[0] = 255
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
        Image.fromarray(found).save(tmp_path / "labels" / f"{name}.png")
        np.save(tmp_path / "scores" / f"{name}.npy", logits)
    return tmp_path


def pack(folder: Path) -> None:
    """Write the scores as one file, at half the resolution and as bytes."""
    logits = np.stack([np.load(folder / "scores" / f"{name}.npy") for name in NAMES])
    coarse = (logits[:, :, ::2, ::2].transpose(0, 2, 3, 1) * 4 + 30).astype(np.uint8)
    np.savez(folder / "pack.npz", ids=np.array(NAMES), logits=coarse, scale=0.25, zero=30)


@pytest.mark.parametrize("source", ["labels", "scores", "pack.npz"])
def test_evaluate(folder: Path, source: str) -> None:
    pack(folder)
    arguments = ["evaluate", source, *DATA, "--no-crf", "--resamples", "20"]
    text = out(crfrnn(folder, *arguments, "-o", "out.json"))
    assert "mean IoU" in text
    rows = json.loads((folder / "out.json").read_text())["rows"]
    assert 0.7 < rows["before"]["mean_iou"]["value"] < 0.95
    assert rows["before"]["mean_iou"]["low"] <= rows["before"]["mean_iou"]["value"]


def test_evaluate_two_folders_and_draw(folder: Path) -> None:
    arguments = ["evaluate", "labels", "labels", *DATA, "--figure", "f.png", "--resamples", "5"]
    assert "after makes no clear difference" in out(crfrnn(folder, *arguments))
    with Image.open(folder / "f.png") as figure:
        assert figure.size[0] == 2 * 24 + 4 * 320 + 3 * 14


def test_evaluate_with_the_crf(folder: Path) -> None:
    text = out(crfrnn(folder, "evaluate", "scores", *DATA, "--resamples", "5", "--json"))
    found = json.loads(text)
    assert found["rows"]["after"]["mean_iou"]["value"] == 1


def test_refine_a_folder(folder: Path) -> None:
    arguments = ["refine", "images", "scores", "-o", "refined", "--overlay", "over", "--probs", "p"]
    assert "3 refined" in out(crfrnn(folder, *arguments))
    assert len(list((folder / "refined").glob("*.png"))) == 3


def test_tune(folder: Path) -> None:
    pytest.importorskip("optuna", reason="needs crfrnn[tune]")
    pack(folder)
    for split, names in {"train": NAMES[:-1], "val": NAMES[-1:]}.items():
        (folder / f"{split}.txt").write_text("\n".join(names))
    settings = {
        "data.kind": "folder", "data.root": ".", "data.options.num_classes": 3,
        "data.scores.train": "pack.npz", "data.scores.val": "pack.npz",
        "data.scores.canvas": "null", "data.scores.align_corners": "false",
    }  # fmt: skip
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    text = out(crfrnn(folder, "tune", "-o", "best.json", "--trials", "3", *given))
    assert "validation images: mean IoU" in text
    assert (folder / "best.json").is_file()


def test_demo_and_bench(folder: Path) -> None:
    told = json.loads(out(crfrnn(folder, "bench", "--size", "16", "--repeats", "1", "--json")))
    assert {row["case"][:6] for row in told["timings"]} == {"refine"}
    pytest.importorskip("skimage")
    assert "astronaut" in out(crfrnn(folder, "demo", "-o", "demo"))


@needs_core
def test_info(tmp_path: Path) -> None:
    lines = out(crfrnn(tmp_path, "info")).splitlines()
    rows = dict(line.split("  ", 1) for line in lines)
    rows = {name: value.strip() for name, value in rows.items()}
    assert rows["torch"] == "not installed"
    assert rows["engine cpu"] == "ready"
    for engine in ("reference", "triton"):
        assert rows[f"engine {engine}"] == f"it needs torch: {install('torch')}"
    assert rows["CPU float32 runs on"] == "cpu"


SCRIPTS = {
    "metrics": """
        import numpy as np
        from crfrnn.evaluation.metrics import Judge, Settings, interval, resample, stack, summarize

        label = np.zeros((12, 14), np.uint8)
        label[3:9, 3:9] = 1
        counts = [Judge(label, 2).count(np.roll(label, shift, axis=1)) for shift in (1, 2, 3)]
        scores = summarize(counts[0], Settings())
        assert 0.8 < scores["mean_iou"] < scores["pixel_accuracy"] < 1
        drawn = resample({"a": stack(counts)}, Settings(), resamples=30)["a"]
        low, high = interval(drawn["boundary_iou"])
        assert 0 < low < high < 1
    """,
    "verdict and guard": """
        import numpy as np
        from crfrnn import Gaussian, refine

        probs = np.array([[0.9, 0.1, 0.9, 0.6, 0.9], [0.1, 0.9, 0.1, 0.4, 0.1]])
        strong = [Gaussian(position=2, weight=20)]
        assert refine(None, probs=probs, kernels=strong).changed.swapped == ((1, 0),)
        guarded = refine(None, probs=probs, kernels=strong, guard=True)
        assert guarded.guarded.kept_input and guarded.changed.relabeled == 0
    """,
    "resampling": """
        import numpy as np
        from crfrnn.io.score_grid import resample

        ramp = np.broadcast_to(np.arange(4, dtype=np.float32), (2, 3, 4))
        np.testing.assert_allclose(resample(ramp, (6, 8))[1, 5, 1:-1], np.arange(6) / 2 + 0.25)
        np.testing.assert_allclose(resample(ramp, (1, 2))[0, 0], [5 / 7, 16 / 7], rtol=1e-6)
    """,
    "data sets": """
        import numpy as np
        from crfrnn.data import open_folder
        from crfrnn.evaluation.evaluate import evaluate

        data = open_folder("images", "masks", num_classes=3)
        sample = data.read(1)
        assert sample.image.shape == (3, 20, 28)
        assert sample.label[0].tolist() == [255] * 28
        truth = evaluate(data.in_numpy(), lambda s: {"truth": np.where(s.label == 255, 0, s.label)})
        assert truth.summary(resamples=5)["rows"]["truth"]["mean_iou"]["value"] == 1
        assert data.in_numpy().select([2])[0].name == "c"
        try:
            data[1]
        except ImportError as error:
            assert "without torch, use `in_numpy`" in str(error), error
        else:
            raise AssertionError
    """,
    "configurations": """
        from pathlib import Path
        from crfrnn.training import DataConfig, ScoresConfig, StageConfig, read_config
        from crfrnn.training.source import Source

        assert read_config(StageConfig, None, ["epochs=3"]).epochs == 3
        source = Source(DataConfig("shapes", options={"count": 2, "size": 20}), "train")
        sample, logits = source.read(1)
        assert sample.image.shape == (3, 20, 20)
        assert logits is None
    """,
}


@pytest.mark.parametrize("script", list(SCRIPTS))
def test_scripts(folder: Path, script: str) -> None:
    out(python(SCRIPTS[script], folder))


ENTRANCES = {
    "crfrnn train": "from crfrnn.cli import main; raise SystemExit(main(['train', 'x']))",
    "crfrnn ablate": "from crfrnn.cli import main; raise SystemExit(main(['ablate', 'x']))",
    "crfrnn segment": (
        "from crfrnn.cli import main\n"
        "raise SystemExit(main(['segment', 'a.png', '--model', 'm', '-o', 'b.png']))"
    ),
    "crfrnn.ablation": "import crfrnn.ablation",
    "crfrnn.data.transforms": "import crfrnn.data.transforms",
    "crfrnn.training.train": "from crfrnn.training import train",
}


@pytest.mark.parametrize("entrance", list(ENTRANCES))
def test_what_needs_torch_says_so(tmp_path: Path, entrance: str) -> None:
    process = python(ENTRANCES[entrance], tmp_path)
    assert process.returncode in (1, 2)
    told = process.stderr.splitlines()[-1]
    assert (
        f'{entrance} needs torch; install it with pip install "torch>=2.6" jaxtyping safetensors'
        in told
    )


# What each name does on NumPy arrays, as one script that prints its results.
CALLS = """
import numpy as np
from crfrnn._extras import install
import crfrnn
import crfrnn.pydensecrf.densecrf as dcrf

random = np.random.default_rng(0)
image = random.integers(0, 256, (12, 15, 3), dtype=np.uint8)
logits = random.normal(0, 2, (5, 12, 15)).astype(np.float32)
mask = random.random((12, 15)) < 0.9
batch = dict(image=np.stack([image, 255 - image]), logits=np.stack([logits, -logits]))
for options in (
    dict(), dict(filter="exact"), dict(mask=mask), dict(compatibility=1 - np.eye(5)),
    dict(normalization="after", tol=1e-3), dict(prune=False), dict(iterations=0),
):
    refined = crfrnn.refine(image, logits=logits, **options)
    print(type(refined.probs).__name__, refined.labels.sum(), refined.probs.std().round(4))
print(crfrnn.refine(**batch).labels.sum())
print(crfrnn.refine(image, labels=logits.argmax(0)).labels.sum())
points = random.random((40, 3))
values = random.random((40, 2))
for method in ("lattice", "exact"):
    for normalization in ("none", "symmetric", "before", "after"):
        options = dict(method=method, normalization=normalization)
        print(crfrnn.gaussian_filter(values, points, **options).std().round(6))
        there = crfrnn.gaussian_filter(values, points, targets=random.random((9, 3)), **options)
        print(there.shape, there.std().round(6))
print(crfrnn.upsample(logits[:, :4, :5], image).std().round(4))
lattice = crfrnn.Lattice(points[None])
print(lattice.vertices, lattice.filter(values[None], reverse=True).std().round(6))
model = dcrf.DenseCRF2D(15, 12, 5)
model.setUnaryEnergy(-logits.reshape(5, -1))
model.addPairwiseBilateral(8, 30, image, compat=np.eye(5))
model.addPairwiseGaussian(2, compat=3, normalization=dcrf.NORMALIZE_BEFORE)
q, a, b = model.startInference()
model.stepInference(q, a, b)
print(model.inference(4).std().round(5), q.std().round(5), round(model.klDivergence(q), 2))
"""


@needs_core
@needs_torch
def test_every_face_computes_the_same_with_and_without_torch_and_core(tmp_path: Path) -> None:
    here, no_torch, no_core = (
        out(python(CALLS, tmp_path, hidden)) for hidden in ((), ("torch",), ("crfrnn._core",))
    )
    assert len(here.splitlines()) == 28
    assert here == no_torch
    assert here == no_core


@pytest.mark.parametrize(
    "call",
    [
        "refine(None, labels=np.zeros((2, 2), int), kernels=[])",
        "Lattice(np.zeros((3, 2)))",
        "gaussian_filter(np.zeros((3, 2)), np.zeros((3, 2)))",
        "pydensecrf.densecrf.DenseCRF2D(2, 2, 2).addPairwiseGaussian(3, 3)",
    ],
)
def test_without_core_and_torch_the_error_names_both_remedies(tmp_path: Path, call: str) -> None:
    script = f"""
    import numpy as np, crfrnn
    try:
        crfrnn.{call}
    except ImportError as error:
        print(error)
    """
    told = out(python(script, tmp_path, ("torch", "crfrnn._core")))
    assert "the C++ core was not built" in told
    assert "compiler" in told
    assert 'pip install "torch>=2.6" jaxtyping safetensors' in told


def test_upsampling_needs_neither_core_nor_torch(tmp_path: Path) -> None:
    script = """
    import numpy as np, crfrnn
    print(crfrnn.upsample(np.ones((1, 2, 3)), np.zeros((8, 9, 3))).mean())
    """
    assert float(out(python(script, tmp_path, ("torch", "crfrnn._core")))) == pytest.approx(1)


def test_without_core_and_torch_a_command_says_so_in_one_line(folder: Path) -> None:
    done = crfrnn(
        folder,
        "refine",
        "images/a.png",
        "scores/a.npy",
        "-o",
        "a.png",
        hidden=("torch", "crfrnn._core"),
    )
    (line, *_) = done.stderr.splitlines()
    assert line.startswith("crfrnn refine: error: the C++ core was not built")
    assert not (folder / "a.png").exists()


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("crfrnn.CRFRNN(3)", "crfrnn.CRFRNN"),
        ("crfrnn.Segmenter", "crfrnn.Segmenter"),
        ("crfrnn.mean_field", "crfrnn.mean_field"),
        ("crfrnn.refine(None, labels=np.zeros((2, 2), int), engine='reference')", "engine="),
    ],
)
def test_names_that_need_torch_say_so(tmp_path: Path, call: str, what: str) -> None:
    script = f"""
    import numpy as np, crfrnn
    try:
        {call}
    except ImportError as error:
        print(error)
    """
    told = out(python(script, tmp_path))
    assert told.startswith(what)
    assert 'pip install "torch>=2.6" jaxtyping safetensors' in told
