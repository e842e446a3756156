"""What the documentation shows runs: Python blocks of the pages, and docstring examples."""

import ast
import contextlib
import doctest
import importlib.util
import inspect
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import crfrnn
from crfrnn import bilateralfilter, frankwolfe, presets, pydensecrf
from crfrnn.pydensecrf import densecrf, eigen, utils
from tests.cases import needs_torch, torch

ROOT = Path(__file__).parents[1]
PACKAGE = Path(crfrnn.__file__).parent

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

#: A fenced block, and the line before it, which may say `<!-- not run: why -->`.
BLOCK = re.compile(r"^(?P<before>[^\n]*)\n+```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
#: What the recipes are for. Their blocks run where the library is installed.
LIBRARY = re.compile(
    r"^(?:import|from) (segmentation_models_pytorch|timm|monai|lightning|transformers)\b", re.M
)
NOT_RUN = re.compile(r"<!-- not run: .+ -->")

#: Pages of which every block needs what the first one makes with torch.
TORCH_PAGES = {"layer.md", "losses.md", "mathematics.md", "train.md", "training.md"}

#: The units whose docstring examples run without torch.
OFFLINE = {
    "app",
    "bilateralfilter",
    "demo",
    "distributed",
    "evaluation",
    "io",
    "jobs",
    "offline",
    "plots",
    "presets",
    "pydensecrf",
    "tuning",
}


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    """The line each Python block starts at, and its code; without torch, those that need none."""
    text = "\n" + page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        if any(importlib.util.find_spec(name) is None for name in LIBRARY.findall(match["code"])):
            continue
        offline = page.name not in TORCH_PAGES and not re.search(r"\btorch\b", match["code"])
        if (torch is not None or offline) and not NOT_RUN.search(match["before"]):
            yield text.count("\n", 0, match.start("code")), match["code"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    """In one process for a page, one after the other, as a reader would type them."""
    found = list(blocks(page))
    if not found:
        pytest.skip("no Python block that runs here")
    # Each block stands on its own line numbers, so that an error names the line of the page.
    sources = ["\n" * (line - 1) + code for line, code in found]
    script = "".join(f"exec(compile({s!r}, {str(page)!r}, 'exec'))\n" for s in sources)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_pages_have_python_blocks_only_as_this_file_reads_them() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fences = len(re.findall(r"^\s*```\s*(?:python|py)\b", text, re.MULTILINE))
        assert fences == len(BLOCK.findall("\n" + text)), page


def examples() -> Iterator[tuple[str, str, Path, int]]:
    """Name, docstring, file and line of all in the package whose docstring has an example."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and ">>>" in text:
                    name = getattr(node, "name", "")
                    yield f"{module}:{name}", text, path, getattr(node, "lineno", 1)


@pytest.mark.parametrize(
    ("name", "text", "path", "line"),
    [
        pytest.param(*e, id=e[0], marks=() if re.split("[.:]", e[0])[1] in OFFLINE else needs_torch)
        for e in examples()
    ],
)
def test_docstring_examples_run(name: str, text: str, path: Path, line: int) -> None:
    run_example(name, text, path, line)


def run_example(name: str, text: str, path: Path, line: int) -> None:
    """Each imports what it uses, as a reader who pastes it must."""
    test = doctest.DocTestParser().get_doctest(text, {}, name, str(path), line)
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    with contextlib.redirect_stdout(report):
        runner.run(test)
    assert runner.failures == 0, report.getvalue()
    assert runner.tries > 0


def test_the_pictures_can_be_drawn_again(tmp_path: Path) -> None:
    """One of each kind; the others take the same way."""
    script = ROOT / "docs" / "make_pictures.py"
    command = [sys.executable, str(script), "iterations", "presets_chelsea"]
    subprocess.run([*command, "--output", str(tmp_path)], check=True, timeout=300)
    drawn = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.jpg")}
    assert drawn == {Path("parameters/iterations.jpg"), Path("gallery/presets_chelsea.jpg")}
    assert all((ROOT / "docs" / "images" / path).is_file() for path in drawn)


#: Whose names are public; what else the package holds is its own affair.
PUBLIC = [crfrnn, presets, pydensecrf, densecrf, utils, eigen, frankwolfe, bilateralfilter]

#: The documentation of everything public.
REFERENCE = ROOT / "docs" / "reference"


def base(dotted: str) -> str:
    return dotted.rpartition(".")[2]


def outer(dotted: str) -> str:
    return dotted.rpartition(".")[0]


def public_names() -> dict[str, Any]:
    """Each public function, class, method and property, by the name that a user writes."""
    names: dict[str, Any] = {}
    for module in PUBLIC:
        listed = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
        for name in listed:
            try:
                value = getattr(module, name)
            except ImportError:  # a part that needs torch
                assert torch is None
                continue
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            if not value.__module__.startswith("crfrnn"):
                continue
            # Without `__all__`, what a module has from elsewhere is not its own.
            if not hasattr(module, "__all__") and base(value.__module__) != base(module.__name__):
                continue
            names[f"{module.__name__}.{name}"] = value
            for inner, member in vars(value).items() if inspect.isclass(value) else ():
                method = getattr(member, "__func__", getattr(member, "fget", member))
                # What a method overrides has said what it does.
                inherited = any(hasattr(above, inner) for above in value.__bases__)
                if inspect.isfunction(method) and not inner.startswith("_") and not inherited:
                    names[f"{module.__name__}.{name}.{inner}"] = method
    return names


@pytest.mark.parametrize(("name", "value"), public_names().items(), ids=public_names())
def test_every_public_name_shows_an_example(name: str, value: Any) -> None:
    assert ">>>" in (value.__doc__ or ""), f"{name} has no example"


@pytest.mark.parametrize(
    ("name", "function"),
    [
        (name, value)
        for name, value in public_names().items()
        if inspect.isfunction(value)
        and value.__code__.co_filename != sys.modules[value.__module__].__file__
    ],
)
def test_examples_of_functions_that_other_modules_make_run(name: str, function: Any) -> None:
    """Their docstrings are made too, so `examples` does not find them."""
    run_example(name, function.__doc__, Path(function.__code__.co_filename), 1)


def test_every_public_name_has_a_place_in_the_reference() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    shown = set(re.findall(r"^\.\. auto\w+:: (\S+)", text, re.MULTILINE))
    names = public_names()
    # A class shows its methods, and `automodule` what is in it.
    assert not [n for n in names if n not in shown and outer(n) not in shown | names.keys()]


#: A link or picture of a page, without its anchor; those of the web are not followed.
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(?:#[^)\s]*)?\)")


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_to_files(page: Path) -> None:
    """In the sources, as GitHub shows them; `make docs` also checks the anchors of the site."""
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).is_file()]
