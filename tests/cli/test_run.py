"""`crfrnn run`: a program runs as Python would run it, and finds the name `pydensecrf`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crfrnn.cli import main

#: What a program can see of how it was started, and how it may end.
PROGRAM = """
import sys
import neighbor
print(sys.argv, sys.path[0], __name__, __file__, __spec__ and __spec__.name, sys.stdin.read())
sys.stdout.flush()
if sys.argv[1] == "raise":
    raise OSError("told by the program")
sys.exit({"7": 7, "none": None}.get(sys.argv[1], sys.argv[1]))
"""

#: The name in the program itself, in a spawned worker and in a process of its own.
CRF = """
import subprocess, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import pydensecrf.densecrf as dcrf

def name():
    return dcrf.DenseCRF.__module__

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        print(name(), pool.submit(name).result(60), flush=True)
    line = "import pydensecrf.densecrf as dcrf; print(dcrf.DenseCRF.__module__)"
    subprocess.run([sys.executable, "-c", line], check=True, timeout=60)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a folder of programs."""
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "program.py").write_text(PROGRAM)
    (tmp_path / "programs" / "neighbor.py").touch()
    (tmp_path / "programs" / "crf.py").write_text(CRF)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    done = subprocess.run(
        [sys.executable, *arguments],
        input="typed", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("start", [["programs/program.py"], ["-m", "program"]])
@pytest.mark.parametrize(
    "arguments", [["7", "--help", "--", "-x", "a b"], ["none"], ["a text"], ["raise"]]
)
def test_a_program_runs_as_with_python(
    start: list[str], arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if start[0] == "-m":
        monkeypatch.chdir(folder / "programs")
    expected = python(*start, *arguments)
    assert expected[1].endswith("typed\n")
    assert python("-m", "crfrnn", "run", *start, *arguments) == expected


def test_the_program_and_its_workers_find_the_name(folder: Path) -> None:
    ours = "crfrnn.pydensecrf._model"
    expected = (0, f"{ours} {ours}\n{ours}\n", "")
    assert python("-m", "crfrnn", "run", "programs/crf.py") == expected


def test_no_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    assert "Give SCRIPT or -m MODULE" in capsys.readouterr().err
    code, out, err = python("-m", "crfrnn", "run", "missing.py")
    assert (code, out) == (2, "")
    assert "missing.py" in err


@pytest.mark.parametrize("start", ["programs/program.py", "-m"])
def test_sources_of_the_original_beside_the_program_are_refused(
    start: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python looks there first."""
    sources = folder / ("" if start == "-m" else "programs") / "pydensecrf"
    sources.mkdir()
    (sources / "__init__.py").touch()
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it was started"))
    assert main(["run", start, "program"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"crfrnn run: error: the program would import {sources}")
    assert err.count("\n") == 1
