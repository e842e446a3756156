"""`--dry-run`, `--clamp` and `--overlay` of rasters, volumes and annotations, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crfrnn.cli import main

SIZE = (30, 44)
CRF = ["--bilateral-position", "6", "--bilateral-color", "15", "--iterations", "3"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (*SIZE, 3), np.uint8)).save("a.png")
    np.save("a.npy", rng.normal(size=(3, *SIZE)).astype(np.float32))
    clamp = np.full(SIZE, 255, np.uint8)
    clamp[5:9] = 1
    Image.fromarray(clamp).save("c.png")
    return tmp_path


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def run(*words: str) -> int:
    return main(["refine", *words])


def test_tiles(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["a.png", "a.npy", "-o", "o.png", "--tile", "20", "--clamp", "c.png"]
    job += ["--overlay", "v.png", "--probs", "p.npy", *CRF]
    before = sorted(folder.iterdir())
    assert run(*job, "--dry-run") == 0
    said = capsys.readouterr().out
    for line in (
        "image: 30x44 (height x width), 3 channels of uint8",
        "scores: logits of 3 classes, float32",
        "clamp: c.png",
        "tiles: 6, of at most 0.00 megapixels with an overlap of 24 pixels; 0 already there",
        "writes: o.png, 1.289 KiB before compression",
        "writes: p.npy, 15.47 KiB before compression",
        "writes: v.png, a picture",
    ):
        assert line in said
    assert "memory: about 4" in said
    assert "note: a.npy read as logits, because" in said
    assert sorted(folder.iterdir()) == before
    assert run(*job, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["tiles"], plan["outputs"]["o.png"]) == (6, SIZE[0] * SIZE[1])
    assert run(*job) == 0
    assert (pixels("o.png")[5:9] == 1).all()
    assert pixels("v.png").shape == (*SIZE, 3)
    capsys.readouterr()
    assert run(*job, "--dry-run") == 0
    assert "before compression, in place of the file that is there" in capsys.readouterr().out


def test_a_dry_run_finds_what_would_fail(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("small.npy", np.zeros((3, 9, 9)))
    assert run("a.png", "small.npy", "-o", "o.png", "--tile", "20", "--dry-run") == 2
    assert "must have the size of a.png" in capsys.readouterr().err


def test_a_volume(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nibabel = pytest.importorskip("nibabel", reason="needs the extra `volume`")
    rng = np.random.default_rng(0)
    scan = rng.integers(1, 500, (6, 5, 4)).astype(np.int16)
    seeds = np.full((6, 5, 4), 255, np.uint8)
    seeds[1, 2] = 2
    for name, values in (("t1", scan), ("c", seeds)):
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 2, 1])), f"{name}.nii.gz")
    probs = rng.dirichlet(np.ones(3), (4, 5, 6)).transpose(3, 0, 1, 2)
    np.savez("case.npz", probabilities=probs)
    job = ["t1.nii.gz", "case.npz", "-o", "seg.nii.gz", "--clamp", "c.nii.gz", *CRF]
    before = sorted(folder.iterdir())
    assert run(*job, "--dry-run") == 0
    said = capsys.readouterr().out
    for line in (
        "image: 6 x 5 x 4 (x, y, z), 1 channel of int16",
        "scores: probs of 3 classes, of the whole volume",
        "clamp: c.nii.gz",
        "note: bandwidths taken in millimeters; voxels are 1 x 1 x 2 mm (x, y, z)",
        "writes: seg.nii.gz, 120 bytes before compression",
    ):
        assert line in said
    assert sorted(folder.iterdir()) == before
    assert run(*job) == 0, capsys.readouterr().err
    assert (np.asarray(nibabel.load("seg.nii.gz").dataobj)[1, 2] == 2).all()
    assert run(*job[:4], "--overlay", "v.png") == 2
    assert "open seg.nii.gz over t1.nii.gz in a viewer of volumes" in capsys.readouterr().err


def test_annotations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools", reason="needs the extra `coco`")
    box = [[10, 6, 33, 6, 33, 24, 10, 24]]
    images = [
        {"id": n, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        for n, name in enumerate(("a.png", "gone.png"))
    ]
    entries = [{"id": n, "image_id": n % 2, "segmentation": box} for n in range(4)]
    entries[2]["iscrowd"] = 1
    Path("in.json").write_text(json.dumps({"images": images, "annotations": entries}))
    Path("p").mkdir()
    Path("a.png").rename("p/a.png")
    job = ["p", "in.json", "-o", "out.json", "--overlay", "v", *CRF]
    before = sorted(folder.iterdir())
    assert run(*job, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        "annotations: 4, of which 1 are refined if they are not empty; the others stay as they are",
        "photographs: 1 with annotations",
        "note: 1 images have no photograph in p, such as gone.png",
        "writes: out.json",
        "writes: v, a picture for each",
    ]
    assert sorted(folder.iterdir()) == before
    assert run(*job) == 1, "a photograph is missing"
    assert pixels("v/a.png").shape == (*SIZE, 3)
    assert run(*job, "--clamp", "c.png") == 2
    assert "--clamp does not go with annotations" in capsys.readouterr().err
    assert run(*job[:4], "--overlay", "p") == 2
    assert "p is an input" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--clamp", "gone.png"], "--clamp gone.png: no such file"),
        (["--overlay", "v.tif"], "--overlay must be a .png or .jpg or .jpeg file"),
        (["--overlay", "c.png", "--clamp", "c.png"], "c.png is an input"),
        (["--on", "ray"], "--on ray is for photographs"),
    ],
)
def test_what_cannot_be(
    folder: Path, words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("a.png", "a.npy", "-o", "o.png", "--tile", "20", *words) == 2
    assert why in capsys.readouterr().err
