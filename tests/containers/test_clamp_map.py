"""Clamped pixels of rasters, tiles and volumes: those of one call with the whole map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crfrnn import Bilateral, Gaussian, refine
from crfrnn.containers.refine_tiles import TileOptions, refine_tiles
from crfrnn.offline.options import RefineOptions

SIZE = (120, 150)
KERNELS = [Bilateral(position=9, color=12, weight=4), Gaussian(position=1, weight=3)]
OPTIONS = RefineOptions(kernels=KERNELS)


def scene() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    inside = np.zeros(SIZE)
    inside[30:80, 40:110] = 1
    photo = (90 + 70 * inside[..., None] + rng.normal(0, 7, (*SIZE, 3))).clip(0, 255)
    logits = rng.normal(0, 1.5, (3, *SIZE)).astype(np.float32)
    return photo.astype(np.uint8), logits


def seeds() -> np.ndarray:
    """Classes in places, of which one covers a tile of 40 pixels with its overlap."""
    clamp = np.full(SIZE, 255, np.uint8)
    clamp[:, 100:] = 2
    clamp[50:55, 60:70] = 1
    clamp[10, 10:30] = 0
    return clamp


def write(folder: Path, name: str, clamp: np.ndarray) -> Path:
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, clamp)
    elif name.endswith(".png"):
        Image.fromarray(clamp).save(path)
    else:
        rasterio = pytest.importorskip("rasterio", reason="needs the extra `raster`")
        values = np.where(clamp == 255, -1, clamp).astype(np.int8)  # too narrow for 255
        with rasterio.open(
            path, "w", driver="GTiff", count=1, height=SIZE[0], width=SIZE[1], dtype="int8",
            nodata=-1, crs="EPSG:32633", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 6e6),
        ) as file:  # fmt: skip
            file.write(values, 1)
    return path


def run(folder: Path, clamp: Path | None, **more: Any) -> np.ndarray:
    photo, logits = scene()
    Image.fromarray(photo).save(folder / "a.png")
    np.save(folder / "a.npy", logits)
    options = TileOptions(tile=40, overlap=10)
    refine_tiles(
        folder / "a.png", folder / "a.npy", folder / "o.png",
        clamp=clamp, **{"refining": OPTIONS, "options": options, **more},
    )  # fmt: skip
    with Image.open(folder / "o.png") as file:
        return np.asarray(file)


@pytest.mark.parametrize("name", ["c.npy", "c.png", "c.tif"])
def test_tiles_see_the_seeds_of_one_large_call(tmp_path: Path, name: str) -> None:
    photo, logits = scene()
    labels = run(tmp_path, write(tmp_path, name, seeds()), options=TileOptions(tile=40, overlap=72))
    call = refine(photo, logits=logits, kernels=KERNELS, clamp=seeds()).labels
    assert (labels != call).mean() < 1e-3
    held = seeds() != 255
    np.testing.assert_array_equal(labels[held], seeds()[held])
    free = refine(photo, logits=logits, kernels=KERNELS).labels
    assert (labels != free)[~held].mean() > 0.003, "seeds change their neighbors"


def test_a_tile_without_free_pixels_keeps_its_classes(tmp_path: Path) -> None:
    clamp = write(tmp_path, "c.npy", seeds())
    assert (run(tmp_path, clamp)[:, 110:] == 2).all()


def test_a_map_of_bools_keeps_the_scores(tmp_path: Path) -> None:
    held = seeds() != 255
    labels = run(tmp_path, write(tmp_path, "c.npy", held), options=TileOptions(tile=200))
    photo, logits = scene()
    call = refine(photo, logits=logits, kernels=KERNELS, clamp=held).labels
    np.testing.assert_array_equal(labels, call)
    np.testing.assert_array_equal(labels[held], logits.argmax(0)[held])


@pytest.mark.parametrize(
    ("clamp", "why"),
    [
        (np.zeros(SIZE, np.uint8), r"c\.npy: clamp leaves no pixel free"),
        (np.full(SIZE, 7, np.uint8) + np.eye(*SIZE, dtype=np.uint8) * 248, "must hold classes 0"),
        (np.full((9, 9), 255, np.uint8), "must have the grid"),
        (np.full((2, *SIZE), 255, np.uint8), "one band or channel; got 2"),
        (np.full(SIZE, 0.5), "holds classes; got fractions"),
        (np.full(SIZE, np.nan), "holds classes; got fractions"),
    ],
)
def test_maps_that_cannot_be_are_refused_before_any_work(
    tmp_path: Path, clamp: np.ndarray, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        run(tmp_path, write(tmp_path, "c.npy", clamp))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.png", "c.npy"]


def test_another_map_does_not_continue_a_job(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    first = write(tmp_path, "c.npy", seeds())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, first, advance=interrupt)
    other = write(tmp_path, "d.npy", np.where(seeds() == 2, 255, seeds()))
    changed = run(tmp_path, other)
    (tmp_path / "o.png").unlink()
    np.testing.assert_array_equal(changed, run(tmp_path, other))
    assert (changed[:, 110:] != 2).any()


# Volumes


def test_a_volume_keeps_the_voxels_of_a_label_map(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="needs the extra `volume`")
    from crfrnn.containers.refine_volume import refine_volume

    rng = np.random.default_rng(1)
    affine = np.diag([1, 1, 2, 1])
    scan = rng.integers(0, 255, (8, 7, 6)).astype(np.uint8)
    probs = rng.dirichlet(np.ones(3), (6, 7, 8)).transpose(3, 0, 1, 2).astype(np.float32)
    seeds = np.full((8, 7, 6), 255, np.int16)
    seeds[2:5, 3, 1:4] = 2
    nibabel.save(nibabel.Nifti1Image(scan, affine), tmp_path / "t1.nii.gz")
    # Programs that draw labels may store floats.
    nibabel.save(nibabel.Nifti1Image(seeds.astype(np.float32), affine), tmp_path / "c.nii.gz")
    np.savez(tmp_path / "case.npz", probabilities=probs)
    paths = (tmp_path / "t1.nii.gz", tmp_path / "case.npz", tmp_path / "seg.nii.gz")
    result = refine_volume(*paths, refining=OPTIONS, clamp=tmp_path / "c.nii.gz")
    call = refine(
        scan.T[None, None], probs=probs[None], kernels=result.kernels, clamp=seeds.T[None]
    )
    np.testing.assert_array_equal(result.labels, call.labels[0])
    held = seeds.T != 255
    assert (result.labels[held] == 2).all()
    assert (probs.argmax(0)[held] != 2).any()
    with pytest.raises(ValueError, match="must be a NIfTI file"):
        refine_volume(*paths, refining=OPTIONS, clamp=tmp_path / "case.npz")
    nibabel.save(nibabel.Nifti1Image(seeds, np.diag([2, 1, 2, 1])), tmp_path / "d.nii.gz")
    with pytest.raises(ValueError, match="lies elsewhere"):
        refine_volume(*paths, refining=OPTIONS, clamp=tmp_path / "d.nii.gz")


def test_scores_beside_tiles_that_are_neither_a_raster_nor_an_array(tmp_path: Path) -> None:
    for name in ("photo.png", "labels.png"):
        Image.new("L" if name == "labels.png" else "RGB", (8, 6)).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"labels.png.*raster \(.tif\) or an array; got .png"):
        refine_tiles(tmp_path / "photo.png", tmp_path / "labels.png", tmp_path / "out.png")
