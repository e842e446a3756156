"""The league of refiners: methods, the search, resumption, and the intervals."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.refiners import report
from benchmarks.refiners.counts import decode, encode
from benchmarks.refiners.crfs import RANKSEG, numbers_of, rankseg
from benchmarks.refiners.figure import Point, draw
from benchmarks.refiners.journal import Journal, Key
from benchmarks.refiners.method import Method, Scene, Span, likely, over_classes, softmax
from benchmarks.refiners.pool import Estimate
from benchmarks.refiners.table import methods, present
from benchmarks.refiners.tuning import Plan, survivors
from benchmarks.refiners.worker import in_child, refined, warm
from crfrnn.evaluation.metrics import Counts, Judge, Settings
from tests.cases import needs_core

pytestmark = [
    needs_core,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # a fork beside torch's threads
]

ROOT = Path(__file__).parents[1]
LEFT, RIGHT, CLASSES = 1, 3, 5  # with gaps, as on a photograph of a few of many classes

#: What lets a method see the two colors: its defaults suit photographs of 500 pixels.
NUMBERS: dict[str, dict[str, Any]] = {
    "joint-upsampling": {"position": 0.5, "color": 20.0},
    "random-walker": {"sure": 0.75, "beta": 130.0},
    "grab-cut": {"sure": 0.97, "iterations": 2},
    "closed-form-matting": {"sure": 0.97, "epsilon": 1e-5},
    "pamr": {"softness": 0.1, "iterations": 10, "dilations": (1, 2, 4)},
}


def two_colors(height: int = 40, width: int = 56, seed: int = 0) -> tuple[Scene, np.ndarray]:
    """A picture of two colors, and coarse scores that are noisy and blurred across the edge."""
    random = np.random.default_rng(seed)
    truth = np.full((height, width), LEFT)
    truth[:, width // 2 + 3 :] = RIGHT
    colors = np.where(truth[..., None] == LEFT, (60, 90, 40), (190, 120, 160))
    image = np.clip(colors + random.normal(0, 4, colors.shape), 0, 255).astype(np.uint8)
    cells = truth[::4, ::4]
    coarse = np.full((CLASSES, *cells.shape), -3.0)
    coarse[LEFT] = np.where(cells == LEFT, 1.5, -0.5) + random.normal(0, 0.9, cells.shape)
    coarse[RIGHT] = np.where(cells == RIGHT, 1.5, -0.5) + random.normal(0, 0.9, cells.shape)
    logits = coarse.repeat(4, 1).repeat(4, 2).astype(np.float32)
    return Scene(image, logits, coarse.astype(np.float32), (height, width), False), truth


def numbers_for(method: Method) -> dict[str, Any]:
    crf = {**numbers_of("deeplab"), "position": 20.0, "color": 13.0}
    if "position" in method.start[0] and "near" in method.start[0]:
        return {**method.start[0], **crf}
    if method.same_as:
        return crf
    return NUMBERS.get(method.name, dict(method.start[0]))


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_a_method_keeps_the_shape_and_improves_noisy_scores(method: Method) -> None:
    if method.missing() is not None:
        pytest.skip(str(method.missing()))
    scene, truth = two_colors()
    before = np.mean(scene.logits.argmax(axis=0) == truth)
    kept = scene.image.copy(), scene.logits.copy()
    out = method.refine(scene, numbers_for(method))
    assert np.array_equal(scene.image, kept[0])
    assert np.array_equal(scene.logits, kept[1])
    if out.ndim == 3:
        assert out.shape == scene.logits.shape
        assert np.isfinite(out).all()
    labels = out if out.ndim == 2 else out.argmax(axis=0)
    assert labels.shape == truth.shape
    assert set(np.unique(labels)) <= {LEFT, RIGHT}
    after = np.mean(labels == truth)
    if method.name == "network":
        assert after == before
    elif method.name == RANKSEG:
        assert abs(after - before) < 0.05  # it does not look at the image
    elif method.name == "crfrnn-default":
        assert after > before  # its bandwidths are for larger images
    else:
        assert after > before + 0.01


def test_the_row_of_trained_parameters_reads_a_saved_layer(tmp_path: Path) -> None:
    from crfrnn import CRFRNN, Bilateral

    CRFRNN(CLASSES, [Bilateral(20, 13, weight=4)], normalization="symmetric").save_pretrained(
        tmp_path
    )
    row = methods(tmp_path)[-1]
    scene, truth = two_colors()
    outcome = refined(row, scene, {}, None)
    before = np.mean(scene.logits.argmax(axis=0) == truth)
    assert np.mean(outcome.labels["crfrnn-trained"] == truth) > before + 0.01
    with pytest.raises(FileNotFoundError, match=r"layer has no config\.json"):
        methods(tmp_path / "layer")


def test_classes_that_are_nowhere_likely_are_left_out_but_two_stay() -> None:
    probs = np.zeros((4, 2, 2), np.float32)
    probs[0], probs[2], probs[3] = 0.96, 0.03, 0.01
    assert likely(probs).tolist() == [0, 2]
    out = over_classes(probs, lambda maps: maps - 0.02)
    np.testing.assert_allclose(out[:, 0, 0], [94 / 95, 0, 1 / 95, 0], atol=1e-6)


def test_rankseg_labels_what_an_argmax_misses() -> None:
    pytest.importorskip("rankseg")
    probs = np.zeros((2, 10, 10), np.float32)
    probs[1] = 0.02
    probs[1, :2] = 0.9
    probs[1, 2] = 0.45  # below a half, but worth it for the overlap of the small object
    probs[0] = 1 - probs[1]
    labels = rankseg(probs, {"metric": "dice", "least": 0.5})
    assert (labels[:3] == 1).all()
    assert (labels[3:] == 0).all()


def test_proposals_begin_with_the_defaults_and_repeat_for_a_seed() -> None:
    row = next(row for row in methods() if row.name == "crfrnn")
    numbers = row.proposals(6, 0)
    assert numbers[0] == numbers_of("deeplab")
    assert numbers[1] == numbers_of("crfasrnn")
    assert numbers == row.proposals(6, 0)
    assert numbers[:4] == row.proposals(4, 0)
    assert numbers[2:] != row.proposals(6, 1)[2:]
    for name, span in row.space.items():
        assert isinstance(span, Span)
        assert all(span.low <= drawn[name] <= span.high for drawn in numbers[2:])
    assert len({str(drawn) for drawn in numbers}) == 6


def test_the_search_keeps_the_best_half_and_the_defaults() -> None:
    assert survivors({0: 1.0, 1: 5.0, 2: 3.0, 3: 4.0}, 2) == [0, 1, 3]
    plan = Plan(trials=8, images=16, seed=0, limit=1)
    assert plan.rungs() == [4, 8, 16]
    row = next(row for row in methods() if row.name == "pamr")
    assert plan.calls(row) == 8 * 4 + 4 * 4 + 2 * 8
    assert plan.calls(next(row for row in methods() if row.name == "network")) == 0


def test_names_bring_what_they_build_on_and_missing_packages_leave_out() -> None:
    assert [row.name for row in methods(names=["crfrnn-guard"])] == [
        "network", "rankseg", "crfrnn", "crfrnn-guard",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="unknown method 'crf'; expected one of: network, guided"):
        methods(names=["crf"])
    absent = Method("a", "A", methods()[0].refine, needs=("no_such_package",), install="that")
    tuned_there = Method("b", "B", methods()[0].refine, same_as="a")
    assert present([absent, tuned_there]) == ([], ["A: left out, install that"])


def test_a_child_reports_its_labels_time_and_memory() -> None:
    scene, _ = two_colors()

    def refine(scene: Scene, numbers: Any) -> np.ndarray:
        big = np.ones(40_000_000, np.uint8)
        return scene.probs() * big[0]

    outcome = in_child(lambda: refined(Method("m", "M", refine), scene, {}, None), 60)
    assert np.array_equal(outcome.labels["m"], scene.logits.argmax(axis=0))
    assert 39e6 < outcome.memory["m"] < 80e6
    assert outcome.seconds["m"] > 0


def test_a_child_that_fails_dies_or_hangs_is_reported() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        in_child(lambda: 1 / 0, 60)
    with pytest.raises(RuntimeError, match="its process died"):
        in_child(lambda: os.kill(os.getpid(), 9), 60)
    scene, _ = two_colors()
    empty = Method("m", "M", lambda scene, numbers: scene.probs() * np.nan)
    with pytest.raises(RuntimeError, match="the result is not finite"):
        in_child(lambda: refined(empty, scene, {}, None), 60)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"took longer than 0\.2 s"):
        in_child(lambda: time.sleep(30), 0.2)
    assert time.monotonic() - start < 10


def test_counts_survive_a_line_of_json() -> None:
    truth = np.array([[0, 0, 2, 2], [0, 0, 2, 255], [0, 1, 1, 2]])
    counts = Judge(truth, 3, Settings((1,))).count(np.roll(truth, 1, axis=1) % 3)
    again = decode(json.loads(json.dumps(encode(counts))), 3, 1)
    for name in ("confusion", "trimap", "band", "contour"):
        np.testing.assert_array_equal(getattr(again, name), getattr(counts, name))


def _counts(right: int, wrong: int) -> Counts:
    """Two classes, equally often true, with as many right and wrong pixels in each."""
    confusion = np.array([[right, wrong], [wrong, right]])
    share = np.array([[right] * 2, [right + 2 * wrong] * 2])
    return Counts(confusion, confusion[None], share, np.array([[right] * 2, [10] * 2] * 2))


def _journal(folder: Path, answers: dict[str, list[Counts]]) -> Journal:
    journal = Journal(folder, {})
    for name, counts in answers.items():
        for index, one in enumerate(counts):
            answer = {
                "counts": {name: encode(one)}, "seconds": {name: 0.5}, "memory": {name: 2_000_000},
                "error": None, "wall": 1.0,
            }  # fmt: skip
            journal.add(Key("test", name, 0, f"p{index}"), answer)
    return journal


def _league(folder: Path, answers: dict[str, list[Counts]]) -> dict[str, Any]:
    rows = [Method(name, name.upper(), methods()[0].refine) for name in answers]
    tuned = {name: {"numbers": {}, "trial": 0} for name in answers}
    photographs = [f"p{index}" for index in range(len(next(iter(answers.values()))))]
    facts = {
        "widths": [3], "note": "", "train": None, "missing": [], "test": {"scores": "s.npz"},
        "trials": 1, "images": 1, "seed": 0,
    }  # fmt: skip
    journal = _journal(folder, answers)
    return report.summarize(rows, tuned, photographs, 2, journal, "ours", facts)


def test_the_bootstrap_against_a_known_answer(tmp_path: Path) -> None:
    easy, hard, perfect = _counts(9, 1), _counts(5, 5), _counts(10, 0)
    league = _league(
        tmp_path,
        {"network": [easy, hard] * 10, "ours": [perfect] * 20, "same": [easy, hard] * 10},
    )
    rows = league["rows"]
    # 14 right of 20 in each class: the IoU is 14 / (40 - 14) of what the sums give.
    mean = rows["network"]["scores"]["mean_iou"]
    assert mean["value"] == pytest.approx(14 / 26)
    assert mean["low"] < mean["value"] < mean["high"]
    # A resample with k easy photographs of 20 has (9 k + 5 (20 - k)) right pixels of 200.
    iou = {k: (4 * k + 100) / (300 - 4 * k) for k in range(21)}
    assert mean["low"] == pytest.approx(min(iou.values(), key=lambda v: abs(v - mean["low"])))
    assert iou[4] <= mean["low"] <= iou[7]  # the binomial's 2.5 % quantile is 6
    assert iou[13] <= mean["high"] <= iou[16]
    assert rows["ours"]["over_network"]["mean_iou"]["value"] == pytest.approx(1 - 14 / 26)
    # Equal predictions differ by nothing in every resample, because draws are paired.
    assert set(rows["same"]["over_network"]["mean_iou"].values()) == {0.0}
    worse = rows["network"]["over_reference"]["mean_iou"]
    assert worse["high"] < 0
    assert rows["ours"]["over_reference"] is None
    text = report.markdown(league)
    assert "| **OURS** | 100.00 [100.0, 100.0] |  |" in text
    assert f"**{100 * worse['value']:+.2f}**" in text
    for path in report.write(tmp_path, league):
        assert path.stat().st_size > 0


def test_a_journal_drops_a_cut_line_and_refuses_other_settings(tmp_path: Path) -> None:
    journal = _journal(tmp_path, {"a": [_counts(9, 1)] * 2})
    path = tmp_path / "answers.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    again = Journal(tmp_path, {})
    assert list(again.answers) == [("test", "a", 0, "p0")]
    again.add(Key("test", "a", 0, "p1"), journal.answers[Key("test", "a", 0, "p1")])
    assert path.read_bytes() == whole


def test_a_journal_refuses_other_settings_and_takes_one_more(tmp_path: Path) -> None:
    Journal(tmp_path, {"seed": 0, "trained": None})
    Journal(tmp_path, {"seed": 0, "trained": "layer"})
    with pytest.raises(ValueError, match=r"other settings \(seed, trained\)"):
        Journal(tmp_path, {"seed": 1, "trained": "another"})


def test_the_estimate_counts_each_method_at_its_own_pace(tmp_path: Path) -> None:
    estimate = Estimate(2, {"fast": 101, "slow": 11, "new": 5}, Journal(tmp_path, {}))
    estimate.add(Key("test", "fast", 0, "p"), {"wall": 3.6})
    assert estimate.hours() is None
    estimate.add(Key("test", "slow", 0, "p"), {"wall": 72.0})
    mean = (3.6 + 72) / 2
    assert estimate.hours() == pytest.approx((100 * 3.6 + 10 * 72 + 5 * mean) / 3600 / 2)


def test_the_figure_shows_ours_in_its_color() -> None:
    points = [Point("a", 0.1, {"IoU": 70.0}, False), Point("b", 1.5, {"IoU": 71.0}, True)]
    colors = {color for _, color in draw(points, {"IoU": 69.0}).getcolors(1 << 20)}
    assert {(213, 94, 0), (0, 114, 178)} <= colors


def _write_pack(folder: Path, name: str, seeds: range) -> None:
    (folder / "photographs").mkdir(exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    logits = []
    for seed in seeds:
        scene, truth = two_colors(seed=seed)
        Image.fromarray(scene.image).save(folder / "photographs" / f"p{seed}.png")
        Image.fromarray(truth.astype(np.uint8)).save(folder / "masks" / f"p{seed}.png")
        logits.append(scene.coarse)
    np.savez(folder / name, ids=np.array([f"p{seed}" for seed in seeds]), logits=np.stack(logits))


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_and_gives_the_same_table(tmp_path: Path) -> None:
    _write_pack(tmp_path, "train.npz", range(4))
    _write_pack(tmp_path, "test.npz", range(4, 7))
    command = [
        sys.executable, "-m", "benchmarks", "refiners",
        "--photographs", str(tmp_path / "photographs"), "--masks", str(tmp_path / "masks"),
        "--scores", str(tmp_path / "test.npz"), "--train-scores", str(tmp_path / "train.npz"),
        "--trials", "2", "--images", "4", "--methods", "crfrnn-guard",
    ]  # fmt: skip
    whole, parted = tmp_path / "whole", tmp_path / "parted"

    def go(output: Path) -> subprocess.CompletedProcess[str]:
        line = [*command, "--output", str(output)]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)

    first = go(whole)
    assert first.returncode == 0, first.stderr
    calls = len((whole / "answers.jsonl").read_text().splitlines())
    path = parted / "answers.jsonl"
    killed = subprocess.Popen([*command, "--output", str(parted)], cwd=ROOT, stderr=subprocess.PIPE)
    while not path.is_file() or path.read_bytes().count(b"\n") < 3:
        assert killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    kept = path.read_bytes()
    done = kept.count(b"\n")
    assert 3 <= done < calls
    again = go(parted)
    assert again.returncode == 0, again.stderr
    assert f"{calls - done} of them to do" in again.stderr
    assert path.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert path.read_bytes().count(b"\n") == calls
    tables = [
        json.loads((folder / "league.json").read_text())["rows"] for folder in (whole, parted)
    ]
    for row in (*tables[0].values(), *tables[1].values()):
        for measured in ("seconds", "seconds_longest", "megabytes"):
            row.pop(measured)
    assert tables[0] == tables[1]
    assert tables[0]["crfrnn"]["over_network"]["mean_iou"]["low"] > 0


def test_photographs_for_tuning_are_not_those_for_scoring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.refiners import main

    _write_pack(tmp_path, "test.npz", range(2))
    options = [
        "--photographs", str(tmp_path / "photographs"), "--masks", str(tmp_path / "masks"),
        "--scores", str(tmp_path / "test.npz"), "--train-scores", str(tmp_path / "test.npz"),
        "--output", str(tmp_path / "out"),
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert (
        "2 photographs are both for tuning and for scoring, such as p0" in capsys.readouterr().err
    )


def test_scores_of_a_trained_network_become_a_file_for_the_league(tmp_path: Path) -> None:
    import torch

    from benchmarks.refiners import pack
    from benchmarks.refiners.data import Folders, Split
    from crfrnn.models.checkpoint import Checkpoint

    torch.manual_seed(0)
    model = Checkpoint("light", CLASSES, {"width": 4}).eval()
    model.save(tmp_path / "model")
    _write_pack(tmp_path, "unused.npz", range(2))
    folders = ["--photographs", str(tmp_path / "photographs")]
    options = ["--model", str(tmp_path / "model"), *folders, "--size", "20", "28"]
    pack.main([*options, "--output", str(tmp_path / "scores.npz")])
    split = Split(Folders(tmp_path / "photographs", tmp_path / "masks", tmp_path / "scores.npz"))
    assert (split.names, split.num_classes) == (["p0", "p1"], CLASSES)
    scene, label = split.read("p1")
    assert label.shape == scene.logits.shape[1:] == (40, 56)
    picture = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(picture, (20, 28), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = model.logits(small)[0][0]
    expected -= expected.amax(dim=0)
    np.testing.assert_allclose(scene.coarse, expected.numpy(), atol=2e-3)


def test_softmax_sums_to_one() -> None:
    assert softmax(np.array([[1000.0, 0], [1000, 0]], np.float32)).tolist() == [[0.5, 0.5]] * 2


def test_methods_are_warmed_up_with_the_classes_of_the_run(
    capfd: pytest.CaptureFixture[str],
) -> None:
    seen = []

    def refine_five(scene: Scene, numbers: Any) -> np.ndarray:
        seen.append(len(scene.logits))
        return scene.logits

    warm([Method("five", "FIVE", refine_five)], 5)
    assert seen == [5]
    assert "failed" not in capfd.readouterr().err
