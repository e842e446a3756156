"""The rules of the house that no other tool holds: who imports whom, what is public, how long."""

import ast
import inspect
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import crfrnn

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "crfrnn"
SOURCES = sorted(PACKAGE.rglob("*.py"))
HEADERS = sorted((ROOT / "csrc").rglob("*.hpp"))

# Unit -> the units of ours it may import. A unit is a subpackage or a module beside them; `ops` is
# split by engine. Any unit may import those of BASICS. An arrow never points up: a unit comes after
# everything that it may import.
BASICS = {"_arrays", "_checks", "_door", "_extras", "_face", "_guards", "_guide", "_resampling"}
ARROWS = {
    "_arrays": "",
    "_checks": "_arrays",
    "_door": "_arrays",
    "_guards": "_arrays _checks",
    "_extras": "",
    "_guide": "_arrays _checks _guards",
    "_face": "",
    "_resampling": "_arrays",
    "core": "_core",
    "ops.arrays": "core",
    "ops.model": "core",
    "ops.frank_wolfe": "ops.model",
    "ops.reference_lattice": "ops.arrays",
    "ops.reference": "core ops.arrays ops.model ops.frank_wolfe ops.reference_lattice",
    "ops.cpu": "core ops.arrays ops.model ops.reference _core",
    "ops.triton": "core ops.arrays ops.model ops.frank_wolfe ops.reference",
    "ops.engines": "core ops.arrays ops.model ops.reference ops.cpu ops.triton",
    "ops.transforms": "",
    "ops.band_gradients": "ops.reference",
    "ops.filters": "ops.arrays ops.model ops.reference ops.band_gradients ops.engines"
    " ops.transforms",
    "ops.clamped": "core ops.model ops.reference ops.filters",
    "ops.normalization": "ops.model ops.engines ops.filters ops.transforms",
    "ops.recurrence": "core ops.model ops.engines ops.normalization ops.transforms",
    "ops": "ops.arrays ops.model ops.frank_wolfe ops.engines ops.filters ops.clamped"
    " ops.normalization ops.recurrence ops.transforms",
    "_version": "",
    "_info": "core ops _version",
    "io": "",
    "crf": "core ops",
    "presets": "core crf io",
    "layer": "core crf presets io ops",
    "offline": "core crf presets io ops",
    "plots": "io",
    "containers": "core crf presets io offline plots",
    "pydensecrf": "core crf ops",
    "frankwolfe": "core crf layer",
    "bilateralfilter": "crf",
    "jobs": "core presets io offline plots containers _version",
    "distributed": "core io offline jobs",
    "data": "io",
    "evaluation": "data io",
    "models": "layer io",
    "integrations": "models io",
    "training": "core evaluation data models layer crf presets io",
    "tuning": "core training evaluation data models layer offline crf presets io",
    "ablation": "core tuning training evaluation models layer presets io ops",
    "demo": "offline presets plots io",
    "app": "core crf data demo evaluation io offline plots presets",
    "bench": "core demo data layer offline presets pydensecrf io ops",
    "__init__": "app offline presets pydensecrf frankwolfe bilateralfilter layer models crf io"
    " _info _version",
    "cli": "core __init__ app ablation tuning training integrations evaluation models data"
    " containers jobs distributed offline demo bench plots presets pydensecrf frankwolfe"
    " bilateralfilter crf io"
    " _info _version",
    "__main__": "cli",
}

# Packages that only the units named here may import.
GUESTS = {
    "fsspec": "io",
    "gradio": "app",
    "huggingface_hub": "io",
    "lightning_fabric": "training",
    "optuna": "tuning",
    "pyarrow": "jobs",
    "ray": "distributed",
    "skimage": "demo",
    "torchvision": "integrations",
    "transformers": "integrations",
    "triton": "ops.triton",
}

# Folder of the core -> the folders it may include. `loops` is compiled once per instruction set,
# and the linker must not mix it with other code. The bindings lie in no folder; only they know
# Python.
CORE = {
    "base": "",
    "loops": "",
    "lattice": "base loops",
    "filters": "base loops lattice",
    "crf": "base loops lattice filters",
}

MAX_LINES = {"*.py": 400, "*.hpp": 400}


def unit_of(module: str) -> str:
    """`crfrnn.cli.refine` -> `cli`, `crfrnn.ops.cpu` -> `ops.cpu`, `crfrnn` -> `__init__`."""
    parts = module.split(".")[1:] or ["__init__"]
    return ".".join(parts[: 2 if parts[0] == "ops" else 1])


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return name == "crfrnn._core" or path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path) -> Iterator[str]:
    """Every module `path` imports, anywhere in it, by absolute name."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if base.startswith("crfrnn") and is_module(name) else base


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_downwards(path: Path) -> None:
    unit = unit_of(module_of(path))
    assert unit in ARROWS, f"{unit} is new: give it a line in ARROWS"
    allowed = {unit, *BASICS, *ARROWS[unit].split()}
    used = set(imports(path))
    ours = {unit_of(name) for name in used if name.split(".")[0] == "crfrnn"}
    guests = {name.split(".")[0] for name in used} & GUESTS.keys()
    assert ours <= allowed
    assert not {guest for guest in guests if unit not in GUESTS[guest].split()}


def test_arrows_make_no_cycle() -> None:
    below: set[str] = {"_core"}
    for unit, arrows in ARROWS.items():
        assert set(arrows.split()) <= below, f"{unit} imports from a unit further down the table"
        below.add(unit)


@pytest.mark.parametrize("folder", CORE)
def test_includes_of_the_core_point_downwards(folder: str) -> None:
    sources = [
        path for path in (ROOT / "csrc" / folder).iterdir() if path.suffix in (".cpp", ".hpp")
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    used = {Path(name).parent.name for name in re.findall(r'#include "([^"]+)"', text)}
    assert used <= {folder, *CORE[folder].split()}
    assert "nanobind" not in text


def test_public_names_are_those_listed() -> None:
    present = {
        name
        for name, value in vars(crfrnn).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    listed = {
        name
        for name in crfrnn.__all__
        if not name.startswith("_") and not isinstance(getattr(crfrnn, name), ModuleType)
    }
    assert present == listed
    assert len(set(crfrnn.__all__)) == len(crfrnn.__all__)


def public_callables() -> Iterator[Any]:
    """Each public function and class, and each public method of those classes, with an id."""
    for name in crfrnn.__all__:
        value = getattr(crfrnn, name)
        if not inspect.isclass(value) and not inspect.isfunction(value):
            continue
        yield pytest.param(value, id=name)
        for inner, member in vars(value).items() if inspect.isclass(value) else ():
            function = getattr(member, "__func__", member)  # out of classmethod, staticmethod
            if inspect.isfunction(function) and not inner.startswith("_"):
                yield pytest.param(function, id=f"{name}.{inner}")


@pytest.mark.parametrize("value", list(public_callables()))
def test_public_callables_are_documented_and_annotated(value: Callable[..., Any]) -> None:
    doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert doc, "no docstring"
    assert not doc.startswith(f"{value.__name__}("), "the docstring a dataclass makes for itself"
    parameters = [p for p in inspect.signature(value).parameters.values() if p.name != "self"]
    bare = [p.name for p in parameters if p.annotation is p.empty and p.name != "cls"]
    assert not bare, f"without annotation: {bare}"
    if inspect.isfunction(value):
        assert "return" in value.__annotations__, "no return annotation"


@pytest.mark.parametrize("path", [*SOURCES, *HEADERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES[f"*{path.suffix}"], "split it"


# Written so that these lines do not match themselves.
FORBIDDEN = {
    "a path of one machine": re.compile(
        r"(?<![\w.~*])/(?:root|home|work|opt|Us[e]rs)/|[A-Z]:\\Us[e]rs"
    ),
    "a package registry": re.compile(
        r"py[p]i|ana[c]onda|index[-_]url|find[-_]links|down[l]oad\.py", re.I
    ),
}


# The one way to upload without a stored token is an action whose name holds a registry's.
ALLOWED = ("wheels.yml", f"- uses: pypa/gh-action-{'py' + 'pi'}-publish@release/v1")


def repository_files() -> list[Path]:
    """What git tracks, or would once added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("what", list(FORBIDDEN))
def test_texts_speak_of_the_library_alone(what: str) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout")
    files = repository_files()
    assert PACKAGE / "__init__.py" in files
    found = []
    for path in files:
        data = path.read_bytes()
        if b"\0" in data:
            continue  # not a text
        for number, line in enumerate(data.decode("utf-8").splitlines(), start=1):
            if FORBIDDEN[what].search(line) and (path.name, line.strip()) != ALLOWED:
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, f"{what}: {found}"
