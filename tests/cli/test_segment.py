"""`crfrnn segment`: photographs in, labels and overlays out, for every kind of model."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import crfrnn
from crfrnn.cli import main
from crfrnn.io.palette import VOC_CLASSES
from crfrnn.io.storage import CONFIG, TENSORS
from crfrnn.models import make_network
from crfrnn.models.checkpoint import Checkpoint

SIZE = (20, 28)


def photograph(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Of a network whose batch norm knows its data, and whose scores differ between pixels."""
    torch.manual_seed(0)
    network = make_network("light", 21, width=2)
    with torch.no_grad():
        for _ in range(20):
            network(torch.randint(256, (4, 3, 64, 64)).float())
        network.get_submodule("score8").weight.mul_(10)
    return network.state_dict()


@pytest.fixture
def model(weights: dict[str, torch.Tensor]) -> Checkpoint:
    crf = crfrnn.CRFRNN(21, iterations=2, eval_iterations=2)
    made = Checkpoint("light", 21, {"width": 2}, crf=crf, classes=VOC_CLASSES)
    made.network.load_state_dict(weights)
    return made.eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Checkpoint) -> Path:
    """The working directory, with photographs and a model."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for index, name in enumerate("abc"):
        Image.fromarray(photograph(index)).save(f"photos/{name}.png")
    model.save("model")
    return tmp_path


def expected(model: Checkpoint, index: int, *, crf: bool = True) -> np.ndarray:
    image = torch.from_numpy(photograph(index)).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        before, after = model.logits(image)
    return (after if crf else before)[0].argmax(0).numpy()


def read(path: str) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.getpalette()[3:6] == [128, 0, 0]
        return np.asarray(image).astype(np.int64)


def segment(*arguments: str, image: str = "photos/a.png", out: str = "o.png") -> int:
    return main(["segment", image, "--model", "model", "-o", out, *arguments])


def test_a_photograph(folder: Path, model: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert segment("--overlay", "v.png", "--json") == 0
    labels = read("o.png")
    np.testing.assert_array_equal(labels, expected(model, 0))
    assert len(np.unique(labels)) > 1
    with Image.open("v.png") as image:
        assert image.size == SIZE[::-1]
    found = json.loads(capsys.readouterr().out)
    assert found["found"] == [VOC_CLASSES[index] for index in np.unique(labels)]
    before = expected(model, 0, crf=False)
    assert found["relabeled"] == int((before != labels).sum()) > 0
    assert segment("--no-crf") == 0
    np.testing.assert_array_equal(read("o.png"), before)
    assert "without a CRF" in capsys.readouterr().out


def test_a_model_without_a_crf_gets_that_of_the_options(folder: Path, model: Checkpoint) -> None:
    model.crf = None
    model.save("model")
    assert segment("--preset", "crfasrnn") == 0
    with torch.no_grad():
        image = torch.from_numpy(photograph(0)).permute(2, 0, 1)[None].float()
        logits = model.logits(image)[0][0].numpy()
    refined = crfrnn.refine(photograph(0), logits=logits, preset="crfasrnn").labels
    np.testing.assert_array_equal(read("o.png"), refined)


def test_a_folder_resumes(
    folder: Path, model: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos/broken.png").write_bytes(b"x")
    assert segment("--overlay", "views", image="photos", out="out") == 1
    out, err = capsys.readouterr()
    assert out.startswith("out: 3 segmented, 0 already there, 1 failed")
    assert "crfrnn segment: failed: broken: " in err
    for index, name in enumerate("abc"):
        np.testing.assert_array_equal(read(f"out/{name}.png"), expected(model, index))
    Path("photos/broken.png").unlink()
    Path("out/b.png").unlink()
    assert segment("--overlay", "views", "--json", image="photos", out="out") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["segmented"], found["skipped"], found["failed"]) == (1, 2, 0)
    newest = max(path.stat().st_mtime_ns for path in Path("out").iterdir())
    later = (newest + 10**9,) * 2
    os.utime(Path("model") / TENSORS, ns=later)  # the model was trained further
    assert segment("--overlay", "views", "--json", image="photos", out="out") == 0
    assert json.loads(capsys.readouterr().out)["segmented"] == 3
    assert segment("--no-crf", image="photos", out="out") == 2
    assert "made with other parameters (crf was True, is now False)" in capsys.readouterr().err
    assert segment("--no-crf", "--overwrite", image="photos", out="out") == 0
    np.testing.assert_array_equal(read("out/c.png"), expected(model, 2, crf=False))


def test_a_photograph_that_an_older_one_replaced_is_redone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(image="photos", out="out") == 0
    Image.fromarray(photograph(5)).save("photos/b.png")
    os.utime("photos/b.png", (1e9, 1e9))
    capsys.readouterr()
    assert segment(image="photos", out="out") == 0
    assert "1 segmented, 2 already there" in capsys.readouterr().out


def test_workers_share_one_model(folder: Path, model: Checkpoint) -> None:
    assert segment("--workers", "3", image="photos", out="out") == 0
    for index, name in enumerate("abc"):
        np.testing.assert_array_equal(read(f"out/{name}.png"), expected(model, index))


def change_config(old: str, new: str) -> None:
    path = Path("model") / CONFIG
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("image", "arguments", "text"),
    [
        ("nowhere.png", [], "nowhere.png: expected an image, but it is missing"),
        (
            "photos/a.png",
            ["--model", "nowhere"],
            "is not a directory; expected one that holds a model",
        ),
        (
            "photos/a.png",
            ["--model", "a/b/c"],
            "is not a directory; expected one that holds a model",
        ),
        ("photos/a.png", ["--model", "photos"], "photos has no config.json"),
        ("photos/a.png", ["-o", "photos/a.png"], "photos/a.png is an input"),
        ("photos/a.png", ["-o", "o.jpg"], "--output must be a .png file"),
        ("photos", ["-o", "photos"], "photos is the folder of images; write the labels elsewhere"),
        ("photos", ["--workers", "0"], "--workers must be at least 1"),
        ("photos/a.png", ["--workers", "2"], "--workers 2 is for folders; photos/a.png is a file"),
        ("empty", ["-o", "out"], "empty: this folder holds no photographs"),
        ("text.png", [], "text.png: not a readable image"),
        ("photos/a.png", ["--preset", "best"], "unknown preset 'best'"),
    ],
)
def test_bad_input(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    image: str,
    arguments: list[str],
    text: str,
) -> None:
    Path("empty").mkdir()
    Path("text.png").write_text("x")
    assert segment(*arguments, image=image) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert text in err


@pytest.mark.unchecked
def test_bad_models(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_config('"num_classes": 21', '"num_classes": 20')
    assert segment() == 2
    assert "the CRF has 21 classes and num_classes is 20" in capsys.readouterr().err
    (Path("model") / TENSORS).write_bytes(b"")
    assert segment() == 2
    assert "not a readable safetensors file" in capsys.readouterr().err


# Models of transformers

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs the transformers library"
)
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def tiny_config(**changes: Any) -> Any:
    import transformers

    return transformers.SegformerConfig(
        num_labels=3,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        sr_ratios=[2, 2, 1, 1],  # photographs of 20 pixels
        id2label={0: "sky", 1: "sea", 2: "sand"},
        label2id={"sky": 0, "sea": 1, "sand": 2},
        **changes,
    )


@needs_transformers
@quiet
def test_a_random_segformer_trains_with_a_crf_on_top() -> None:
    from crfrnn.integrations.transformers import transformers_network

    network = transformers_network(tiny_config())
    model = crfrnn.Segmenter(network, crfrnn.CRFRNN(3, iterations=2), image_range=255)
    image = torch.randint(256, (2, 3, 64, 96)).float()
    logits = model(image)
    assert logits.shape == (2, 3, 64, 96)
    torch.nn.functional.cross_entropy(logits, torch.randint(3, (2, 64, 96))).backward()
    assert all(p.grad is not None for p in network.model.parameters())
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    network.eval()
    direct = network.model(pixel_values=(image / 255 - mean) / std).logits
    torch.testing.assert_close(network(image), direct)


@needs_transformers
@quiet
@pytest.mark.parametrize("processor", [True, False])
def test_a_directory_of_transformers(
    folder: Path, capsys: pytest.CaptureFixture[str], processor: bool
) -> None:
    import transformers

    torch.manual_seed(0)
    made = transformers.AutoModelForSemanticSegmentation.from_config(tiny_config()).eval()
    made.save_pretrained("theirs")
    mean, std, scale = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255
    if processor:
        mean, std, scale = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 1 / 128
        text = {"image_mean": mean, "image_std": std, "rescale_factor": scale}
        Path("theirs/preprocessor_config.json").write_text(json.dumps(text))
    assert segment("--model", "theirs", "--no-crf", "--json") == 0
    image = torch.from_numpy(photograph(0)).permute(2, 0, 1)[None].float()
    m, s = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    with torch.no_grad():
        logits = made(pixel_values=(image * scale - m) / s).logits
    logits = torch.nn.functional.interpolate(logits, SIZE, mode="bilinear")
    np.testing.assert_array_equal(read("o.png"), logits[0].argmax(0).numpy())
    found = json.loads(capsys.readouterr().out)
    assert (found["classes"], set(found["found"]) <= {"sky", "sea", "sand"}) == (3, True)


@needs_transformers
@quiet
@pytest.mark.unchecked
def test_other_models_of_transformers_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("theirs").mkdir()
    Path("theirs/config.json").write_text('{"model_type": "bert"}')
    assert segment("--model", "theirs") == 2
    assert "theirs: not a semantic segmentation model of transformers" in capsys.readouterr().err


def test_without_transformers_the_extra_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert segment("--model", "owner/name") == 2
    assert 'pip install "transformers>=4.50"' in capsys.readouterr().err


@needs_transformers
@quiet
@pytest.mark.parametrize("name", ["owner/name", "theirs"])
@pytest.mark.parametrize("fetch", [True, False])
def test_a_model_is_fetched_only_when_asked(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    fetch: bool,
) -> None:
    import transformers

    made = transformers.AutoModelForSemanticSegmentation.from_config(tiny_config()).eval()
    made.save_pretrained("theirs")
    asked = []

    def from_pretrained(source: str, **arguments: Any) -> Any:
        asked.append((source, arguments))
        return made

    automatic = transformers.AutoModelForSemanticSegmentation
    monkeypatch.setattr(automatic, "from_pretrained", from_pretrained)
    monkeypatch.setattr("transformers.utils.cached_file", lambda *_, **__: None)
    assert segment("--model", name, "--no-crf", *(["--fetch"] if fetch else [])) == 0
    assert asked == [(name, {"local_files_only": not fetch or name == "theirs"})]


@needs_transformers
@quiet
@pytest.mark.unchecked
def test_an_unknown_name_is_told_without_fetching(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert segment("--model", "owner/name") == 2
    assert "there is no such directory" in capsys.readouterr().err


def test_the_first_line_names_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for image, out in (("photos/a.png", "a.png"), ("photos", "out")):
        assert segment("-o", out, image=image) == 0
        first = capsys.readouterr().err.splitlines()[0]
        assert first == (
            "crfrnn segment: model: model, 21 classes (background, aeroplane, bicycle and 18 "
            "more), with a CRF of its own"
        )
