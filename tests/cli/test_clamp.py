"""`crfrnn refine --clamp` and `--band`."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn.cli import main
from tests.cli.scene import SIZE, logits, photograph


def seeds() -> np.ndarray:
    """A scribble of class 2 on the left."""
    clamp = np.full(SIZE, 255, np.uint8)
    clamp[8:16, 4:9] = 2
    return clamp


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a photograph, logits and seeds, alone and in folders."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "scores", "seeds"):
        Path(name).mkdir()
    for stem in ("a", "images/b", "images/c"):
        Image.fromarray(photograph()).save(f"{stem}.png")
    for stem in ("a", "scores/b", "scores/c"):
        np.save(f"{stem}.npy", logits())
    for stem in ("s", "seeds/b", "seeds/c"):
        Image.fromarray(seeds()).save(f"{stem}.png")
    return tmp_path


def refine(*arguments: str, image: str = "a.png", scores: str = "a.npy", out: str = "o.png") -> int:
    return main(["refine", image, scores, "-o", out, *arguments])


def read(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int64)


def expected(**options: Any) -> np.ndarray:
    return np.asarray(crfrnn.refine(photograph(), logits=logits(), **options).labels)


def test_a_map_of_classes(folder: Path) -> None:
    assert refine("--clamp", "s.png") == 0
    np.testing.assert_array_equal(read("o.png"), expected(clamp=seeds()))
    assert (read("o.png")[8:16, 4:9] == 2).all()
    np.save("s.npy", seeds())
    assert refine("--clamp", "s.npy", out="p.png") == 0
    np.testing.assert_array_equal(read("p.png"), read("o.png"))


def test_a_map_of_bools(folder: Path) -> None:
    held = np.zeros(SIZE, bool)
    held[:, 12:20] = True  # where the border would move
    np.save("h.npy", held)
    assert refine("--clamp", "h.npy") == 0
    np.testing.assert_array_equal(read("o.png"), expected(clamp=held))
    assert (read("o.png") != expected()).any()
    np.save("h.npy", held[:3])
    assert refine("--clamp", "h.npy") == 2


def test_a_band(folder: Path) -> None:
    assert refine("--band", "2") == 0
    np.testing.assert_array_equal(read("o.png"), expected(band=2))
    assert (read("o.png") != expected()).any()


def test_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def again(*options: str) -> int:
        return refine(*options, image="images", scores="scores", out="out")

    assert again("--clamp", "seeds") == 0
    for stem in ("b", "c"):
        np.testing.assert_array_equal(read(f"out/{stem}.png"), expected(clamp=seeds()))
    assert json.loads(Path("out/crfrnn-refine.json").read_text())["clamp"].endswith("seeds")
    capsys.readouterr()
    assert again("--clamp", "seeds") == 0
    assert "0 refined, 2 already there" in capsys.readouterr().out
    later = Path("out/b.png").stat().st_mtime + 9
    os.utime("seeds/b.png", (later, later))  # a map that was only touched
    assert again("--clamp", "seeds") == 0
    assert "0 refined, 2 already there" in capsys.readouterr().out
    changed = np.array(Image.open("seeds/b.png"))
    changed[-1, -1] = 255 if changed[-1, -1] != 255 else 0  # a map that was drawn again
    Image.fromarray(changed).save("seeds/b.png")
    os.utime("seeds/b.png", (later + 1, later + 1))
    assert again("--clamp", "seeds") == 0
    assert "1 refined, 1 already there" in capsys.readouterr().out
    assert again() == 2
    assert "clamp was" in capsys.readouterr().err
    Path("seeds/c.png").unlink()
    assert again("--clamp", "seeds") == 2
    assert "expected one map for each image; got none or several for 1 of 2: c" in (
        capsys.readouterr().err
    )


def test_a_folder_of_an_earlier_version_had_no_clamp(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refine(image="images", scores="scores", out="out") == 0
    path = Path("out/crfrnn-refine.json")
    manifest = json.loads(path.read_text())
    del manifest["clamp"]
    del manifest["parameters"]["band"]
    path.write_text(json.dumps(manifest))
    for stem in ("b", "c"):
        Path(f"out/{stem}.png").touch()
    capsys.readouterr()
    assert refine(image="images", scores="scores", out="out") == 0
    assert "0 refined, 2 already there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clamp", "missing.png"], "--clamp missing.png: no such file or folder"),
        (["--clamp", "seeds"], "--clamp must be a file, like IMAGE; got seeds"),
        (["--clamp", "wide.png"], "wide.png"),
        (["--clamp", "five.png"], "clamp must hold classes 0..2, or 255 for free pixels; got 5"),
        (["--band", "0"], "band is a distance in pixels and must be positive and finite; got 0"),
        (["--band", "wide"], "invalid float value: 'wide'"),
    ],
)
def test_bad_input(
    folder: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((24, 33), np.uint8)).save("wide.png")
    Image.fromarray(np.where(seeds() == 2, 5, 255).astype(np.uint8)).save("five.png")
    try:
        code = refine(*options)
    except SystemExit as leaving:  # argparse
        code = int(leaving.code or 0)
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert not Path("o.png").exists()
