"""Tiles: the result of one large call, within a memory, resumed; rasters with their metadata."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crfrnn import Bilateral, Gaussian, refine
from crfrnn.containers.plain import Photograph
from crfrnn.containers.refine_tiles import RefinedTiles, TileOptions, refine_tiles
from crfrnn.containers.scaling import Range, parse_ranges
from crfrnn.containers.tile_job import TileJob, open_tiles
from crfrnn.containers.tile_scores import _stand_in
from crfrnn.containers.tiling import Plan, overlap_of, parse_bytes, plan_memory, plan_side
from crfrnn.io.options import DEFAULTS, ReadOptions
from crfrnn.io.scores import read_scores
from crfrnn.offline.inputs import Inputs
from crfrnn.offline.options import RefineOptions
from crfrnn.offline.refine import refine_inputs

SIZE = (150, 210)
KERNELS = [Bilateral(position=9, color=12, weight=4), Gaussian(position=1, weight=3)]
OPTIONS = RefineOptions(kernels=KERNELS)


def scene(size: tuple[int, int] = SIZE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A photograph of four regions with texture, and uncertain logits (4, H, W)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    truth = (rows + 20 * np.sin(columns / 17) > size[0] / 2) * 2 + (columns % 90 > 45)
    colors = np.array([[70, 90, 60], [120, 100, 90], [170, 170, 150], [90, 80, 140]])
    photo = (colors[truth] + rng.normal(0, 7, (*size, 3))).clip(0, 255).astype(np.uint8)
    logits = rng.normal(0, 1.5, (4, *size)).astype(np.float32)
    logits += 1.2 * (truth == np.arange(4)[:, None, None])
    return photo, logits


def save(folder: Path, photo: np.ndarray, logits: np.ndarray) -> tuple[Path, Path]:
    Image.fromarray(photo).save(folder / "a.png")
    np.save(folder / "a.npy", logits)
    return folder / "a.png", folder / "a.npy"


def run(image: Any, scores: Path, output: Path, **options: Any) -> tuple[np.ndarray, RefinedTiles]:
    given = {"refining": OPTIONS, "options": TileOptions(tile=60), **options}
    result = refine_tiles(image, scores, output, **given)
    return np.asarray(Image.open(output)), result


def test_tiles_agree_with_one_large_call_at_seams_and_elsewhere(tmp_path: Path) -> None:
    photo, logits = scene()
    paths = save(tmp_path, photo, logits)
    whole = refine(photo, logits=logits, kernels=KERNELS).labels
    labels, result = run(*paths, tmp_path / "labels.png", probs=tmp_path / "probs.npy")
    assert (len(result.plan), result.plan.overlap) == (12, 36)
    differ = labels != whole
    assert differ.mean() <= 1e-4
    seams = np.zeros(SIZE, np.bool_)
    for tile in result.plan.tiles():
        for part, axis in zip(tile.core, (0, 1), strict=True):
            np.moveaxis(seams, axis, 0)[max(0, part.start - 8) : part.start + 8] = part.start > 0
    assert differ[seams].mean() <= 1e-4
    # The labels do change, and without the overlap or the common origin they would differ.
    assert (whole != logits.argmax(0)).mean() > 0.05
    assert result.relabeled == (labels != logits.argmax(0)).sum()
    probs = np.load(tmp_path / "probs.npy")
    np.testing.assert_array_equal(probs.argmax(0), labels)
    bare, _ = run(*paths, tmp_path / "bare.png", options=TileOptions(tile=60, overlap=0))
    assert (bare != whole).mean() > 10 * max(differ.mean(), 1e-5)


def test_a_tile_keeps_its_place_in_the_lattice() -> None:
    """Without the origin, the lattice lies elsewhere, and the same pixels filter differently."""
    photo, logits = scene()
    whole = refine(photo, logits=logits, kernels=KERNELS).probs
    inner, tile = (slice(40, 60), slice(60, 90)), (slice(None, 110), slice(7, 150))
    part = (photo[tile], "logits", np.ascontiguousarray(logits[(slice(None), *tile)]))
    core = (slice(40, 60), slice(53, 83))
    placed = refine_inputs(Inputs(*part, origin=(0, 7)), OPTIONS).probs[(slice(None), *core)]
    moved = refine_inputs(Inputs(*part), OPTIONS).probs[(slice(None), *core)]
    np.testing.assert_allclose(placed, whole[(slice(None), *inner)], atol=1e-3)
    assert np.abs(moved - whole[(slice(None), *inner)]).max() > 1e-2


def test_a_memory_is_divided_among_tiles() -> None:
    plan = plan_memory((6000, 20000), 12e6, 268)
    outer = [
        np.prod([part.stop - part.start for part in tile.outer], dtype=float)
        for tile in plan.tiles()
    ]
    assert max(outer) <= 12e6
    covered = sum(
        np.prod([part.stop - part.start for part in tile.core], dtype=float)
        for tile in plan.tiles()
    )
    assert covered == 6000 * 20000
    assert sum(outer) < 1.5 * covered
    assert len(plan_memory((600, 800), 1e6, 268)) == 1
    with pytest.raises(ValueError, match="do not fit"):
        plan_memory((6000, 20000), 500 * 500, 268)
    assert overlap_of([Bilateral(position=(20, 67)), Gaussian(position=3)]) == 268
    assert plan_side((100, 250), 100, 5) == Plan((100, 250), (1, 3), 5)


def test_a_memory_that_is_too_small_is_named(tmp_path: Path) -> None:
    paths = save(tmp_path, *scene())
    with pytest.raises(ValueError, match=r"a memory of 100 MiB leaves nothing for tiles"):
        run(*paths, tmp_path / "o.png", options=TileOptions(memory=100 << 20))
    labels, result = run(*paths, tmp_path / "o.png", options=TileOptions(memory=1 << 30))
    assert len(result.plan) == 1
    photo, logits = scene()
    np.testing.assert_array_equal(labels, refine(photo, logits=logits, kernels=KERNELS).labels)


@pytest.mark.parametrize("text", ["", "4", "0G", "-1G", "4X", "nan"])
def test_sizes_are_read_or_refused(text: str) -> None:
    if text == "4":
        assert parse_bytes(text) == 4
        assert [parse_bytes(t) for t in ("4G", "4GiB", "0.5kb")] == [4 << 30, 4 << 30, 512]
        return
    with pytest.raises(ValueError, match="such as 4G"):
        parse_bytes(text)


def test_ranges_are_read_or_refused() -> None:
    assert parse_ranges("-5..1e3") == (Range(-5, 1000),)
    for text in ("5", "5..1", "1%..5", "1%..200%", "a..b", ""):
        with pytest.raises(ValueError, match=r"range|LOW\.\.HIGH|percentiles"):
            parse_ranges(text)


def test_guard_and_tol_do_not_go_with_tiles(tmp_path: Path) -> None:
    paths = save(tmp_path, *scene())
    for more in ({"guard": True}, {"tol": 0.001}):
        with pytest.raises(ValueError, match="look at an image as a whole"):
            run(*paths, tmp_path / "o.png", refining=RefineOptions(kernels=KERNELS, **more))
    assert not list(tmp_path.glob(".*"))


def _killed_half_way(folder: Path) -> None:
    def advance(done: int, _all: int) -> None:
        if done == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    run(folder / "a.png", folder / "a.npy", folder / "o.png", advance=advance)


def test_a_killed_job_continues_tile_by_tile_and_gives_the_same_file(tmp_path: Path) -> None:
    paths = save(tmp_path, *scene())
    _, result = run(*paths, tmp_path / "o.png")
    whole = (tmp_path / "o.png").read_bytes()
    assert result.resumed == 0
    (tmp_path / "o.png").unlink()
    process = multiprocessing.get_context("spawn").Process(
        target=_killed_half_way, args=(tmp_path,)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "o.png").exists()
    assert len(list((tmp_path / ".o.png.tiles").glob("*.labels.npy"))) == 5
    _, result = run(*paths, tmp_path / "o.png")
    assert (result.resumed, len(result.plan)) == (5, 12)
    assert (tmp_path / "o.png").read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.png", "o.png"]


def test_other_parameters_or_files_do_not_continue(tmp_path: Path) -> None:
    paths = save(tmp_path, *scene())
    folder = tmp_path / ".o.png.tiles"
    for change in ("parameters", "files", "reading"):
        with pytest.raises(KeyboardInterrupt):
            run(*paths, tmp_path / "o.png", advance=_interrupt)
        assert folder.is_dir()
        if change == "parameters":
            other = RefineOptions(kernels=KERNELS, iterations=2)
            _, result = run(*paths, tmp_path / "o.png", refining=other)
        elif change == "reading":
            other_reading = ReadOptions(apply_exif=True)
            _, result = run(*paths, tmp_path / "o.png", reading=other_reading)
        else:
            np.save(paths[1], scene(seed=4)[1])
            _, result = run(*paths, tmp_path / "o.png")
        assert result.resumed == 0
        assert not folder.exists()


def test_smaller_tiles_than_before_start_anew_and_larger_ones_go_on(tmp_path: Path) -> None:
    paths = save(tmp_path, *scene())
    for tile, resumed, tiles in ((40, 0, 24), (60, 1, 12), (80, 1, 12)):
        with pytest.raises(KeyboardInterrupt):
            run(*paths, tmp_path / "o.png", advance=_interrupt)
        _, result = run(*paths, tmp_path / "o.png", options=TileOptions(tile=tile))
        assert (result.resumed, len(result.plan)) == (resumed, tiles)


def test_scores_in_a_store_that_changed_do_not_continue(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    photo, logits = scene()
    image, _ = save(tmp_path, photo, logits)
    for seed in (0, 4):
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file["logits"] = scene(seed=seed)[1]
        if seed == 0:
            with pytest.raises(KeyboardInterrupt):
                run(image, Path(f"{tmp_path}/b.h5:logits"), tmp_path / "o.png", advance=_interrupt)
    _, result = run(image, Path(f"{tmp_path}/b.h5:logits"), tmp_path / "o.png")
    assert result.resumed == 0


def _interrupt(_done: int, _all: int) -> None:
    raise KeyboardInterrupt


def test_a_damaged_tile_is_named_and_done_again(tmp_path: Path) -> None:
    paths = save(tmp_path, *scene())
    with pytest.raises(KeyboardInterrupt):
        run(*paths, tmp_path / "o.png", advance=_interrupt)
    (tmp_path / ".o.png.tiles" / "0.labels.npy").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"0\.labels\.npy: this tile is damaged"):
        run(*paths, tmp_path / "o.png")
    assert not (tmp_path / "o.png").exists()
    _, result = run(*paths, tmp_path / "o.png")
    assert result.resumed == 11


@pytest.mark.parametrize("layout", ["last", "npz", "zip", "h5", "zarr"])
def test_scores_in_other_files_give_the_same_labels(tmp_path: Path, layout: str) -> None:
    photo, logits = scene()
    paths = save(tmp_path, photo, logits)
    want, _ = run(*paths, tmp_path / "want.png")
    scores = tmp_path / "b.npy"
    if layout == "last":
        np.save(scores, np.moveaxis(logits, 0, -1))
    elif layout == "npz":
        np.savez(tmp_path / "b.npz", logits=logits, other=np.zeros(3))
        scores = tmp_path / "b.npz"
    elif layout == "zip":
        np.savez(tmp_path / "b.npz", logits=logits)
        (tmp_path / "b.npz").rename(scores)
    elif layout == "h5":
        with pytest.importorskip("h5py", reason="needs the extra `hdf5`").File(
            tmp_path / "b.h5", "w"
        ) as file:
            file.create_dataset("x/logits", data=logits, chunks=(4, 32, 32))
        scores = tmp_path / "b.h5:x/logits"
    else:
        zarr = pytest.importorskip("zarr", reason="needs the extra `zarr`")
        zarr.save_array(str(tmp_path / "b.zarr"), logits)
        scores = tmp_path / "b.zarr"
    labels, result = run(paths[0], scores, tmp_path / "o.png")
    np.testing.assert_array_equal(labels, want)
    assert result.kind == "logits"


def test_labels_have_the_same_number_of_classes_in_every_tile(tmp_path: Path) -> None:
    photo, logits = scene()
    labels = logits.argmax(0).astype(np.uint8)
    labels[:40, :40] = 255
    labels[-1, -1] = 9  # in the last tile alone
    paths = save(tmp_path, photo, labels)
    reading = ReadOptions(kind="labels")
    written, result = run(*paths, tmp_path / "o.png", reading=reading)
    assert (result.kind, result.classes) == ("labels", 10)
    whole = refine(photo, labels=labels, kernels=KERNELS, num_classes=10).labels
    assert (written != whole).mean() <= 1e-3
    assert result.pixels == labels.size - 1600


def test_scores_of_another_size_are_refused(tmp_path: Path) -> None:
    photo, logits = scene()
    paths = save(tmp_path, photo, logits[:, ::2, ::2])
    with pytest.raises(ValueError, match=r"a\.npy: scores for tiles must have the size"):
        run(*paths, tmp_path / "o.png")
    assert not (tmp_path / ".o.png.tiles").exists()


# Rasters.


# Rasterio warns of rasters without a place in the world, which the tests write, too.
pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")


def write_raster(path: Path, bands: np.ndarray, tags: dict[str, str], **more: Any) -> Path:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra `raster`")
    profile = {
        "driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2],
        "dtype": bands.dtype, "crs": "EPSG:32633",
        "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 6e6),
    }  # fmt: skip
    with rasterio.open(path, "w", **{**profile, **more}) as file:
        file.write(bands)
        file.update_tags(**tags)
    return path


def scaled(bands: np.ndarray, ranges: list[tuple[float, float]]) -> np.ndarray:
    ends = np.array(ranges, np.float32)[:, :, None, None]
    return ((bands - ends[:, 0]) / (ends[:, 1] - ends[:, 0]) * 255).clip(0, 255)


@pytest.mark.parametrize("cloud", [False, True])
def test_a_raster_of_six_bands_keeps_place_tags_and_holes(tmp_path: Path, cloud: bool) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra `raster`")
    photo, logits = scene()
    bands = np.concatenate([photo, photo[..., ::-1]], -1).astype(np.uint16).transpose(2, 0, 1)
    bands = bands * 11 + 40
    bands[:, 20:50, 30:90] = 0
    tags = {"SENSOR": "S2", "AREA_OR_POINT": "Point"}
    image = write_raster(tmp_path / "scene.tif", bands, tags, nodata=0)
    scores = write_raster(tmp_path / "scores.tif", logits, {})
    labels, result = run(
        image, scores, tmp_path / "o.tif", probs=tmp_path / "p.tif",
        options=TileOptions(tile=60, ranges=(Range(0, 3000),), cloud_optimized=cloud),
    )  # fmt: skip
    assert result.notes[-1].startswith("image scaled to 0..255 from 0..3000")
    valid = bands[0] != 0
    call = refine(scaled(bands, [(0, 3000)] * 6), logits=logits, kernels=KERNELS, mask=valid)
    assert (labels != np.where(valid, call.labels, 255)).mean() <= 1e-4
    assert result.pixels == valid.sum()
    with rasterio.open(image) as old, rasterio.open(tmp_path / "o.tif") as new:
        assert new.crs == old.crs
        assert new.transform == old.transform
        assert new.nodata == 255
        assert new.dtypes == ("uint8",)
        assert new.tags()["SENSOR"] == "S2"
        assert new.tags()["AREA_OR_POINT"] == "Point"
        assert (new.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG") is cloud
    with rasterio.open(tmp_path / "p.tif") as probs:
        values = probs.read()
        assert np.isnan(values[:, ~valid]).all()
        np.testing.assert_allclose(values[:, valid].sum(0), 1, atol=1e-4)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".tif"] * 4


def test_label_rasters_keep_their_colors_and_bands_apart_are_joined(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra `raster`")
    photo, logits = scene()
    images = [
        write_raster(tmp_path / f"b{n}.tif", photo[..., n][None].astype(np.float32), {})
        for n in range(3)
    ]
    scores = write_raster(tmp_path / "scores.tif", logits.argmax(0)[None].astype(np.uint8), {})
    with rasterio.open(scores, "r+") as file:
        file.write_colormap(1, {n: (n * 20, 255 - n, 7, 255) for n in range(256)})
    whole = TileOptions(tile=300, ranges=parse_ranges("0..255"))
    labels, result = run(
        images, scores, tmp_path / "o.tif", options=whole, reading=ReadOptions(kind="labels")
    )
    call = refine(photo.astype(np.float32), labels=logits.argmax(0), kernels=KERNELS, num_classes=4)
    np.testing.assert_array_equal(labels, call.labels)
    assert result.kind == "labels"
    with rasterio.open(tmp_path / "o.tif") as file:
        assert file.colormap(1)[3] == (60, 252, 7, 255)
        assert file.nodata == 255  # floats may have holes


def test_scores_without_data_leave_holes(tmp_path: Path) -> None:
    photo, logits = scene()
    logits[:, 100:120, 100:130] = np.nan
    image = write_raster(tmp_path / "scene.tif", photo.transpose(2, 0, 1), {})
    scores = write_raster(tmp_path / "scores.tif", logits, {})
    labels, result = run(image, scores, tmp_path / "o.tif")
    hole = np.isnan(logits[0])
    np.testing.assert_array_equal(labels == 255, hole)
    assert result.pixels == (~hole).sum()


def test_rasters_must_lie_in_the_same_place(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra `raster`")
    photo, logits = scene()
    image = write_raster(tmp_path / "scene.tif", photo.transpose(2, 0, 1), {})
    scores = write_raster(tmp_path / "zone.tif", logits, {}, crs="EPSG:32632")
    with pytest.raises(ValueError, match=r"zone\.tif lies elsewhere.*EPSG:32632, not EPSG:32633"):
        run(image, scores, tmp_path / "o.tif")
    moved = rasterio.Affine(10, 0, 5e5 + 10, 0, -10, 6e6)
    scores = write_raster(tmp_path / "scores.tif", logits, {}, transform=moved)
    with pytest.raises(ValueError, match=r"scores\.tif lies elsewhere than .*scene\.tif"):
        run(image, scores, tmp_path / "o.tif")


def test_hostile_rasters_are_named(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra `raster`")
    photo, logits = scene()
    scores = write_raster(tmp_path / "scores.tif", logits, {})
    with rasterio.open(
        tmp_path / "bomb.tif", "w", driver="GTiff", width=400_000, height=400_000, count=3,
        dtype="uint8", tiled=True, SPARSE_OK=True, BIGTIFF="YES", blockxsize=4096, blockysize=4096,
    ):  # fmt: skip
        pass
    with rasterio.open(
        tmp_path / "piece.tif", "w", driver="GTiff", width=40_000, height=20_000, count=1,
        dtype="uint8", tiled=True, blockxsize=32_768, blockysize=32_768, SPARSE_OK=True,
    ):  # fmt: skip
        pass
    with rasterio.open(
        tmp_path / "complex.tif", "w", driver="GTiff", width=9, height=9, count=1,
        dtype="complex_int16",
    ):  # fmt: skip
        pass
    whole = write_raster(tmp_path / "whole.tif", photo.transpose(2, 0, 1), {}).read_bytes()
    (tmp_path / "half.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tif").write_bytes(b"no raster" * 99)
    (tmp_path / "remote.tif").write_text(
        '<VRTDataset rasterXSize="210" rasterYSize="150"><VRTRasterBand dataType="Byte" band="1">'
        "<SimpleSource><SourceFilename>/vsicurl/http://localhost:1/a.tif</SourceFilename>"
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    for name, why in [
        ("bomb", "like a decompression bomb"),
        ("piece", "can only be read whole"),
        ("half", "the raster cannot be read|not a readable raster"),
        ("text", "not a readable raster"),
        ("remote", "not a readable raster"),
        ("complex", "real numbers; got complex_int16"),
    ]:
        with pytest.raises(ValueError, match=rf"{name}\.tif: .*({why})"):
            run(tmp_path / f"{name}.tif", scores, tmp_path / "o.tif")
    assert not (tmp_path / "o.tif").exists()
    assert not list(tmp_path.glob(".*"))


def _on_a_full_disk(folder: Path, sender: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        run(folder / "scene.tif", folder / "scores.tif", folder / "o.tif", probs=folder / "p.tif")
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")
    else:
        sender.send("written")


def test_a_full_disk_is_named_and_leaves_no_result(tmp_path: Path) -> None:
    photo, logits = scene()
    write_raster(tmp_path / "scene.tif", photo.transpose(2, 0, 1), {})
    write_raster(tmp_path / "scores.tif", logits, {})
    receiver, sender = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_on_a_full_disk, args=(tmp_path, sender)
    )
    process.start()
    said = receiver.recv()
    process.join()
    assert said.startswith("OSError")
    assert ".tif" in said
    assert not {"o.tif", "p.tif"} & {path.name for path in tmp_path.iterdir()}


def test_what_a_result_depends_on_is_in_the_plan(tmp_path: Path) -> None:
    paths = save(tmp_path, *scene())
    with pytest.raises(KeyboardInterrupt):
        run(*paths, tmp_path / "o.png", advance=_interrupt)
    stored = json.loads((tmp_path / ".o.png.tiles" / "plan.json").read_text())
    of_scores = {"kind", "member", "reading", "clamped"}
    assert set(stored["origin"]) == {"files", "ranges", "parameters", "probs", *of_scores}
    assert stored["counts"] == [3, 4]


def test_two_jobs_do_not_write_the_same_raster(tmp_path: Path) -> None:
    paths = save(tmp_path, *scene())

    def advance(done: int, total: int) -> None:
        if done == 2:
            with pytest.raises(
                ValueError, match=r"out\.png: another crfrnn refine is writing here"
            ):
                run(*paths, tmp_path / "out.png")
            run(*paths, tmp_path / "other.png")

    run(*paths, tmp_path / "out.png", advance=advance)
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    assert not list(tmp_path.glob(".*"))


class Stopped(Exception):
    """Ends a run after its first tiles."""


def begin(image: Path, scores: Path, output: Path) -> None:
    """Refine two tiles, and stop."""

    def advance(done: int, total: int) -> None:
        if done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        run(image, scores, output, advance=advance)


def test_a_chunk_of_zarr_that_changed_starts_the_job_again(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="needs the extra `zarr`")
    photo, logits = scene()
    image, _ = save(tmp_path, photo, logits)
    folder = tmp_path / "b.zarr"
    zarr.save_array(str(folder), logits)
    begin(image, folder, tmp_path / "o.png")
    labels, result = run(image, folder, tmp_path / "o.png")
    assert result.resumed == 2
    begin(image, folder, tmp_path / "o.png")
    times = folder.stat()
    array = zarr.open(str(folder), mode="r+")
    array[:, :30, :40] = -array[:, :30, :40]
    os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))
    again, result = run(image, folder, tmp_path / "o.png")
    assert result.resumed == 0
    assert (again[:30, :40] != labels[:30, :40]).any()


def test_a_file_of_a_virtual_raster_that_changed_starts_the_job_again(tmp_path: Path) -> None:
    pytest.importorskip("rasterio", reason="needs the extra `raster`")
    photo, logits = scene()
    write_raster(tmp_path / "scene.tif", np.moveaxis(photo, -1, 0), {})
    band = (
        '<VRTRasterBand dataType="Byte" band="{0}"><SimpleSource><SourceFilename '
        'relativeToVRT="1">scene.tif</SourceFilename><SourceBand>{0}</SourceBand></SimpleSource>'
        "</VRTRasterBand>"
    )
    size = f'rasterXSize="{SIZE[1]}" rasterYSize="{SIZE[0]}"'
    bands = "".join(band.format(number) for number in (1, 2, 3))
    (tmp_path / "scene.vrt").write_text(f"<VRTDataset {size}>{bands}</VRTDataset>")
    scores = write_raster(tmp_path / "scores.tif", logits, {})
    begin(tmp_path / "scene.vrt", scores, tmp_path / "o.tif")
    write_raster(tmp_path / "scene.tif", 255 - np.moveaxis(photo, -1, 0), {})
    _, result = run(tmp_path / "scene.vrt", scores, tmp_path / "o.tif")
    assert result.resumed == 0


def test_dictionaries_of_class_maps_are_refined_in_tiles(tmp_path: Path) -> None:
    photo, _ = scene()
    maps = np.random.default_rng(3).random((2, *SIZE)).astype(np.float32)
    Image.fromarray(photo).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", {0: maps[0], 3: maps[1]}, allow_pickle=True)
    reading = ReadOptions(background=2)
    given = read_scores(tmp_path / "a.npy", SIZE, reading).values
    assert given.shape == (5, *SIZE)
    np.save(tmp_path / "b.npy", given)
    want, _ = run(tmp_path / "a.png", tmp_path / "b.npy", tmp_path / "want.png")
    labels, result = run(
        tmp_path / "a.png", tmp_path / "a.npy", tmp_path / "o.png", reading=reading
    )
    np.testing.assert_array_equal(labels, want)
    assert (result.kind, result.classes) == ("probs", 5)
    assert "a dictionary of class maps: the label of a map is its key + 1" in result.notes[0]
    (tmp_path / "a.npy").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"a\.npy: not a readable pickle"):
        run(tmp_path / "a.png", tmp_path / "a.npy", tmp_path / "o.png")


# What scores and images mean, in every tile alike.


def edge() -> tuple[np.ndarray, np.ndarray]:
    """A photograph (40, 60, 3), bright from column 30 on; probabilities (2, 40, 60), from 27 on."""
    photo = np.full((40, 60, 3), 20, np.uint8)
    photo[:, 30:] = 200
    certain = np.where(np.arange(60) < 27, 0.1, 0.9) * np.ones((40, 1))
    return photo, np.stack([1 - certain, certain]).astype(np.float32)


def edge_run(folder: Path, **arrays: np.ndarray) -> tuple[np.ndarray, RefinedTiles]:
    """Refine the photograph of `edge` with an `.npz` of arrays."""
    Image.fromarray(edge()[0]).save(folder / "p.png")
    np.savez(folder / "s.npz", **arrays)
    options = TileOptions(tile=20, overlap=20)
    return run(
        folder / "p.png", folder / "s.npz", folder / "o.png", options=options,
        refining=RefineOptions(),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["energy", "mask", "mask8"])
def test_the_name_of_an_array_says_its_kind_in_every_tile(tmp_path: Path, name: str) -> None:
    probs = edge()[1]
    inside = probs[1] > 0.5
    arrays: dict[str, np.ndarray] = {
        "energy": {"energy": -np.log(probs)},
        "mask": {"mask": inside.astype(np.float32)},
        "mask8": {"mask": inside * np.uint8(255)},
    }[name]
    labels, result = edge_run(tmp_path, **arrays)
    assert labels[:, 0].max() == 0
    assert labels[:, 59].min() == 1
    assert result.relabeled == 120, "a mask is not certain, so its edge moves"
    assert not any("read as" in note for note in result.notes)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_soft_mask_has_one_scale_in_all_tiles(tmp_path: Path, dtype: type) -> None:
    top = {np.uint8: 255, np.uint16: 65535, np.float32: 255}[dtype]
    mask = np.ones((40, 60), dtype)
    mask[:, :30] = np.linspace(0, top, 30)
    Image.fromarray(edge()[0]).save(tmp_path / "p.png")
    np.save(tmp_path / "m.npy", mask)
    got = {}
    for side in (60, 30):
        labels, _ = run(
            tmp_path / "p.png", tmp_path / "m.npy", tmp_path / "o.png",
            reading=ReadOptions(kind="mask"), options=TileOptions(tile=side, overlap=0),
            refining=RefineOptions(iterations=0),
        )  # fmt: skip
        got[side] = labels
    np.testing.assert_array_equal(got[30], got[60])
    np.testing.assert_array_equal(got[60], mask > top / 2)


def test_whether_a_mask_is_certain_is_settled_for_the_file(tmp_path: Path) -> None:
    """A tile of only 0 and 255 in a soft mask keeps its probabilities, which are certain."""
    mask = np.zeros((40, 60), np.uint8)
    mask[:, :30] = np.linspace(60, 200, 30)
    mask[:, 50:] = 255
    Image.fromarray(edge()[0]).save(tmp_path / "p.png")
    np.save(tmp_path / "m.npy", mask)
    run(
        tmp_path / "p.png", tmp_path / "m.npy", tmp_path / "o.png", probs=tmp_path / "probs.npy",
        reading=ReadOptions(kind="mask"), options=TileOptions(tile=30, overlap=0),
        refining=RefineOptions(iterations=0),
    )  # fmt: skip
    np.testing.assert_allclose(np.load(tmp_path / "probs.npy")[1], mask / 255, atol=1e-3)


def test_what_lies_between_the_samples_counts_for_the_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crfrnn.containers.tile_scores._SAMPLE_SIDE", 32)
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[10:18, 10:18] = 200
    Image.fromarray(photo).save(tmp_path / "p.png")
    mask = photo[..., 0] // 200 * np.uint8(255)  # between windows of 8 pixels at 0, 19, 37 and 56
    labels = np.array(mask)
    labels[30, 30] = 1
    for values, kind, why in (
        (mask, "probs", "read as mask, because only 0 and 255 occur"),
        (labels, "labels", "read as labels, because all values are below 64, or 255"),
        (mask / np.float32(300), "probs", "read as probs, because all values lie in 0..1"),
    ):
        np.save(tmp_path / "s.npy", values)
        refined, result = run(tmp_path / "p.png", tmp_path / "s.npy", tmp_path / "o.png")
        assert result.kind == kind
        assert why in result.notes[0]
        assert refined[mask == 255].all() == (kind == "probs")


def test_thinned_values_are_spread_like_the_file() -> None:
    counts = {float(value): 10 for value in np.linspace(0.2, 0.7, 2000)}
    values = _stand_in({0.0: 80_000, **counts, 1.0: 100_000}, np.dtype(np.float32))[0, 0]
    assert (values.min(), values.max()) == (0, 1)
    assert abs((values == 0).mean() - 0.4) < 0.01
    few = _stand_in({0: 10**9, 7: 1, 255: 10**9}, np.dtype(np.uint8))
    assert np.unique(few).tolist() == [0, 7, 255]


@pytest.mark.parametrize("kind", ["probs", "bytes", "logits"])
def test_tiles_without_a_valid_score_are_holes(tmp_path: Path, kind: str) -> None:
    photo, probs = edge()
    image = write_raster(tmp_path / "a.tif", photo.transpose(2, 0, 1), {})
    scores = np.log(probs) if kind == "logits" else probs
    hole = np.arange(60) < 30
    if kind == "bytes":
        scores = np.stack([255 - np.rint(probs[1] * 254), np.rint(probs[1] * 254)])
        scores = np.where(hole, 0, scores).astype(np.uint8)
        given = write_raster(tmp_path / "s.tif", scores, {}, nodata=0)
    else:
        given = write_raster(tmp_path / "s.tif", np.where(hole, np.nan, scores), {})
    options = TileOptions(tile=15, overlap=2)
    labels, _ = run(image, given, tmp_path / "o.tif", options=options)
    np.testing.assert_array_equal(labels == 255, np.broadcast_to(hole, (40, 60)))


def test_a_damaged_tile_of_probabilities_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = save(tmp_path, *scene())
    more: dict[str, Any] = {"probs": tmp_path / "probs.npy"}
    with pytest.raises(KeyboardInterrupt):
        run(*paths, tmp_path / "o.png", advance=_interrupt, **more)
    (tmp_path / ".o.png.tiles" / "0.probs.npy").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"0\.probs\.npy: this tile is damaged"):
        run(*paths, tmp_path / "o.png", **more)
    (tmp_path / ".o.png.tiles" / "1.probs.npy").unlink()
    _, result = run(*paths, tmp_path / "o.png", **more)
    assert result.resumed == 10


def test_a_band_with_the_value_of_nodata_is_no_hole(tmp_path: Path) -> None:
    photo, probs = edge()
    yellow = photo.transpose(2, 0, 1).copy()
    yellow[2, :20] = 0
    yellow[:, :, 55:] = 0
    image = write_raster(tmp_path / "a.tif", yellow, {}, nodata=0)
    probs[:, :5] = [[[0]], [[1]]]
    scores = write_raster(tmp_path / "s.tif", probs, {}, nodata=0)
    labels, result = run(image, scores, tmp_path / "o.tif", options=TileOptions(tile=60))
    np.testing.assert_array_equal(labels == 255, np.arange(60) >= 55 + np.zeros((40, 1)))
    assert result.pixels == 40 * 55


def test_scale_and_offset_of_bands_are_applied(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra `raster`")
    photo, probs = edge()
    plain = write_raster(tmp_path / "a.tif", photo.transpose(2, 0, 1), {})
    logits = np.log(probs)
    want, _ = run(
        plain, write_raster(tmp_path / "s.tif", logits, {}), tmp_path / "o.tif",
        refining=RefineOptions(),
    )  # fmt: skip
    stored = np.rint((logits - [[[1]], [[-2]]]) * 1000).astype(np.int16)
    stored[:, :3, :3] = -32768
    scores = write_raster(tmp_path / "t.tif", stored, {}, nodata=-32768)
    image = write_raster(tmp_path / "b.tif", photo.transpose(2, 0, 1) // 2, {})
    for path, scales, offsets in (
        (scores, (0.001,) * 2, (1, -2)),
        (image, (0.001,) * 3, (0.5,) * 3),
    ):
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = scales, offsets
    options = TileOptions(tile=60, ranges=parse_ranges("0.5..0.6275"))
    labels, result = run(
        image, scores, tmp_path / "o.tif", refining=RefineOptions(), options=options
    )
    held = np.ones((40, 60), np.bool_)
    held[:3, :3] = False
    np.testing.assert_array_equal(labels, np.where(held, want, 255))
    assert result.kind == "logits"
    _, result = run(image, scores, tmp_path / "o.tif", refining=RefineOptions())
    assert "scaled to 0..255 from 0.51..0.6" in result.notes[-1]


def test_a_palette_image_guides_with_its_colors(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra `raster`")
    photo, probs = edge()
    scores = write_raster(tmp_path / "s.tif", probs, {})
    plain = write_raster(tmp_path / "a.tif", photo.transpose(2, 0, 1), {})
    index = (photo[..., 0] > 100).astype(np.uint8)[None]
    indexed = write_raster(tmp_path / "b.tif", index, {})
    with rasterio.open(indexed, "r+") as file:
        file.write_colormap(1, {0: (20, 20, 20, 255), 1: (200, 200, 200, 255)})
    options: dict[str, Any] = {"refining": RefineOptions(), "overlay": tmp_path / "view.png"}
    want, _ = run(plain, scores, tmp_path / "o.tif", **options)
    picture = np.asarray(Image.open(tmp_path / "view.png"))
    labels, result = run(indexed, scores, tmp_path / "o.tif", **options)
    np.testing.assert_array_equal(labels, want)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "view.png")), picture)
    assert result.relabeled == 120


@pytest.mark.parametrize("layout", ["npz", "last", "h5"])
def test_quantized_logits_become_floats_tile_by_tile(tmp_path: Path, layout: str) -> None:
    photo, logits = scene()
    stored = np.rint(logits * 20 + 100).clip(0, 255).astype(np.uint8)
    paths = save(tmp_path, photo, (stored - np.float32(100)) * np.float32(0.05))
    want, _ = run(*paths, tmp_path / "want.png")
    arrays = {"logits": stored, "scale": np.float32(0.05), "zero": np.float32(100)}
    scores = tmp_path / "q.npz"
    if layout == "h5":
        scores = tmp_path / "q.h5"
        with pytest.importorskip("h5py", reason="needs the extra `hdf5`").File(scores, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    else:
        arrays["logits"] = np.moveaxis(stored, 0, -1) if layout == "last" else stored
        np.savez(scores, **arrays)
    labels, result = run(paths[0], scores, tmp_path / "o.png")
    np.testing.assert_array_equal(labels, want)
    assert result.kind == "logits"


def plan_of(image: Any, scores: Path, **more: Any) -> TileJob:
    given = {"clamp": None, "refining": OPTIONS, "reading": ReadOptions(), **more}
    return open_tiles(image, scores, options=TileOptions(tile=60), **given)


def test_the_memory_counts_classes_and_what_is_read_as_a_whole(tmp_path: Path) -> None:
    photo, logits = scene()
    image, scores = save(tmp_path, photo, logits)
    base = plan_of(image, scores).memory
    np.savez(tmp_path / "b.npz", logits=logits)
    whole = plan_of(image, tmp_path / "b.npz").memory
    assert whole - base == logits.nbytes
    clamp = np.full(SIZE, 255, np.int64)
    np.save(tmp_path / "c.npy", clamp)
    np.savez(tmp_path / "c.npz", clamp=clamp)
    mapped = plan_of(image, scores, clamp=tmp_path / "c.npy").memory
    assert plan_of(image, scores, clamp=tmp_path / "c.npz").memory - mapped == clamp.nbytes
    np.save(tmp_path / "labels.npy", logits.argmax(0).astype(np.uint8))
    few, many = (
        plan_of(
            image, tmp_path / "labels.npy", refining=RefineOptions(kernels=KERNELS, num_classes=n)
        )
        for n in (4, 104)
    )
    assert many.memory - few.memory > 100 * 52 * many.plan.most_pixels()


def test_the_memory_counts_photographs_beside_a_raster(tmp_path: Path) -> None:
    photo, logits = scene()
    image, scores = save(tmp_path, photo, logits)
    raster = write_raster(tmp_path / "a.tif", photo.transpose(2, 0, 1), {})
    rasters = plan_of([raster, raster], scores).memory
    assert plan_of([raster, image], scores).memory - rasters == photo.nbytes
    labels = 2 * SIZE[0] * SIZE[1]
    assert plan_of([image, raster], scores).memory - rasters == photo.nbytes + labels


def test_probabilities_of_a_photograph_are_written_without_holding_them(tmp_path: Path) -> None:
    photograph = Photograph(
        save(tmp_path, np.zeros((500, 400, 3), np.uint8), np.zeros(1))[0], DEFAULTS
    )
    part = np.random.default_rng(0).random((8, 500, 200), np.float32)
    tracemalloc.start()
    with photograph.create(tmp_path / "p.npy", 8, np.dtype(np.float32)) as write:
        for left in (0, 200):
            write((slice(0, 500), slice(left, left + 200)), part + left)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * part.nbytes  # a window, not the file of twice its size
    np.testing.assert_array_equal(
        np.load(tmp_path / "p.npy"), np.concatenate([part, part + 200], 2)
    )


@pytest.mark.parametrize("what", ["output", "probs", "overlay"])
def test_names_that_promise_another_format_are_refused_before_the_work(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: Any) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr("crfrnn.containers.refine_tiles.refine_inputs", work)
    photo, logits = scene()
    image, scores = save(tmp_path, photo, logits)
    wrong = {"output": "o.tif", "probs": "p.tif", "overlay": "v.foo"}[what]
    outputs = {"output": tmp_path / "o.png", what: tmp_path / wrong}
    with pytest.raises(ValueError, match=rf"{wrong}: expected a .* file .* got \.(tif|foo)"):
        refine_tiles(image, scores, **outputs)
    raster = write_raster(tmp_path / "a.tif", photo.transpose(2, 0, 1), {})
    wrong = {"output": "o.png", "probs": "p.npy", "overlay": "v.tif"}[what]
    outputs = {"output": tmp_path / "o.tif", what: tmp_path / wrong}
    with pytest.raises(ValueError, match=rf"{wrong}: expected a .* file .* got \.(png|npy|tif)"):
        refine_tiles(raster, scores, **outputs)
    assert not list(tmp_path.glob(".*"))
