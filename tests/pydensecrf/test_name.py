"""The name `pydensecrf` in processes that a program starts, and as a distribution of its own."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import crfrnn.pydensecrf as package

ROOT = Path(__file__).parents[2]
DISTRIBUTION = ROOT / "packages" / "pydensecrf"
FACE = Path(package.__file__).parent / "face"

#: Seconds after which a process is ended; a pool whose workers die starts new ones for ever.
PATIENCE = 120

OURS = "crfrnn.pydensecrf._model"


def python(folder: Path, *arguments: str, path: Path | None = None) -> tuple[int, str, str]:
    """Exit code, output and errors of a process; `path` comes first on its PYTHONPATH."""
    environment = dict(os.environ)
    if path is not None:
        parts = [str(path), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(parts)
    # Not pipes: what a process that is ended has left behind would keep them open.
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        code = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder, env=environment, stdout=out, stderr=err, timeout=PATIENCE, check=False,
        ).returncode  # fmt: skip
    return code, (folder / "out").read_text(), (folder / "err").read_text()


#: Ways to call `work` in another process, with `context` and `concurrent` at hand.
WAYS = {
    "spawned pool": """
    with context("spawn").Pool(1) as pool:
        print(pool.apply_async(work).get(60))""",
    "forkserver pool": """
    with context("forkserver").Pool(1) as pool:
        print(pool.apply_async(work).get(60))""",
    "forked pool": """
    with context("fork").Pool(1) as pool:
        print(pool.apply_async(work).get(60))""",
    "executor": """
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context("spawn")) as pool:
        print(pool.submit(work).result(60))""",
    "joblib": """
    import joblib
    print(joblib.Parallel(2, timeout=60)(joblib.delayed(work)() for _ in range(2))[0])""",
    "subprocess": """
    command = [sys.executable, "-c", "from client import work; print(work())"]
    subprocess.run(command, check=True, timeout=60)""",
    "subprocess of a spawned pool": """
    with context("spawn").Pool(1) as pool:
        command = [sys.executable, "-c", "from client import work; print(work())"]
        pool.apply_async(subprocess.check_call, (command,)).get(60)""",
}

MAIN = """
import concurrent.futures, subprocess, sys, warnings
from multiprocessing import get_context as context

import crfrnn.pydensecrf

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of fork beside threads
if __name__ == "__main__":
    crfrnn.pydensecrf.install(override=True)
    from client import work
{way}
"""


@pytest.mark.parametrize("way", WAYS)
def test_workers_find_the_name(way: str, tmp_path: Path) -> None:
    """Their functions lie in a module that imports it, and the program's main file is guarded."""
    if sys.platform == "win32" and "fork" in way:
        pytest.skip("Windows has no fork")
    if way == "joblib":
        pytest.importorskip("joblib")
    (tmp_path / "client.py").write_text(
        "import pydensecrf.densecrf as dcrf\n"
        "from pydensecrf.utils import unary_from_softmax\n"
        "def work():\n    return dcrf.DenseCRF.__module__\n"
    )
    (tmp_path / "main.py").write_text(MAIN.format(way=WAYS[way]))
    code, out, err = python(tmp_path, "main.py")
    assert (code, out) == (0, f"{OURS}\n"), err


# The distribution


#: As programs do that can go without.
OPTIONAL = """
import importlib.util
import numpy as np

try:
    import pydensecrf.densecrf as dcrf
    import pydensecrf.eigen
    from pydensecrf.utils import *
except ImportError:
    raise SystemExit("no CRF")

assert importlib.util.find_spec("pydensecrf") and importlib.util.find_spec("pydensecrf.utils")
image = np.zeros((4, 6, 3), np.uint8)
image[:, 3:] = 200
right = np.full((4, 6), 0.5)
right[:, :2], right[:, 4:] = 0.1, 0.9
crf = dcrf.DenseCRF2D(6, 4, 2)
crf.setUnaryEnergy(unary_from_softmax(np.stack([1 - right, right])))
crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
print(np.argmax(crf.inference(5), axis=0).reshape(4, 6)[0].tolist(), dcrf.DenseCRF.__module__)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel of the distribution installs."""
    for need in ("pip", "scikit_build_core"):
        pytest.importorskip(need, reason="builds a wheel")
    folder = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    code, _, err = python(folder, *command, "--wheel-dir", str(folder), str(DISTRIBUTION))
    assert code == 0, err
    (wheel,) = folder.glob("*.whl")
    assert wheel.name == "pydensecrf-1.1+crfrnn-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_one_file_and_needs_crfrnn(site: Path) -> None:
    assert [path.name for path in (site / "pydensecrf").iterdir()] == ["__init__.py"]
    (metadata,) = site.glob("*.dist-info/METADATA")
    lines = metadata.read_text().splitlines()
    assert "Requires-Dist: crfrnn" in lines
    assert "Classifier: Private :: Do Not Upload" in lines


def test_an_optional_import_finds_the_distribution(site: Path, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(OPTIONAL)
    code, out, err = python(tmp_path, "main.py", path=site)
    assert (code, out, err) == (0, f"[0, 0, 0, 1, 1, 1] {OURS}\n", "")


def test_the_distribution_has_the_file_of_the_folder() -> None:
    """Two copies, as a wheel cannot hold a file from outside its project."""
    (ours,) = FACE.rglob("*.py")
    (theirs,) = DISTRIBUTION.rglob("*.py")
    assert ours.read_text() == theirs.read_text()


@pytest.mark.parametrize("override", [False, True])
def test_a_compiled_module_beside_the_file_stays_in_use(override: bool, tmp_path: Path) -> None:
    """The distribution, installed over a real one of another name."""
    place = tmp_path / "site" / "pydensecrf"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text(next(FACE.rglob("*.py")).read_text())
    (place / "densecrf.py").write_text("class DenseCRF: pass\n")
    install = "import crfrnn; crfrnn.pydensecrf.install(override=True)\n" if override else ""
    (tmp_path / "main.py").write_text(
        f"{install}import pydensecrf.densecrf as d; print(d.DenseCRF.__module__)\n"
    )
    code, out, err = python(tmp_path, "main.py", path=place.parent)
    assert (code, out) == (0, f"{OURS if override else 'pydensecrf.densecrf'}\n"), err
    assert ("a real pydensecrf is installed" in err) != override


def test_install_beside_the_distribution(tmp_path: Path) -> None:
    """Whichever comes first."""
    calls = "import crfrnn; assert crfrnn.pydensecrf.install()", "import pydensecrf.densecrf as d"
    for lines in (calls, calls[::-1]):
        script = "\n".join([*lines, "print(d.DenseCRF.__module__)"])
        code, out, err = python(tmp_path, "-c", script, path=DISTRIBUTION / "src")
        assert (code, out, err) == (0, f"{OURS}\n", "")
