"""`crfrnn bench`: what it times, beside whom, and when it keeps the times to itself."""

import json
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import crfrnn
from crfrnn.bench import CASES, Timing, in_turn, measure, original_model, picture
from crfrnn.cli import main
from tests.cases import needs_core

SMALL = ("bench", "--size", "24", "--repeats", "2")
OURS = crfrnn.pydensecrf.densecrf.DenseCRF2D


class Original(OURS):
    """What stands for the original here: ours, under another module's name."""


class Wrong(Original):
    """One that gives every pixel the last class."""

    def inference(self, *args: Any, **options: Any) -> np.ndarray:
        return np.cumsum(np.ones_like(super().inference(*args, **options)), axis=0)


def put(monkeypatch: pytest.MonkeyPatch, model: type | None) -> None:
    """Let `import pydensecrf.densecrf` find a module with this class, or nothing."""
    module = None
    if model is not None:
        module = ModuleType("pydensecrf.densecrf")
        module.DenseCRF2D = model
    monkeypatch.setitem(sys.modules, "pydensecrf", module and ModuleType("pydensecrf"))
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", module)


@pytest.mark.usefixtures("lines_at_once")
def test_json_tells_every_case_on_one_and_all_threads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(monkeypatch, None)
    threads = torch.get_num_threads()
    assert main([*SMALL, "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    total = len(told["timings"])
    assert f"timing: {total} of {total} cases, in " in err
    info = crfrnn.info()
    assert torch.get_num_threads() == threads == told["threads"]
    assert told["size"] == 24
    assert told["engine"] == info.runs["CPU float32"]
    assert told["instructions"] == info.instructions
    assert told["torch"] == torch.__version__
    assert told["pydensecrf"] is False
    expected = [(n, case) for n in dict.fromkeys((1, threads)) for case in CASES]
    assert [(row["threads"], row["case"]) for row in told["timings"]] == expected
    for row in told["timings"]:
        assert len(row["seconds"]) == 2
        assert min(row["seconds"]) > 0
        assert row["original"] is None
        assert row["ratios"] == []


def test_table_without_the_original_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(monkeypatch, None)
    monkeypatch.setenv("COLUMNS", "140")
    assert main([*SMALL]) == 0
    out = capsys.readouterr().out
    assert all(case in out for case in CASES)
    assert "24 x 24 pixels" in out
    assert "median [s]" in out
    assert f"engine {crfrnn.info().runs['CPU float32']} (" in out
    assert "ratio" not in out
    assert "pip install --no-build-isolation pydensecrf2" in out


def test_the_original_is_timed_in_turn(
    one_thread: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(monkeypatch, Original)
    *compared, layer = measure(picture(24), 3, [1])
    for timing in compared:
        assert timing.case.startswith("refine")
        assert timing.agreement >= 0.99
        assert len(timing.ratios) == len(timing.original) == len(timing.seconds) == 3
    assert layer.original is None
    monkeypatch.setenv("COLUMNS", "140")
    assert main([*SMALL]) == 0
    out = capsys.readouterr().out
    assert "pydensecrf [s]" in out
    assert "same labels" in out
    assert "pydensecrf has one thread" in out


def test_no_times_of_an_original_that_gives_other_labels(
    one_thread: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(monkeypatch, Wrong)
    timings = list(measure(picture(24), 1, [1]))
    for timing in timings[:-1]:
        assert timing.agreement < 0.99
        assert timing.original is None
        assert len(timing.seconds) == 1
    assert main([*SMALL]) == 0
    assert "timed only where 99% of its labels are the same" in capsys.readouterr().out


def test_this_library_in_its_place_is_not_the_original() -> None:
    crfrnn.pydensecrf.install(override=True)
    try:
        assert original_model() is None
    finally:
        crfrnn.pydensecrf.uninstall()


@needs_core
def test_info_names_the_instructions_of_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    from crfrnn import _core

    assert crfrnn.info().instructions == _core.instruction_set()
    monkeypatch.setattr("crfrnn.core.native.core_missing", lambda: "not built")
    assert crfrnn.info().instructions == ""
    assert "instructions          none" in str(crfrnn.info())


def test_the_number_of_threads_is_set_back(one_thread: None) -> None:
    seen = []
    for timing in measure(picture(8), 1, [2]):
        seen.append((timing.threads, torch.get_num_threads()))
    assert seen == [(2, 2)] * len(CASES)
    assert torch.get_num_threads() == 1


def test_runs_alternate_after_a_warm_up() -> None:
    order: list[str] = []
    seconds = in_turn((lambda: order.append("a"), lambda: order.append("b")), 2)
    assert "".join(order) == "ababab"
    assert [len(kept) for kept in seconds] == [2, 2]


def test_ratios_are_pair_by_pair() -> None:
    assert Timing("", 1, [1.0, 2.0], [3.0, 4.0]).ratios == [3.0, 2.0]


def test_photograph_is_cut_around_its_middle_or_goes_on_mirrored() -> None:
    pytest.importorskip("skimage")
    whole, cut, wide = picture(512), picture(500), picture(1026)
    assert whole.name == "astronaut"
    np.testing.assert_array_equal(cut.image, whole.image[6:-6, 6:-6])
    np.testing.assert_array_equal(cut.logits, whole.logits[:, 6:-6, 6:-6])
    np.testing.assert_array_equal(wide.image[:512, 512:1024], whole.image[:, ::-1])
    np.testing.assert_array_equal(wide.logits[:, 512:1024, :512], whole.logits[:, ::-1])


@pytest.mark.parametrize("size", [1, 31, 64])
def test_synthetic_where_there_is_no_photograph(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    monkeypatch.setitem(sys.modules, "skimage", None)
    made = picture(size)
    assert made.name == "synthetic"
    assert made.image.shape == (size, size, 3)
    assert made.logits.shape == (21, size, size)
    np.testing.assert_array_equal(made.logits, picture(size).logits)
    if size == 64:
        assert len(np.unique(made.logits.argmax(0))) == 3  # ground, discs and bars
        assert crfrnn.refine(made.image, logits=made.logits).pruned is not None


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--size", "0"], "size must be at least 1; got 0"),
        (["--repeats", "0"], "repeats must be at least 1; got 0"),
        (["--size", "wide"], "argument --size: invalid int value: 'wide'"),
    ],
)
def test_bad_options_take_one_line(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1
