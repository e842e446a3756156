"""The import names `pydensecrf`, `CRF` and `bilateralfilter`, here and in other processes."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from crfrnn import bilateralfilter, frankwolfe, pydensecrf
from crfrnn.cli import main


@dataclass(frozen=True)
class Case:
    """A name, and what programs do with it."""

    package: ModuleType
    module: str
    member: str
    home: str  # the module of ours that defines the member
    use: str  # a program that prints `shown`
    shown: str

    @property
    def name(self) -> str:
        return self.module.partition(".")[0]

    @property
    def folder(self) -> str:
        return str(Path(str(self.package.__file__)).with_name("face"))

    def find(self) -> ModuleType:
        """What an import of the module finds."""
        return importlib.import_module(self.module)


CASES = {
    "pydensecrf": Case(
        pydensecrf,
        "pydensecrf.densecrf",
        "DenseCRF2D",
        "crfrnn.pydensecrf.densecrf",
        """
import numpy as np
import pydensecrf.densecrf as dcrf
d = dcrf.DenseCRF2D(3, 2, 4)
d.setUnaryEnergy(np.zeros((4, 6), np.float32))
print(np.asarray(d.inference(1)).shape)
""",
        "(4, 6)",
    ),
    "CRF": Case(
        frankwolfe,
        "CRF",
        "FrankWolfeParams",
        "crfrnn.frankwolfe._params",
        "import CRF; print(CRF.__name__, CRF.FrankWolfeParams(x0_weight=0.0).x0_weight)",
        "crfrnn.frankwolfe 0.0",
    ),
    # What the losses import, and what they compute: the energy of a batch, and its gradient.
    "bilateralfilter": Case(
        bilateralfilter,
        "bilateralfilter",
        "bilateralfilter_batch",
        "crfrnn.bilateralfilter._filter",
        """
import numpy as np
from bilateralfilter import bilateralfilter, bilateralfilter_batch
images = np.full((2, 3, 4, 5), 90, np.float32)
S = np.full((2, 3, 4, 5), 1 / 3, np.float32)
AS = np.zeros(S.size, dtype=np.float32)
bilateralfilter_batch(images.flatten(), S.flatten(), AS, 2, 3, 4, 5, 15, 100.0)
print(AS.min() > 0, AS.dtype)
""",
        "True float32",
    ),
}

every_name = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
#: The names that `crfrnn run` leaves to the program if it has a module of its own.
POLITE = "CRF", "bilateralfilter"
polite = pytest.mark.parametrize("case", [CASES[name] for name in POLITE], ids=POLITE)

#: Who has the name, in the program itself and in a process of its own.
PROGRAM = """
import subprocess, sys
from {0.module} import {0.member}
print({0.member}.__module__, flush=True)
line = "from {0.module} import {0.member}; print({0.member}.__module__)"
subprocess.run([sys.executable, "-c", line], check=True, timeout=60)
"""


@pytest.fixture(autouse=True)
def unnamed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No trace of the names among the imported modules, before and after."""

    def traces() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in CASES]

    for name in traces():
        monkeypatch.delitem(sys.modules, name)
    yield
    for case in CASES.values():
        case.package.uninstall()
    for name in traces():
        del sys.modules[name]
    importlib.invalidate_caches()


def rival(folder: Path, case: Case) -> Path:
    """Write a module of that name."""
    file = folder.joinpath(*case.module.split(".")).with_suffix(".py")
    file.parent.mkdir(exist_ok=True)
    if file.parent != folder:
        (file.parent / "__init__.py").touch()
    file.write_text(f"class {case.member}: pass\n")
    return file


def crfrnn_run(folder: Path, program: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a program that `crfrnn run` starts."""
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "crfrnn", "run", "program.py"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@every_name
def test_a_program_runs_unchanged(case: Case, tmp_path: Path) -> None:
    expected = f"{case.shown}\n{case.home}\n{case.home}\n"
    assert crfrnn_run(tmp_path, case.use + PROGRAM.format(case)) == (0, expected, "")


@polite
def test_a_module_of_the_program_keeps_the_name(case: Case, tmp_path: Path) -> None:
    rival(tmp_path, case)
    expected = f"{case.name}\n{case.name}\n"
    assert crfrnn_run(tmp_path, PROGRAM.format(case)) == (0, expected, "")


@every_name
@pytest.mark.parametrize("variable", ["", "a", os.pathsep.join("ab")])
def test_installing_and_back(case: Case, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", variable)
    before = list(sys.path)
    assert not case.package.installed()
    for _ in range(2):  # once is enough
        # The environment may hold the original of pydensecrf.
        assert case.package.install(override=case.name == "pydensecrf")
        assert case.package.installed()
    assert importlib.import_module(case.name) is case.package
    assert getattr(case.find(), case.member).__module__ == case.home
    assert sys.path.count(case.folder) == 1
    assert os.environ["PYTHONPATH"].split(os.pathsep).count(case.folder) == 1
    for _ in range(2):
        case.package.uninstall()
        assert not case.package.installed()
        assert case.name not in sys.modules
        assert sys.path == before
        assert os.environ.get("PYTHONPATH", "") == variable


@every_name
def test_the_folder_comes_last_or_before_what_has_the_name(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("script", f"sources/{case.name}", "other"):
        (tmp_path / name).mkdir(parents=True)
    script, sources, other = (str(tmp_path / name) for name in ("script", "sources", "other"))
    given = {(script, other): [script, other, case.folder]}
    given[script, sources, other] = [script, case.folder, sources, other]
    for path, expected in given.items():
        monkeypatch.setattr(sys, "path", list(path))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
        assert case.package.install(override=True)
        assert sys.path == expected
        assert os.environ["PYTHONPATH"] == os.pathsep.join(expected)
        case.package.uninstall()


@every_name
@pytest.mark.parametrize("imported", [False, True])
def test_another_module_of_that_name_stays_unless_it_is_overridden(
    case: Case, imported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = rival(tmp_path, case)
    monkeypatch.syspath_prepend(tmp_path)
    before = case.find() if imported else None
    with pytest.warns(UserWarning, match="override=True") as caught:
        assert not case.package.install()
    assert not case.package.installed()
    message = str(caught[0].message)
    assert message.startswith(f"a real {case.name} is installed ({tmp_path / case.name}")
    assert "stays in use" in message
    assert case.find().__file__ == str(file)
    if not imported:
        for name in (case.module, case.name):
            sys.modules.pop(name, None)
    assert case.package.install(override=True)
    assert getattr(case.find(), case.member).__module__ == case.home
    case.package.uninstall()
    assert case.find().__file__ == str(file)
    assert before in (None, case.find())


@every_name
def test_the_warning_names_the_line_of_the_program(case: Case, tmp_path: Path) -> None:
    rival(tmp_path, case)
    program = tmp_path / "program.py"
    program.write_text(f"import {case.package.__name__} as ours\n\nours.install()\n")
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr.startswith(f"{program}:3: UserWarning: a real {case.name} is installed")


@polite
def test_whether_the_name_is_taken(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not case.package.taken()
    assert case.package.install()
    assert not case.package.taken()
    case.package.uninstall()
    rival(tmp_path, case)
    monkeypatch.syspath_prepend(tmp_path)
    assert case.package.taken()
    case.find()
    assert case.package.taken()


def test_the_command_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in [*CASES, "DenseGaussianCRF"])
