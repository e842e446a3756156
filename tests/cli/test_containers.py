"""`crfrnn refine` on rasters, volumes, annotations and files of arrays, as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crfrnn import refine
from crfrnn.cli import main

SIZE = (30, 44)
CRF = ["--bilateral-position", "6", "--bilateral-color", "15", "--iterations", "3"]


def photo() -> np.ndarray:
    picture = np.random.default_rng(0).normal(80, 6, (*SIZE, 3))
    picture[8:22, 12:30] += 90
    return picture.clip(0, 255).astype(np.uint8)


def logits() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3, *SIZE)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(photo()).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", logits())
    return tmp_path


def run(*words: object) -> int:
    return main(["refine", *map(str, words)])


def test_a_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nibabel = pytest.importorskip("nibabel", reason="needs the extra `volume`")
    scans = np.random.default_rng(0).integers(1, 500, (2, 6, 5, 4)).astype(np.int16)
    for name, scan in zip(("t1", "t2"), scans, strict=True):
        image = nibabel.Nifti1Image(scan, np.diag([1, 1, 2, 1]))
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    probs = np.random.default_rng(1).dirichlet(np.ones(3), (4, 5, 6)).transpose(3, 0, 1, 2)
    np.savez(tmp_path / "case.npz", probabilities=probs)
    code = run(
        tmp_path / "t1.nii.gz", tmp_path / "case.npz", "-o", tmp_path / "seg.nii.gz",
        "--with", tmp_path / "t2.nii.gz", "--range", "0..500", "--probs", tmp_path / "p.nii.gz",
        "--json", *CRF,
    )  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "note: bandwidths taken in millimeters; voxels are 1 x 1 x 2 mm (x, y, z)" in said.err
    assert "scaled to 0..255 from 0..500, 0..500 (as given)" in said.err
    report = json.loads(said.out)
    assert report["kernels_in_voxels"][0]["position"] == [6, 6, 3]
    assert report["size"] == [4, 5, 6]
    stored = nibabel.load(tmp_path / "seg.nii.gz")
    assert stored.affine.tolist() == np.diag([1, 1, 2, 1]).tolist()
    values = np.asarray(nibabel.load(tmp_path / "p.nii.gz").dataobj)
    np.testing.assert_array_equal(values.argmax(-1), np.asarray(stored.dataobj))
    # Options of volumes arrive.
    assert run(tmp_path / "t1.nii.gz", tmp_path / "case.npz", "-o", tmp_path / "b.nii.gz",
               "--voxels", "--axes", "zyx", "--offset", "1,0,0", *CRF) == 2  # fmt: skip
    assert "reach beyond" in capsys.readouterr().err


def test_annotations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools", reason="needs the extra `coco`")
    box = [[10, 6, 33, 6, 33, 24, 10, 24]]
    tree = {
        "images": [
            {"id": n, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
            for n, name in enumerate(("a.png", "gone.png", "broken.png"))
        ],
        "annotations": [{"id": n, "image_id": n, "segmentation": box} for n in range(3)],
    }
    (folder / "broken.png").write_bytes(b"x")
    (folder / "in.json").write_text(json.dumps(tree))
    code = run(folder, folder / "in.json", "-o", folder / "out.json", *CRF)
    said = capsys.readouterr()
    assert code == 1
    assert "note: 1 images have no photograph" in said.err
    assert "failed: broken.png: " in said.err
    assert "1 masks of 1 photographs refined (0 photographs already done, 1 failed)" in said.out
    written = json.loads((folder / "out.json").read_text())["annotations"]
    assert written[0]["segmentation"] != box
    assert [entry["segmentation"] for entry in written[1:]] == [box, box]


def test_a_missing_photograph_of_a_folder_gives_exit_code_1(folder: Path) -> None:
    pytest.importorskip("pycocotools", reason="needs the extra `coco`")
    tree = {
        "images": [
            {"id": n, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
            for n, name in enumerate(("a.png", "gone.png"))
        ],
        "annotations": [
            {"id": n, "image_id": n, "segmentation": [[10, 6, 33, 6, 33, 24]]} for n in range(2)
        ],
    }
    (folder / "in.json").write_text(json.dumps(tree))
    given = (folder / "in.json", "-o", folder / "out.json", *CRF)
    assert run(folder, *given) == 1
    assert run(folder / "a.png", *given) == 0


def test_a_raster_and_a_photograph_in_tiles(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(folder / "a.png", folder / "a.npy", "-o", folder / "o.png", "--tile", "20", *CRF)
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "6 tiles (0 already there)" in said.out
    from crfrnn import Bilateral, Gaussian

    kernels = [Bilateral(position=6, color=15, weight=4), Gaussian(position=1, weight=3)]
    whole = refine(photo(), logits=logits(), kernels=kernels, iterations=3).labels
    with Image.open(folder / "o.png") as written:
        assert (np.asarray(written) != whole).mean() < 5e-3
    rasterio = pytest.importorskip("rasterio", reason="needs the extra `raster`")
    for name, bands in (("scene", photo().transpose(2, 0, 1)), ("probs", logits())):
        with rasterio.open(
            folder / f"{name}.tif", "w", driver="GTiff", count=3, height=SIZE[0], width=SIZE[1],
            dtype=bands.dtype, crs="EPSG:32633", transform=rasterio.Affine(9, 0, 1, 0, -9, 2),
        ) as file:  # fmt: skip
            file.write(bands)
    code = run(folder / "scene.tif", folder / "probs.tif", "-o", folder / "o.tif",
               "--memory", "1G", "--cog", "--json", *CRF)  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.err
    assert json.loads(said.out)["tiles"] == 1
    with rasterio.open(folder / "o.tif") as file:
        np.testing.assert_array_equal(file.read(1), whole)
        assert file.crs.to_epsg() == 32633
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


@pytest.mark.parametrize("name", ["a.npz:fold1", "a.h5:fold1/logits", "a.zarr", "a.safetensors"])
def test_arrays_in_other_files(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if ".npz" in name:
        np.savez(folder / "a.npz", fold0=-logits(), fold1=logits())
    elif ".h5" in name:
        h5py = pytest.importorskip("h5py", reason="needs the extra `hdf5`")
        with h5py.File(folder / "a.h5", "w") as file:
            file["fold1/logits"], file["fold0/logits"] = logits(), -logits()
    elif ".zarr" in name:
        zarr = pytest.importorskip("zarr", reason="needs the extra `zarr`")
        zarr.save_array(str(folder / "a.zarr"), logits())
    else:
        module = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
        module.save_file({"logits": logits()}, folder / "a.safetensors")
    assert run(folder / "a.png", folder / "a.npy", "-o", folder / "want.png", *CRF) == 0
    code = run(folder / "a.png", folder / name, "-o", folder / "o.png", *CRF)
    assert code == 0, capsys.readouterr().err
    assert np.array_equal(Image.open(folder / "o.png"), Image.open(folder / "want.png"))


def test_a_folder_of_dictionaries_of_class_maps(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "photos").mkdir()
    (folder / "cams").mkdir()
    maps = np.random.default_rng(2).random((2, *SIZE)).astype(np.float32)
    for name in "bc":
        Image.fromarray(photo()).save(folder / "photos" / f"{name}.jpg")
        np.save(folder / "cams" / f"{name}.npy", {3: maps[0], 11: maps[1]}, allow_pickle=True)
    code = run(folder / "photos", folder / "cams", "-o", folder / "out", "--background", "8", *CRF)
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "dictionary of class maps: the label of a map is its key + 1" in said.err
    assert set(np.unique(Image.open(folder / "out" / "b.png"))) <= {0, 4, 12}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["a.png", "a.npy", "-o", "o.png", "--axes", "xyz"], "--axes is for volume"),
        (["a.png", "a.npy", "-o", "o.png", "--with", "a.png"], "--with is for tiles and volume"),
        (["a.png", "a.npy", "-o", "o.png", "--overlap", "4"], "--overlap is for tiles"),
        (["a.png", "a.npy", "-o", "o.tif", "--tile", "9"], "--output must be a .png file"),
        (["a.png", "a.npy", "-o", "o.png", "--memory", "x"], "such as 4G"),
        (["a.png", "a.npy", "-o", "o.png", "--tile", "9", "--range", "9"], "LOW..HIGH"),
        (["x.nii.gz", "a.npy", "-o", "o.nii"], "x.nii.gz: expected"),
        (["a.png", "a.json", "-o", "o.png"], "--output must be a .json file"),
        (["a.png", "a.npy", "-o", "a.png", "--tile", "9"], "is an input"),
        (["a.png", "a.npy", "-o", "o.png", "--tile", "9", "--cog"], "is a PNG. Leave it out"),
        (["a.png", "a.npy", "-o", "o.png", "--tile", "9", "--shard", "1/2"], "a.png is a file"),
        (["a.tif", "b.tif", "-o", "o.tif", "--workers", "2"], "--workers 2 is for folders"),
        (["x.nii.gz", "x.npz", "-o", "o.nii", "--shard", "2/3"], "--shard 2/3 is for folders"),
        ([".", "a.json", "-o", "o.json", "--shard", "1/2"], "leave it out, and give --workers N"),
        ([".", "a.json", "-o", "o.json", "--workers", "-3"], "--workers must be at least 1"),
        ([".", "a.json", "-o", "o.json", "--on", "ray"], "refined as annotations. Leave it out\n"),
    ],
)
def test_what_cannot_work_is_one_line(
    folder: Path,
    words: list[str],
    why: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    (folder / "a.json").write_text("{}")
    before = sorted(folder.iterdir())
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert why in said
    assert len(said.splitlines()) == 1
    assert sorted(folder.iterdir()) == before
