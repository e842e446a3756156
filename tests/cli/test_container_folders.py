"""Folders of volumes and of rasters: matched, resumed, reported, each file with its metadata."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crfrnn.cli import main
from crfrnn.containers.refine_volume import refine_volume
from crfrnn.offline.options import RefineOptions

CRF = ["--bilateral-position", "6", "--bilateral-color", "15", "--iterations", "3"]
RNG = np.random.default_rng(0)


def run(*words: str) -> int:
    return main(["refine", *words])


def probabilities(*size: int) -> np.ndarray:
    return np.moveaxis(RNG.dirichlet(np.ones(3), size), -1, 0).astype(np.float32)


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two patients: one of two modalities as nnU-Net names them, one of one."""
    nibabel = pytest.importorskip("nibabel", reason="needs the extra `volume`")
    monkeypatch.chdir(tmp_path)
    for name in ("scans", "probs"):
        Path(name).mkdir()
    for name in ("p1_0000", "p1_0001", "p2"):
        scan = RNG.integers(1, 500, (6, 5, 4)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(scan, np.diag([1, 1, 2, 1])), f"scans/{name}.nii.gz")
    for name in ("p1", "p2"):
        np.savez(f"probs/{name}.npz", probabilities=probabilities(4, 5, 6))
        Path(f"probs/{name}.pkl").write_bytes(b"not read")
        # nnU-Net writes its own labels beside the probabilities.
        labels = nibabel.Nifti1Image(np.zeros((6, 5, 4), np.uint8), np.diag([1, 1, 2, 1]))
        nibabel.save(labels, f"probs/{name}.nii.gz")
    return nibabel


def test_volumes_with_their_modalities(scans: Any, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["scans", "probs", "-o", "out", "--probs", "marginals", *CRF]
    assert run(*job, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "files: 2, of which the first, p1_0000.nii.gz:" in said
    assert "image: 6 x 5 x 4 (x, y, z), 2 channels of int16" in said
    assert not Path("out").exists()
    assert run(*job) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    assert "out: 2 refined, 0 already there, 0 failed" in said.out
    assert "note: p1: image scaled to 0..255 from " in said.err
    assert "note: 2 files: image scaled to 0..255 from a range of its own" in said.err
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == ["crfrnn-refine.json", "p1.nii.gz", "p2.nii.gz"]
    kernels = json.loads(Path("out/crfrnn-refine.json").read_text())["parameters"]["kernels"]
    assert kernels[0]["position"] == 6, "in millimeters, as given"
    from crfrnn import Bilateral, Gaussian

    options = RefineOptions(
        kernels=[Bilateral(position=6, color=15, weight=4), Gaussian(position=1, weight=3)],
        iterations=3,
    )
    images = ["scans/p1_0000.nii.gz", "scans/p1_0001.nii.gz"]
    refine_volume(images, "probs/p1.npz", "want.nii.gz", refining=options)
    assert Path("want.nii.gz").read_bytes() == Path("out/p1.nii.gz").read_bytes()
    assert scans.load("marginals/p2.nii.gz").shape == (6, 5, 4, 3)


def test_volumes_go_on_and_other_options_are_refused(
    scans: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("probs/p2.npz").rename("p2.npz")
    Path("probs/p2.npz").write_bytes(b"broken")
    job = ["scans", "probs", "-o", "out", *CRF]
    assert run(*job) == 1
    said = capsys.readouterr()
    assert "failed: p2: probs/p2.npz: " in said.err
    assert "1 refined, 0 already there, 1 failed" in said.out
    Path("p2.npz").replace("probs/p2.npz")
    assert run(*job, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["refined"], report["skipped"]) == (1, 1)
    refined = next(file for file in report["files"] if file["status"] == "refined")
    assert (refined["stem"], refined["size"], refined["classes"]) == ("p2", [4, 5, 6], 3)
    assert run(*job, "--voxels") == 2
    assert "voxels was False, is now True" in capsys.readouterr().err
    # A modality that is newer than the result is an input like any other.
    os.utime("scans/p1_0001.nii.gz", (time.time() + 9,) * 2)
    assert run(*job) == 0
    assert "1 refined, 1 already there" in capsys.readouterr().out


def test_volumes_of_moved_inputs_cannot_be_matched(
    scans: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scans", "probs", "-o", "out", *CRF) == 0, capsys.readouterr().err
    Path("scans").rename("moved")
    assert run("moved", "probs", "-o", "out", *CRF) == 2
    err = capsys.readouterr().err
    assert "so p1.nii.gz cannot be matched with them. Move them back, use another output" in err
    Path("moved").rename("scans")
    assert run("scans", "probs", "-o", "out", *CRF) == 0
    assert "0 refined, 2 already there" in capsys.readouterr().out


def test_volumes_with_a_folder_of_seeds(scans: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("seeds").mkdir()
    for name in ("p1", "p2"):
        seeds = np.full((6, 5, 4), 255, np.uint8)
        seeds[2] = 1
        scans.save(scans.Nifti1Image(seeds, np.diag([1, 1, 2, 1])), f"seeds/{name}.nii.gz")
    job = ["scans", "probs", "-o", "out", "--clamp", "seeds", *CRF]
    assert run(*job) == 0, capsys.readouterr().err
    assert (np.asarray(scans.load("out/p2.nii.gz").dataobj)[2] == 1).all()
    Path("seeds/p2.nii.gz").unlink()
    assert run(*job) == 2
    assert "expected one map for each image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["-o", "out", "--with", "t2.nii.gz"], "Name the modalities of CASE CASE_0000"),
        (["-o", "out", "--offset", "1,0,0"], "--offset is for one volume"),
        (["-o", "out", "--on", "ray"], "--on ray is for photographs"),
        (["-o", "out", "--overlay", "v"], "in a viewer of volumes"),
        (["-o", "out.nii.gz"], "--output names a folder too; got out.nii.gz"),
        (["-o", "probs"], "probs is the folder of scores; write the labels elsewhere"),
    ],
)
def test_what_folders_of_volumes_lack(
    scans: Any, words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scans", "probs", *words) == 2
    assert why in capsys.readouterr().err


# Rasters

SIZE = (30, 44)


def write_raster(path: str, bands: np.ndarray, **more: Any) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra `raster`")
    profile = {
        "driver": "GTiff", "count": len(bands), "height": SIZE[0], "width": SIZE[1],
        "dtype": bands.dtype, "crs": "EPSG:32633",
        "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 6e6),
    }  # fmt: skip
    Path(path).parent.mkdir(exist_ok=True)
    with rasterio.open(path, "w", **{**profile, **more}) as file:
        file.write(bands)


@pytest.mark.parametrize("bands", [3, 5])
def test_rasters_keep_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bands: int
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra `raster`")
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_raster(f"scenes/{name}.tif", RNG.integers(0, 255, (bands, *SIZE), np.uint8))
        write_raster(f"probs/{name}.tif", probabilities(*SIZE))
    job = ["scenes", "probs", "-o", "out", "--overlay", "views", "--cog", *CRF]
    assert run(*job) == 0, capsys.readouterr().err
    assert "2 refined" in capsys.readouterr().out
    assert run(*job) == 0
    assert "0 refined, 2 already there" in capsys.readouterr().out
    with rasterio.open("out/b.tif") as file:
        assert file.crs.to_epsg() == 32633
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    with Image.open("views/b.png") as view:
        assert view.size == SIZE[::-1]
    assert not list(Path("out").glob(".*"))


def test_photographs_in_tiles_and_tiffs_without_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only `--tile` or `--memory` makes photographs large images; a TIFF may be a photograph."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "scores"):
        Path(name).mkdir()
    for name in ("a.png", "b.tif"):
        Image.fromarray(RNG.integers(0, 255, (*SIZE, 3), np.uint8)).save(f"photos/{name}")
        np.save(f"scores/{name[0]}.npy", RNG.normal(size=(3, *SIZE)).astype(np.float32))
    assert run("photos", "scores", "-o", "plain", *CRF) == 0, capsys.readouterr().err
    assert {path.name for path in Path("plain").iterdir()} == {
        "a.png", "b.png", "crfrnn-refine.json",
    }  # fmt: skip
    Path("photos/b.tif").unlink()
    assert run("photos", "scores", "-o", "tiles", "--tile", "20", *CRF) == 0
    assert "scores without images (1): b" in capsys.readouterr().err
    with Image.open("tiles/a.png") as tiles, Image.open("plain/a.png") as plain:
        assert (np.asarray(tiles) != np.asarray(plain)).mean() < 5e-3


def test_rasters_as_scores_of_photographs_say_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_raster("d/scene.tif", RNG.integers(0, 255, (3, *SIZE), np.uint8))
    write_raster("d/probs.tif", probabilities(*SIZE))
    assert run("d/scene.tif", "d/probs.tif", "-o", "o.png") == 2
    assert "IMAGE and LABELS must be .tif files, too" in capsys.readouterr().err


def test_the_names_that_do_not_match_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("scans", "probs"):
        Path(name).mkdir()
    Path("scans/a.nii.gz").write_bytes(b"")
    Path("probs/b.npz").write_bytes(b"")
    assert run("scans", "probs", "-o", "out") == 2
    assert "name files that belong together alike" in capsys.readouterr().err
    assert run("scans", "probs/b.npz", "-o", "out") == 2
    assert "must be two files or two folders" in capsys.readouterr().err
