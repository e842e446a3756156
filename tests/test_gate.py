"""The performance gate: what its rows say, and when it fails."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import gate
from benchmarks.refine_vs_pydensecrf import ours_on


def runs(*ratios: float) -> list[dict[str, float]]:
    return [{"ratio": ratio, "seconds": 0.1, "labels_equal": 0.999} for ratio in ratios]


def test_a_row_shows_the_median_and_the_ends() -> None:
    row = gate.summary(runs(9.0, 4.0, 11.0))
    assert (row["median"], row["slowest"], row["fastest"]) == (9.0, 4.0, 11.0)


def test_only_a_loss_beyond_the_tolerance_fails() -> None:
    before = {"a": gate.summary(runs(10.0)), "b": gate.summary(runs(10.0))}
    now = {"a": gate.summary(runs(8.6)), "b": gate.summary(runs(8.4)), "new": gate.summary(runs(1))}
    assert gate.failures(now, before, 0.15) == ["b: 8.40x, was 10.00x"]


def test_each_case_takes_the_photograph_as_it_says() -> None:
    image = np.zeros((300, 280, 3), np.uint8)
    logits = np.random.default_rng(0).normal(size=(21, 300, 280)).astype(np.float32)
    for case in gate.CASES:
        seen, scores = case.inputs(image, logits)
        assert seen.shape[:2] == scores.shape[1:] == ((case.side or 300), (case.side or 280))
        assert len(scores) == (case.classes or 21)
        assert scores.dtype == np.float32


def test_another_machine_and_a_slower_version_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    pack = tmp_path / "scores.npz"
    np.savez(pack, ids=np.array(["a"]), logits=np.zeros((1, 4, 5, 3), np.float32))
    monkeypatch.setattr(gate, "measure", lambda case, pictures: runs(5.0) * len(pictures))
    saved = tmp_path / "run.json"
    arguments = ["--photographs", str(tmp_path), "--scores", str(pack)]
    gate.main([*arguments, "--save", str(saved)])
    gate.main([*arguments, "--against", str(saved)])
    monkeypatch.setattr(gate, "measure", lambda case, pictures: runs(4.0) * len(pictures))
    with pytest.raises(SystemExit, match=r"slower than the stored run: 160/3, two threads: 4\.00x"):
        gate.main([*arguments, "--against", str(saved)])
    facts = json.loads(saved.read_text())
    saved.write_text(json.dumps({**facts, "machine": {"machine": "other", "processors": 64}}))
    with pytest.raises(SystemExit, match="2"):
        gate.main([*arguments, "--against", str(saved)])
    assert "another machine" in capsys.readouterr().err


def test_a_batch_is_refined_at_once_by_ours_and_one_by_one_by_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[tuple[int, ...]] = []

    def theirs_on(image: np.ndarray, *arguments: object) -> Callable[[], np.ndarray]:
        called.append(image.shape)
        return ours_on(image, *arguments)  # type: ignore[arg-type]  # the same labels

    monkeypatch.setattr(gate, "theirs_on", theirs_on)
    random = np.random.default_rng(0)
    pictures = [
        (
            f"{number}",
            random.integers(0, 256, (24, 20, 3), np.uint8),
            random.normal(size=(3, 24, 20)).astype(np.float32),
        )
        for number in range(2)
    ]
    case = gate.Case("batch", 1, side=16, batch=3)
    rows = list(gate.measure(case, pictures))
    assert [row["photograph"] for row in rows] == ["0", "1"]
    assert [row["labels_equal"] for row in rows] == [1, 1]
    assert called == 6 * [(16, 16, 3)]  # three photographs a row: 0 1 0, 1 0 1


def test_training_is_timed_with_the_layer_and_compared_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "theirs_on", ours_on)
    steps: list[int] = []
    trained = gate.trained

    def counted(case: gate.Case, *inputs: np.ndarray) -> Callable[[], object]:
        steps.append(case.iterations)
        return trained(case, *inputs)

    monkeypatch.setattr(gate, "trained", counted)
    logits = np.random.default_rng(0).normal(size=(4, 12, 10)).astype(np.float32)
    picture = ("0", np.zeros((12, 10, 3), np.uint8), logits)
    case = next(case for case in gate.CASES if case.train)
    (row,) = gate.measure(case, [picture])
    assert steps == [5]
    assert row["labels_equal"] == 1
    with pytest.raises(ValueError, match="the layer has kernels"):
        list(gate.measure(gate.Case("other", 1, gate.DEEPLAB, train=True), [picture]))
