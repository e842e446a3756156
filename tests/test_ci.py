"""What CI is told to do exists: scripts, verbs, constraints and versions; smoke.py can refuse."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import crfrnn
from crfrnn.cli import TORCH_EXTRA
from tests.cases import needs_core

if sys.version_info >= (3, 11):
    import tomllib

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CONSTRAINTS = sorted(ROOT.glob("constraints*.txt"))

#: `make NAME`, and files of the repository, in a shell command.
VERB = re.compile(r"\bmake ([a-z-]+)")
SCRIPT = re.compile(r"(?<![\w/])\.ci/[\w.]+|\b(?:constraints|requirements)[\w-]*\.txt")
EXPRESSION = re.compile(r"\$\{\{ *matrix\.(\w+) *\}\}")


def read(path: Path) -> dict[str, Any]:
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(tree, dict)
    return tree


def jobs() -> Iterator[Any]:
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            yield pytest.param(job, id=f"{path.stem}-{name}")


def expand(text: str, job: dict[str, Any]) -> list[str]:
    """`text` for each value of the matrix that it names, or alone."""
    matrix = job.get("strategy", {}).get("matrix", {})
    found = EXPRESSION.search(text)
    if found is None:
        return [text]
    values = matrix.get(found[1]) or [entry[found[1]] for entry in matrix["include"]]
    return [line for value in values for line in expand(text.replace(found[0], str(value)), job)]


def commands(job: dict[str, Any]) -> list[str]:
    return [line for step in job["steps"] if "run" in step for line in expand(step["run"], job)]


def test_there_are_workflows() -> None:
    assert {path.stem for path in WORKFLOWS} >= {"ci", "nightly", "wheels"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_ask_for_no_more_rights_than_they_use(path: Path) -> None:
    tree = read(path)
    assert tree["permissions"] == {"contents": "read"}
    writers = [name for name, job in tree["jobs"].items() if "permissions" in job]
    assert writers == (["publish"] if path.stem == "wheels" else [])


@pytest.mark.parametrize("job", list(jobs()))
def test_jobs_call_only_what_exists(job: dict[str, Any]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    verbs = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert job["timeout-minutes"] <= 180
    for step in job["steps"]:
        assert ("run" in step) != ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@(?:v\d[\w.]*|release/v\d+)", step["uses"])
    for line in commands(job):
        unknown = set(VERB.findall(line)) - verbs
        assert not unknown, f"{line}: no such verb"
        for name in SCRIPT.findall(line):
            assert (ROOT / name).is_file(), f"{line}: {name} is missing"


@pytest.mark.parametrize("job", list(jobs()))
def test_torch_comes_before_whatever_asks_for_it(job: dict[str, Any]) -> None:
    steps = [step.get("run", step.get("uses", "")) for step in job["steps"]]
    asking = re.compile(r"\[torch\]|--torch with\b|\bmake (?!test-offline)|\.ci/run")
    first = next((i for i, step in enumerate(steps) if asking.search(step)), len(steps))
    bringing = [i for i, step in enumerate(steps) if "cpu_torch.py" in step or "mamba" in step]
    assert first == len(steps) or min(bringing) < first


@pytest.mark.skipif(sys.version_info < (3, 11), reason="reads pyproject.toml with tomllib")
def test_what_asks_for_torch_is_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert not [need for need in project["dependencies"] if "torch" in need]
    assert [name for name, needs in extras.items() if "torch>=2.6" in needs] == ["torch"]
    assert tuple(re.split(r"[><=]", need)[0] for need in extras["torch"]) == TORCH_EXTRA
    asking = {name for name, needs in extras.items() if "crfrnn[torch]" in needs}
    assert asking == {"distributed", "tensorboard", "transformers", "gpu", "hub", "dev"}


def test_publishing_needs_every_build_a_tag_and_the_environment() -> None:
    job = read(ROOT / ".github" / "workflows" / "wheels.yml")["jobs"]["publish"]
    assert set(job["needs"]) == {"wheels", "sdist"}
    assert job["environment"] == "release"
    assert "refs/tags/v" in job["if"]
    assert job["permissions"]["id-token"] == "write"
    assert "secrets." not in str(job)


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.name)
def test_constraints_pin_one_version_each(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in pins)
    names = [pin.split("==")[0] for pin in pins]
    assert "torch" in names
    assert len(set(names)) == len(names)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="reads pyproject.toml with tomllib")
def test_versions_and_floors_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = project["version"]
    assert read(ROOT / "CITATION.cff")["version"] == version
    recipe = read(ROOT / "packaging" / "conda" / "recipe.yaml")
    assert recipe["context"]["version"] == version
    run = {line.split()[0] for line in recipe["requirements"]["run"]}
    needs = {re.split(r"[><=]", line)[0] for line in project["dependencies"]}
    torch = set(project["optional-dependencies"]["torch"])
    assert not needs & {"torch", *torch}
    assert run - {"python"} == needs | torch - {"torch>=2.6"}
    assert recipe["requirements"]["run_constraints"] == ["pytorch >=2.6"]
    floors = dict(
        re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(project["dependencies"]), re.M)
        + re.findall(r"([\w-]+)>=([\d.]+)", str(project["optional-dependencies"]))
    )
    oldest = dict(
        line.split("==")
        for line in (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    for name in ("torch", "optuna", "lightning-fabric"):
        assert f"{oldest[name]}.".startswith(f"{floors[name]}."), f"{name}: not the oldest"
    cpython = project["requires-python"].removeprefix(">=")
    assert f'python: "{cpython}"' in (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")


def test_smoke_refuses_the_checkout() -> None:
    if ROOT / "src" not in Path(crfrnn.__file__).parents:
        pytest.skip("the package is not that of the checkout")
    line = [sys.executable, str(ROOT / ".ci" / "smoke.py")]
    run = subprocess.run(
        line,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert run.returncode == 1
    assert "is the checkout, not a wheel" in run.stderr


def test_without_apt_the_browser_is_asked_for_by_name(tmp_path: Path) -> None:
    """The tests of the page need it, and not every system installs it in the same way."""
    if os.name == "nt":
        pytest.skip("needs a shell")
    bash = shutil.which("bash")
    assert bash is not None
    script = ROOT / ".ci" / "browser"
    done = subprocess.run(
        [bash, str(script)], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "chromium-browser, or google-chrome) and chromedriver" in done.stderr
    assert "package manager" in done.stderr


@needs_core
def test_the_stub_is_that_of_the_core() -> None:
    """An editable build writes it anew, which would leave every fresh clone with a change."""
    stubgen = pytest.importorskip("nanobind.stubgen")
    core = importlib.import_module("crfrnn._core")
    stub = stubgen.StubGen(core)
    stub.put(core)
    committed = (ROOT / "src" / "crfrnn" / "_core.pyi").read_text(encoding="utf-8")
    assert stub.get() == committed, "build it (make dev), and commit src/crfrnn/_core.pyi"


#: Extras of the package that the oldest constraints leave to a resolver: tools of documentation.
_NOT_OLDEST = {"docs", "bench"}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib")
def test_the_oldest_constraints_name_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra, packages in project["optional-dependencies"].items():
        wanted += [] if extra in _NOT_OLDEST else packages
    names = {re.split(r"[\s<>=;\[]", line)[0].lower() for line in wanted} - {"crfrnn"}
    text = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
    pinned = {line.split("==")[0].lower() for line in text.splitlines() if "==" in line}
    assert names <= pinned, names - pinned
