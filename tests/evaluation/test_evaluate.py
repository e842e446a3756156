"""`crfrnn evaluate`: labels, scores and models against masks; tables, JSON, figure, verdict."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn.cli import main
from crfrnn.data import open_folder
from crfrnn.evaluation.evaluate import Evaluation, evaluate, extremes, verdict
from crfrnn.evaluation.metrics import Judge, Settings, stack
from tests.cases import needs_torch, torch

SIZE = (20, 28)
NAMES = ("a", "b", "c", "d")
CLASSES = 3


def edge(index: int) -> int:
    """The column from which a photograph is bright and of another class."""
    return 10 + 2 * index


def photograph(index: int) -> np.ndarray:
    image = np.full((*SIZE, 3), 40, np.uint8)
    image[:, edge(index) :] = 200
    return image


def truth(index: int) -> np.ndarray:
    label = np.zeros(SIZE, np.uint8)
    label[:, edge(index) :] = 1 + index % 2
    return label


def logits(index: int) -> np.ndarray:
    """The true class, but its edge is two columns too far to the right."""
    label = np.zeros(SIZE, np.int64)
    label[:, edge(index) + 2 :] = 1 + index % 2
    return np.where(np.arange(CLASSES)[:, None, None] == label, 1, -1).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs, masks with a void row, scores, and labels of the scores."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "masks", "scores", "labels"):
        Path(name).mkdir()
    for index, name in enumerate(NAMES):
        Image.fromarray(photograph(index)).save(f"images/{name}.png")
        mask = truth(index)
        mask[0] = 255
        Image.fromarray(mask).save(f"masks/{name}.png")
        np.save(f"scores/{name}.npy", logits(index))
        Image.fromarray(logits(index).argmax(0).astype(np.uint8)).save(f"labels/{name}.png")
    return tmp_path


DATA = ("--data", "folder", "--images", "images", "--masks", "masks", "--classes", "3")


RESAMPLES = ("--resamples", "5")


def run(*arguments: str) -> int:
    return main(["evaluate", *arguments, *DATA, "--resamples", "50"])


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def expected(refined: bool) -> float:
    """Mean IoU over all images, counted by hand."""
    confusion = np.zeros((3, 3), np.int64)
    for index in range(len(NAMES)):
        labels = logits(index).argmax(0)
        if refined:
            labels = crfrnn.refine(photograph(index), logits=logits(index)).labels
        # The first row is void.
        np.add.at(confusion, (truth(index)[1:], labels[1:]), 1)
    hit = confusion.diagonal()
    return float((hit / (confusion.sum(axis=0) + confusion.sum(axis=1) - hit)).mean())


def test_scores_before_and_after(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, "scores")
    before, after = (found["rows"][name]["mean_iou"]["value"] for name in ("before", "after"))
    assert before == pytest.approx(expected(refined=False))
    assert after == pytest.approx(expected(refined=True)) == 1
    gain = found["differences"]["after"]["mean_iou"]
    assert gain["value"] == pytest.approx(after - before)
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert found["verdict"][0].startswith("after is better: mean IoU")
    assert (found["images"], found["classes"]) == (4, ["0", "1", "2"])
    assert found["bootstrap"] == {"resamples": 50, "seed": 0, "interval": 0.95}
    assert (found["crf"], found["parameters"]["preset"]) == ("refine", "deeplab")
    assert set(found["rows"]["after"]) == {
        "mean_iou", "pixel_accuracy", "trimap_iou_1", "trimap_iou_3", "trimap_iou_5",
        "trimap_iou_10", "boundary_iou", "boundary_f", "class_iou",
    }  # fmt: skip


def test_a_guess_is_reported_once_and_scores_by_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scores", "--widths", "2") == 0
    out, err = capsys.readouterr()
    assert err == (
        "crfrnn evaluate: scores: logits, because it has negative values; (C, h, w) = "
        "(3, 20, 28), values -1 to 1 (first of 4 files: a.npy)\n"
        "crfrnn evaluate: classes: 3\n"
        "crfrnn evaluate: image: 20x28 (height x width), 8 bits, values 40 to 200\n"
        "crfrnn evaluate: truth: 4 photographs with masks; 3 classes\n"
        "crfrnn evaluate: first: a, 20x28 (height x width), ids 0, 1, 255\n"
    )
    for title in ("mean IoU", "pixel accuracy", "trimap IoU, 2 px", "boundary IoU", "boundary F"):
        assert f"{title} " in out


def test_harm_is_said_plainly(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, name in enumerate(NAMES):  # right before; a strong CRF moves it to a wrong edge
        scores = np.where(np.arange(3)[:, None, None] == truth(index), 0.2, -0.2)
        np.save(f"scores/{name}.npy", scores.astype(np.float32))
        Image.fromarray(np.roll(photograph(index), 5, axis=1)).save(f"images/{name}.png")
    found = report(capsys, "scores", "--preset", "psa")
    assert found["rows"]["before"]["mean_iou"]["value"] == 1
    assert found["rows"]["after"]["mean_iou"]["value"] < 0.95
    assert found["verdict"][0].startswith("after is WORSE: mean IoU 100.00 -> ")
    assert run("scores", "--preset", "psa") == 0
    assert "after is WORSE" in capsys.readouterr().out


def test_the_options_of_the_crf_reach_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, "scores", "--iterations", "0")
    assert found["differences"]["after"]["mean_iou"] == {"value": 0, "low": 0, "high": 0}
    assert found["verdict"][0].startswith("after makes no clear difference")
    assert list(report(capsys, "scores", "--no-crf")["rows"]) == ["before"]


def test_a_pack_of_quantized_scores(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = report(capsys, "scores")
    order = [2, 0, 3, 1]
    maps = np.stack([logits(index).transpose(1, 2, 0) for index in order])
    quantized = (maps * 4 + 30).astype(np.uint8)
    ids = np.array([NAMES[index] for index in order])
    np.savez("pack.npz", ids=ids, logits=quantized, scale=0.25, zero=30)
    packed = report(capsys, "pack.npz")
    assert packed["rows"] == alone["rows"]
    np.savez("pack.npz", ids=ids[:3], logits=quantized[:3], scale=0.25, zero=30)
    assert run("pack.npz") == 2
    assert "no scores of 1 of 4 images: b" in capsys.readouterr().err


@pytest.mark.usefixtures("lines_at_once")
def test_stderr_has_notes_and_progress_and_stdout_the_report(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scores", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["images"] == 4
    understood, _, _, _, _, first, *_, last = err.splitlines()
    assert understood.startswith("crfrnn evaluate: scores: logits, because ")
    assert first.startswith("evaluating: 1 of 4 images, ")
    assert last.startswith("evaluating: 4 of 4 images, in ")


def test_low_resolution_on_a_canvas(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cells of 4 pixels of a canvas of 33, corners aligned, as the pack of a DeepLab has them."""
    cells = np.zeros((4, 9, 9, 3), np.float32)
    for index in range(4):
        cells[index, ..., 0] = edge(index) - 0.5 - 4 * np.arange(9)
        cells[index, ..., 1 + index % 2] = -cells[index, ..., 0]
        cells[index, ..., 2 - index % 2] = -100
    np.savez("pack.npz", ids=np.array(NAMES), logits=cells)
    options = ("--canvas", "33", "--align-corners", "--no-crf")
    found = report(capsys, "pack.npz", *options)
    assert found["rows"]["before"]["mean_iou"]["value"] == 1


def test_labels_before_and_after(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("refined").mkdir()
    for index, name in enumerate(NAMES):
        Image.fromarray(truth(index)).save(f"refined/{name}.png")
    found = report(capsys, "labels", "refined")
    assert found["rows"]["before"]["mean_iou"]["value"] == pytest.approx(expected(refined=False))
    assert found["rows"]["after"]["mean_iou"]["value"] == 1
    assert found["crf"] is None
    assert list(report(capsys, "labels")["rows"]) == ["before"]


@needs_torch
@pytest.mark.parametrize("own", [True, False], ids=["its own CRF", "the CRF of the options"])
def test_models(folder: Path, capsys: pytest.CaptureFixture[str], own: bool) -> None:
    from crfrnn.models.checkpoint import Checkpoint

    torch.manual_seed(3)
    model = Checkpoint("light", 3, {"width": 2}, crf=crfrnn.CRFRNN(3) if own else None).eval()
    model.save("m")
    found = report(capsys, "m")
    data = open_folder("images", "masks", num_classes=3)

    def predict(sample: Any) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            before, after = model.logits(sample.image[None].float())
        if not own:
            after = crfrnn.refine(sample.image.permute(1, 2, 0).numpy(), logits=before[0]).probs[
                None
            ]
        return {"before": before[0].argmax(0), "after": after[0].argmax(0)}

    by_hand = evaluate(data, predict).summary(resamples=50)
    assert found["rows"] == by_hand["rows"]
    assert found["crf"] == ("the model's" if own else "refine")
    assert (found["parameters"] is None) == own
    assert list(report(capsys, "m", "--no-crf")["rows"]) == ["before"]


def test_tables_files_and_the_figure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("scores", "-o", "out.json", "--figure", "out.png", "--widths", "2,4") == 0
    out = capsys.readouterr().out
    written = json.loads(Path("out.json").read_text())
    for text in ("4 images", "mean IoU", "trimap IoU, 4 px", "boundary F", "difference", "100.00"):
        assert text in out
    assert "trimap IoU, 3 px" not in out
    assert written["settings"]["widths"] == [2, 4]
    value = 100 * written["rows"]["before"]["class_iou"]["1"]
    assert f"{value:.2f}" in out
    with Image.open("out.png") as image:  # three photographs in four columns
        width, height = image.size
    assert width == 2 * 24 + 4 * 320 + 3 * 14
    assert height > 3 * 320 * SIZE[0] / SIZE[1]
    assert sorted(path.name for path in folder.iterdir()) == [
        "images", "labels", "masks", "out.json", "out.png", "scores",
    ]  # fmt: skip


def test_a_class_that_is_nowhere_counts_in_no_mean(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "labels", *DATA[:-1], "5", "--json", "--resamples", "9"]) == 0
    text = capsys.readouterr().out
    assert "NaN" not in text
    row = json.loads(text)["rows"]["before"]
    assert row["class_iou"]["4"] is None
    assert row["mean_iou"]["value"] == pytest.approx(expected(refined=False))


def test_other_layouts_are_opened(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("images").rename("val")
    Path("masks").rename("valannot")
    Path("val.txt").write_text("a\nc\n")
    assert main(["evaluate", "labels", "--data", "camvid", "--root", ".", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["classes"][:2]) == (2, ["sky", "building"])


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "nowhere: expected labels, scores or a model, but it is missing"),
        (["labels", "scores"], "two sources must be folders of labels, before and after"),
        (["labels", "labels", "labels"], "expected one source, or two folders of labels; got 3"),
        (["images"], "a.png: expected labels or a mask|prediction"),
        (["empty"], "empty: this folder holds no label images, score arrays or model"),
        (["partial"], "for 3 of 4 images: b, c, d"),
        (["wide"], "--classes is 3, but the scores have 5 classes"),
        pytest.param(
            ["m"], "m: the model must have the 3 classes of the data; got 4", marks=needs_torch
        ),
        (["a.npy"], "a single file must be a .npz with `ids`"),
        (["labels", "--figure", "f.png"], "--figure needs labels before and after"),
        (["scores", "--figure", "f.txt"], "--figure must be a .png or .jpg or .jpeg file; got f"),
        (["scores", "--resamples", "0"], "resamples must be at least 1"),
        (["scores", "--preset", "best"], "unknown preset 'best'"),
        (["labels", "-o", "no/out.json"], "cannot write this file"),
        (["high"], "a, before: predicted ids must be 0..2; got 0..7"),
    ],
)
def test_bad_sources(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    for name in ("empty", "partial", "wide", "high"):
        Path(name).mkdir()
    Image.fromarray(truth(0)).save("partial/a.png")
    for name in NAMES:
        np.save(f"wide/{name}.npy", np.full((5, *SIZE), -1, np.float32))
        Image.fromarray(np.eye(*SIZE).astype(np.uint8) * 7).save(f"high/{name}.png")
    if arguments == ["m"]:
        from crfrnn.models.checkpoint import Checkpoint

        Checkpoint("light", 4, {"width": 2}).save("m")
    np.save("a.npy", np.zeros(3))
    code = main(["evaluate", *arguments, *DATA, *([] if "--resamples" in arguments else RESAMPLES)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    *understood, err = err.splitlines()  # a file is read after what was understood is said
    assert all(line.startswith("crfrnn evaluate: ") for line in understood)
    assert not any("error" in line for line in understood)
    assert any(part in err for part in text.split("|"))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--data", "voc"], "data set 'voc' needs root"),
        (["--data", "voc", "--root", "."], "JPEGImages: expected the photographs"),
        (
            ["--data", "folder", "--images", "images", "--masks", "masks"],
            "the number of classes is unknown: give --classes N",
        ),
        (["--data", "folder", "--root", "."], "--data folder needs --images and --masks"),
        (["--data", "camvid", "--root", "."], "val.txt: expected a text file"),
        (["--data", "coco"], "invalid choice: 'coco'"),
        ([], "the following arguments are required: --data"),
        ([*DATA, "--widths", "3,x"], "expected whole numbers with commas between them; got '3,x'"),
        ([*DATA, "--widths", "0"], "width must be at least 1"),
    ],
)
def test_bad_data(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert main(["evaluate", "labels", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert text in err


# Parts


def test_extremes() -> None:
    assert extremes([0.3, -0.5, 0.1, 0.9, 0.0]) == {"best": 3, "median": 2, "worst": 1}
    assert extremes([0.3]) == {"best": 0, "median": 0, "worst": 0}


def test_verdicts() -> None:
    before = {"mean_iou": {"value": 0.5}}
    texts = [
        verdict("x", before, {"mean_iou": {"value": gain, "low": gain - 0.02, "high": gain + 0.01}})
        for gain in (0.05, -0.05, 0.01)
    ]
    assert texts[0] == "x is better: mean IoU 50.00 -> 55.00 (+5.00, 95 % interval +3.00 to +6.00)"
    assert texts[1].startswith("x is WORSE: mean IoU 50.00 -> 45.00 (-5.00")
    assert texts[2].startswith("x makes no clear difference")


def test_nothing_but_void_has_no_verdict() -> None:
    counts = stack([Judge(np.full((4, 5), 255), 2).count(np.zeros((4, 5), np.int64))])
    found = Evaluation(("a",), ("x", "y"), Settings(), {"before": counts, "after": counts})
    assert found.summary()["verdict"] == ["after cannot be compared: no pixel has a true label"]


def test_many_methods_and_changes_of_single_images(folder: Path) -> None:
    data = open_folder("images", "masks", num_classes=3).in_numpy()
    seen = []
    found = evaluate(
        data,
        lambda s: {
            "before": s.label * 0,
            "after": np.where(s.label == 255, 2, s.label),
            "third": s.label * 0 + 2,
        },
        settings=Settings(widths=(2,)),
        advance=lambda: seen.append(1),
    )
    assert len(seen) == 4
    summary = found.summary(resamples=20)
    assert list(summary["differences"]) == ["after", "third"]
    assert summary["rows"]["after"]["mean_iou"]["value"] == 1
    changes = found.changes()
    # From all background, which is right on `edge` of 28 columns, to the truth.
    assert changes == pytest.approx([1 - edge(i) / 28 / 2 for i in range(4)])
    with pytest.raises(ValueError, match=r"a, bad: predicted ids must be 0\.\.2"):
        evaluate(data, lambda s: {"bad": s.label * 0 + 9})


@needs_torch
def test_a_false_class_counts_in_an_image_by_what_it_takes() -> None:
    label = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    found = {
        "before": stack([Judge(label, 3).count(label.index_fill(1, torch.tensor([0]), 2))]),
        "after": stack([Judge(label, 3).count(label)]),
    }
    changes = Evaluation(("a",), ("x", "y", "z"), Settings(), found).changes()
    assert changes == pytest.approx([1 - (3 / 4 + 1) / 2])


def test_the_first_lines_say_what_was_understood(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("labels", "labels") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "crfrnn evaluate: before: labels, because labels holds pictures and no arrays",
        "crfrnn evaluate: after: labels, because labels holds pictures and no arrays",
        "crfrnn evaluate: truth: 4 photographs with masks; 3 classes",
    ]
    assert lines[3] == "crfrnn evaluate: first: a, 20x28 (height x width), ids 0, 1, 255"
