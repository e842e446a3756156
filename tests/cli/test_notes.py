"""Warnings and notes: at once, once, counted, and never lost."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import crfrnn.cli
from crfrnn.cli import main
from crfrnn.cli._notes import Notes, warnings_at_once
from crfrnn.jobs import files
from crfrnn.offline.inputs import Inputs
from crfrnn.offline.options import RefineOptions

# The session turns warnings into errors; these tests are about warnings that are not.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    return lambda: capsys.readouterr().err.splitlines()


def test_a_warning_is_said_when_it_comes_and_once(said: Callable[[], list[str]]) -> None:
    with warnings_at_once("crfrnn train"):
        for text in ("no  such\nweight", "other", "no such weight"):
            warnings.warn(text, stacklevel=1)
            if text != "no such weight":
                assert said() == [f"crfrnn train: warning: {' '.join(text.split())}"]
        assert said() == []
    assert said() == ["crfrnn train: warning: 2 times: no such weight"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_a_warning_is_not_lost_when_the_command_fails(
    said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def info() -> None:
        warnings.warn("the weights do not match", UserWarning, stacklevel=1)
        raise error

    monkeypatch.setattr("crfrnn.info", info)
    assert main(["info"]) in (2, 130)
    first, last = said()
    assert first == "crfrnn info: warning: the weights do not match"
    assert last in ("crfrnn info: error: bad", "crfrnn info: interrupted")


def test_filters_of_the_user_hold(said: Callable[[], list[str]]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "not this")
        with warnings_at_once("crfrnn train"):
            warnings.warn("not this", stacklevel=1)
    assert said() == []


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_only_the_first_process_says_them(
    said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, rank: str, lines: int
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", rank)
    with warnings_at_once("crfrnn train"):
        warnings.warn("fits badly", stacklevel=1)
    assert len(said()) == lines


def test_notes_that_differ_by_the_file_are_one_sentence(said: Callable[[], list[str]]) -> None:
    notes = Notes("crfrnn refine", "note", "files")
    for name in ("a.npy", "b.npy"):
        notes.add(f"{name} read as logits", "read as logits")
    notes.add("alone")
    assert said() == ["crfrnn refine: note: a.npy read as logits", "crfrnn refine: note: alone"]
    notes.finish()
    assert said() == ["crfrnn refine: note: 2 files: read as logits"]
    notes.finish()
    assert said() == []


def test_what_a_folder_leaves_out_is_said_before_the_work(
    said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import numpy as np
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for folder in ("images", "scores"):
        Path(folder).mkdir()
    for name in "abc":
        Image.new("RGB", (8, 6)).save(f"images/{name}.png")
    for name, values in (("b", np.zeros((3, 6, 8), np.float32)), ("c", np.zeros(7))):
        np.save(f"scores/{name}.npy", values)
    lines: list[str] = []
    refine = files.refine_on

    def look(device: str, inputs: Inputs, options: RefineOptions) -> crfrnn.Refined:
        lines.extend(said())
        return refine(device, inputs, options)

    monkeypatch.setattr(files, "refine_on", look)
    arguments = ["refine", "images", "scores", "-o", "out", "--kind", "logits", "--workers", "1"]
    assert main(arguments) == 1
    assert lines[3:] == ["crfrnn refine: note: images without scores (1): a"]
    (failure,) = said()
    assert failure.startswith("crfrnn refine: failed: c: ")
