"""The name `CRF`, in this process and in those that it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crfrnn import frankwolfe
from crfrnn.cli import main
from tests.cases import torch

#: What programs import, in the program itself and in a process of its own.
PROGRAM = """
import subprocess, sys
from CRF import FrankWolfeParams
import CRF
print(CRF.__name__, FrankWolfeParams(x0_weight=0.0).x0_weight, flush=True)
line = "import CRF; print(CRF.FrankWolfeParams.__module__)"
subprocess.run([sys.executable, "-c", line], check=True, timeout=60)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def crfrnn_run(folder: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "crfrnn", "run", "program.py"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_program_runs_unchanged(folder: Path) -> None:
    expected = "crfrnn.frankwolfe 0.0\ncrfrnn.frankwolfe._params\n"
    assert crfrnn_run(folder) == (0, expected, "")


def test_a_module_of_the_program_keeps_the_name(folder: Path) -> None:
    (folder / "CRF.py").write_text("class FrankWolfeParams:\n    x0_weight = 0.5\n")
    (folder / "program.py").write_text(PROGRAM.replace("(x0_weight=0.0)", "()"))
    assert crfrnn_run(folder) == (0, "CRF 0.5\nCRF\n", "")


def test_installing_and_back() -> None:
    before, path = list(sys.path), os.environ.get("PYTHONPATH")
    assert not frankwolfe.taken()
    assert frankwolfe.install()
    try:
        assert frankwolfe.install()  # once is enough
        import CRF

        assert CRF is frankwolfe
        assert not frankwolfe.taken()
        assert len(sys.path) == len(before) + 1
    finally:
        frankwolfe.uninstall()
    assert not frankwolfe.installed()
    assert sys.path == before
    assert os.environ.get("PYTHONPATH") == path


def test_another_module_of_that_name_stays_unless_it_is_overridden(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "CRF.py").write_text("mine = True\n")
    monkeypatch.syspath_prepend(str(folder))
    assert frankwolfe.taken()
    with pytest.warns(UserWarning, match=r"a real CRF is installed .*CRF.py.* stays in use"):
        assert not frankwolfe.install()
    import CRF

    assert CRF.mine
    assert frankwolfe.install(override=True)
    import CRF

    assert CRF is frankwolfe
    frankwolfe.uninstall()
    assert sys.modules.pop("CRF").mine


def test_other_names_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AttributeError, match="has DenseGaussianCRF and FrankWolfeParams"):
        frankwolfe.ConvCRF  # noqa: B018 - the access is the test
    if torch is None:
        with pytest.raises(ImportError, match=r'pip install "crfrnn\[torch\]"'):
            frankwolfe.DenseGaussianCRF  # noqa: B018 - the access is the test
    else:
        assert frankwolfe.DenseGaussianCRF.__name__ == "DenseGaussianCRF"
    assert main(["run", "--help"]) == 0
    assert "DenseGaussianCRF" in capsys.readouterr().out
