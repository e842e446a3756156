"""Volumes: geometry kept, axes and boxes of nnU-Net, millimeters, damaged and hostile files."""

from __future__ import annotations

import gzip
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crfrnn import Bilateral, Gaussian, refine
from crfrnn.containers.refine_volume import RefinedVolume, refine_volume
from crfrnn.containers.scaling import Range
from crfrnn.containers.volume_scores import VolumeOptions
from crfrnn.io.locks import claimed
from crfrnn.io.options import ReadOptions
from crfrnn.offline.options import RefineOptions

nibabel = pytest.importorskip("nibabel", reason="needs the extra `volume`")

SIZE = (7, 6, 5)  # (X, Y, Z)
#: Oblique and anisotropic, with signs: voxels of 1 x 1.5 x 4 mm.
ROTATION = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = ROTATION @ np.diag([-1, 1.5, 4])
AFFINE[:3, 3] = [90, -126, -72]
KERNELS = [Bilateral(position=6, color=20, weight=4), Gaussian(position=1.5, weight=2)]
OPTIONS = RefineOptions(kernels=KERNELS, iterations=4)


def scene(size: tuple[int, int, int] = SIZE, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """An int16 scan (X, Y, Z) and probabilities (C, Z, Y, X)."""
    rng = np.random.default_rng(3)
    scan = rng.integers(1, 900, size).astype(np.int16)
    logits = rng.normal(0, 2, (classes, *size[::-1]))
    probs = np.exp(logits) / np.exp(logits).sum(0)
    return scan, probs.astype(np.float32)


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE, **header: Any) -> Path:
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 2)
    image.set_qform(affine, 1)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def run(folder: Path, image: Any, scores: Path, **options: Any) -> tuple[np.ndarray, RefinedVolume]:
    result = refine_volume(image, scores, folder / "seg.nii.gz", **{"refining": OPTIONS, **options})
    return np.asarray(nibabel.load(folder / "seg.nii.gz").dataobj), result


def expected(scan: np.ndarray, probs: np.ndarray, steps: tuple[float, ...] = (1, 1.5, 4)) -> Any:
    """The NumPy call on the same numbers: bandwidths of 6 and 1.5 mm in voxels (x, y, z)."""
    low, high = np.percentile(scan[scan != 0], (1, 99))
    guide = np.clip((scan.astype(np.float32).T - low) / (high - low) * 255, 0, 255)
    kernels = [
        Bilateral(position=tuple(6 / step for step in steps), color=20, weight=4),
        Gaussian(position=tuple(1.5 / step for step in steps), weight=2),
    ]
    return refine(guide[None, None], probs=probs[None], kernels=kernels, iterations=4)


def test_the_result_is_that_of_the_numpy_call_with_the_affine_and_header_of_the_scan(
    tmp_path: Path,
) -> None:
    scan, probs = scene()
    image = save(tmp_path / "t1.nii.gz", scan, descrip=b"a scan", toffset=1.5, slice_code=3)
    np.savez(tmp_path / "case.npz", probabilities=probs.astype(np.float16))
    labels, result = run(tmp_path, image, tmp_path / "case.npz", probs=tmp_path / "probs.nii.gz")
    call = expected(scan, probs.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(labels.T, call.labels[0])
    np.testing.assert_allclose(result.probs, call.probs[0], atol=1e-5)
    assert (probs.argmax(0) != labels.T).any()
    stored = np.asarray(nibabel.load(tmp_path / "probs.nii.gz").dataobj)
    np.testing.assert_array_equal(stored.T, result.probs)
    old, new = nibabel.load(image).header, nibabel.load(tmp_path / "seg.nii.gz").header
    changed = {name for name in old if old[name].tobytes() != new[name].tobytes()}
    assert changed <= {"datatype", "bitpix", "cal_max", "scl_slope", "scl_inter"}
    assert (
        nibabel.load(image).affine.tobytes()
        == nibabel.load(tmp_path / "seg.nii.gz").affine.tobytes()
    )
    assert labels.dtype == np.uint8


def test_bandwidths_in_millimeters_agree_with_the_exact_filter(tmp_path: Path) -> None:
    """Against sums over pairs of voxels whose distances come from the affine itself."""
    scan, probs = scene((4, 3, 3), 2)
    image = save(tmp_path / "t1.nii", scan)
    np.save(tmp_path / "probs.npy", probs)
    options = RefineOptions(kernels=KERNELS, iterations=1, normalization="none", filter="exact")
    _, result = run(
        tmp_path, image, tmp_path / "probs.npy", refining=options, options=VolumeOptions(axes="zyx")
    )
    index = np.stack(np.meshgrid(*map(np.arange, (4, 3, 3)), indexing="ij"), -1).reshape(-1, 3)
    place = index @ AFFINE[:3, :3].T
    far = ((place[:, None] - place[None]) ** 2).sum(-1)
    low, high = np.percentile(scan, (1, 99))
    gray = (np.clip((scan - low) / (high - low), 0, 1) * 255).reshape(-1)
    alike = (gray[:, None] - gray[None]) ** 2
    both = 4 * np.exp(-far / (2 * 6**2) - alike / (2 * 20**2)) + 2 * np.exp(-far / (2 * 1.5**2))
    q = probs.transpose(0, 3, 2, 1).reshape(2, -1).astype(np.float64)
    logits = np.log(q) + q @ both
    want = np.exp(logits - logits.max(0))
    got = result.probs.transpose(0, 3, 2, 1).reshape(2, -1)
    # The smoothness kernel is a convolution cut off where it falls below 1e-4 or so.
    np.testing.assert_allclose(got, want / want.sum(0), atol=2e-3)


def test_bandwidths_in_voxels_and_in_microns(tmp_path: Path) -> None:
    scan, probs = scene()
    np.save(tmp_path / "probs.npy", probs)
    voxels, _ = run(
        tmp_path,
        save(tmp_path / "a.nii", scan),
        tmp_path / "probs.npy",
        options=VolumeOptions(voxels=True),
    )
    np.testing.assert_array_equal(voxels.T, expected(scan, probs, (1, 1, 1)).labels[0])
    image = nibabel.Nifti1Image(scan, np.diag([1000, 1500, 4000, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "b.nii")
    microns, _ = run(tmp_path, tmp_path / "b.nii", tmp_path / "probs.npy")
    np.testing.assert_array_equal(microns.T, expected(scan, probs).labels[0])
    assert (microns != voxels).any()


@pytest.mark.parametrize("layout", ["nifti", "xyz", "xyzc", "zyx", "labels"])
def test_scores_in_every_order_of_axes_give_the_same_labels(tmp_path: Path, layout: str) -> None:
    scan, probs = scene()
    image = save(tmp_path / "t1.nii.gz", scan)
    path = tmp_path / "scores.npy"
    if layout == "nifti":
        path = save(tmp_path / "scores.nii.gz", probs.T)
    elif layout == "labels":
        probs = np.where(np.arange(3)[:, None, None, None] == probs.argmax(0), 0.7, 0.15)
        path = save(tmp_path / "scores.nii.gz", probs.argmax(0).T.astype(np.uint8))
    else:
        np.save(path, {"xyz": probs.transpose(0, 3, 2, 1), "xyzc": probs.T, "zyx": probs}[layout])
    labels, result = run(tmp_path, image, path)
    assert result.kind == ("labels" if layout == "labels" else "probs")
    np.testing.assert_array_equal(labels.T, expected(scan, probs).labels[0])


def test_axes_that_the_size_does_not_tell_are_asked_for(tmp_path: Path) -> None:
    scan, probs = scene((5, 6, 5))
    image = save(tmp_path / "t1.nii.gz", scan)
    np.save(tmp_path / "scores.npy", probs)
    with pytest.raises(ValueError, match=r"scores.npy.*--axes zyx"):
        run(tmp_path, image, tmp_path / "scores.npy")
    labels, _ = run(tmp_path, image, tmp_path / "scores.npy", options=VolumeOptions(axes="zyx"))
    np.testing.assert_array_equal(labels.T, expected(scan, probs).labels[0])
    turned, _ = run(tmp_path, image, tmp_path / "scores.npy", options=VolumeOptions(axes="xyz"))
    assert (turned != labels).any()


class Command:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_the_box_of_nnunet_1_is_found_without_its_pickle(tmp_path: Path) -> None:
    scan, probs = scene()
    scan[:2] = 0
    scan[:, :, 4:] = 0
    other = scan.copy()
    other[2] = 0
    images = [save(tmp_path / f"case_000{n}.nii.gz", v) for n, v in enumerate((scan, other))]
    inner = probs[:, :4, :, 2:]
    np.savez(tmp_path / "case.npz", softmax=inner)
    (tmp_path / "case.pkl").write_bytes(pickle.dumps(Command(tmp_path / "canary")))
    labels, result = run(tmp_path, images, tmp_path / "case.npz")
    assert not (tmp_path / "canary").exists()
    assert result.box == (slice(0, 4), slice(0, 6), slice(2, 7))
    assert not labels[:2].any()
    assert not labels[:, :, 4:].any()
    np.testing.assert_array_equal(labels[2:, :, :4].T, result.labels)
    told, _ = run(tmp_path, images, tmp_path / "case.npz", options=VolumeOptions(offset=(2, 0, 0)))
    np.testing.assert_array_equal(told, labels)
    with pytest.raises(ValueError, match=r"case.npz.*--offset"):
        run(tmp_path, images[1], tmp_path / "case.npz")
    with pytest.raises(ValueError, match="beyond"):
        run(tmp_path, images, tmp_path / "case.npz", options=VolumeOptions(offset=(3, 0, 0)))


def test_four_modalities_of_a_file_or_of_files_guide_with_all_channels(tmp_path: Path) -> None:
    """Four channels and four classes: nothing may take them for a batch."""
    rng = np.random.default_rng(5)
    scans = rng.integers(1, 900, (*SIZE, 4)).astype(np.float32)
    _, probs = scene(classes=4)
    np.savez(tmp_path / "case.npz", probabilities=probs)
    together = save(tmp_path / "all.nii.gz", scans)
    apart = [save(tmp_path / f"c_{n}.nii.gz", scans[..., n]) for n in range(4)]
    one, result = run(tmp_path, together, tmp_path / "case.npz")
    many, _ = run(tmp_path, apart, tmp_path / "case.npz")
    np.testing.assert_array_equal(one, many)
    low, high = np.percentile(scans, (1, 99), axis=(0, 1, 2))
    guide = (np.clip((scans - low) / (high - low), 0, 1) * 255).astype(np.float32).T
    call = refine(guide[None], probs=probs[None], kernels=result.kernels, iterations=4)
    np.testing.assert_array_equal(one.T, call.labels[0])


def test_modalities_and_scores_must_share_the_grid(tmp_path: Path) -> None:
    scan, probs = scene()
    image = save(tmp_path / "t1.nii.gz", scan)
    moved = AFFINE.copy()
    moved[0, 3] += 1
    with pytest.raises(ValueError, match=r"t2.nii.gz lies elsewhere than .*t1.nii.gz"):
        run(tmp_path, [image, save(tmp_path / "t2.nii.gz", scan, moved)], tmp_path / "s.npz")
    with pytest.raises(ValueError, match=r"t3.nii.gz must have the grid of"):
        run(tmp_path, [image, save(tmp_path / "t3.nii.gz", scan[1:])], tmp_path / "s.npz")
    scores = save(tmp_path / "s.nii.gz", probs.T, moved)
    with pytest.raises(ValueError, match=r"s.nii.gz lies elsewhere"):
        run(tmp_path, image, scores)


def test_voxels_that_are_not_finite_take_no_part(tmp_path: Path) -> None:
    scan, probs = scene()
    holes = scan.astype(np.float32)
    holes[2:4, 1:3] = np.nan
    np.save(tmp_path / "probs.npy", probs)
    labels, result = run(tmp_path, save(tmp_path / "t1.nii", holes), tmp_path / "probs.npy")
    outside = np.isnan(holes)
    np.testing.assert_array_equal(labels[outside], probs.argmax(0).T[outside])
    assert np.isfinite(result.probs).all()


def test_the_range_is_said_and_can_be_given(tmp_path: Path) -> None:
    scan, probs = scene()
    np.save(tmp_path / "probs.npy", probs)
    image = save(tmp_path / "t1.nii", scan)
    _, result = run(tmp_path, image, tmp_path / "probs.npy")
    assert "1 % and 99 % of the voxels other than 0" in result.notes[-2]
    assert "1 x 1.5 x 4 mm (x, y, z)" in result.notes[-1]
    given, result = run(tmp_path, image, tmp_path / "probs.npy", ranges=[Range(0, 255)])
    assert "0..255 from 0..255 (as given)" in result.notes[-2]
    guide = np.clip(scan.astype(np.float32), 0, 255).T
    call = refine(guide[None, None], probs=probs[None], kernels=result.kernels, iterations=4)
    np.testing.assert_array_equal(given.T, call.labels[0])


def test_headers_that_lie_are_found_before_memory_is_taken(tmp_path: Path) -> None:
    scan, probs = scene()
    np.save(tmp_path / "probs.npy", probs)
    data = bytearray(save(tmp_path / "t1.nii", scan).read_bytes())
    data[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    (tmp_path / "big.nii").write_bytes(data)
    (tmp_path / "big.nii.gz").write_bytes(gzip.compress(data))
    for name in ("big.nii", "big.nii.gz"):
        with pytest.raises(ValueError, match=rf"{name}: its header describes 30000 x 30000"):
            run(tmp_path, tmp_path / name, tmp_path / "probs.npy")
    whole = save(tmp_path / "t2.nii.gz", np.random.default_rng(0).normal(size=SIZE)).read_bytes()
    (tmp_path / "half.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.nii").write_bytes(b"no volume" * 100)
    flat = AFFINE.copy()
    flat[:3, 0] = 0
    for path in (tmp_path / "half.nii.gz", tmp_path / "text.nii"):
        with pytest.raises(ValueError, match=path.name):
            run(tmp_path, path, tmp_path / "probs.npy")
    whole = save(tmp_path / "whole.nii.gz", scan).read_bytes()
    flipped = bytearray(whole)
    flipped[-7] ^= 1  # the checksum no longer fits the voxels
    for name, data in (("cut", whole[:-5]), ("flipped", bytes(flipped))):
        (tmp_path / f"{name}.nii.gz").write_bytes(data)
        with pytest.raises(
            ValueError, match=rf"{name}\.nii\.gz: (the volume cannot be|not a) read"
        ):
            run(tmp_path, tmp_path / f"{name}.nii.gz", tmp_path / "probs.npy")
    image = nibabel.Nifti1Image(scan, AFFINE)
    image.header.set_sform(flat, 1)
    image.header.set_qform(None, 0)
    nibabel.save(nibabel.Nifti1Image(scan, None, image.header), tmp_path / "flat.nii")
    with pytest.raises(ValueError, match=r"flat.nii: its affine gives no spacing"):
        run(tmp_path, tmp_path / "flat.nii", tmp_path / "probs.npy")
    assert not (tmp_path / "seg.nii.gz").exists()


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, probs = scene()
    image = save(tmp_path / "t1.nii.gz", scan)
    np.save(tmp_path / "probs.npy", probs)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nibabel.Nifti1Image, "to_stream", full)
    with pytest.raises(OSError, match=r"No space left on device.*seg.nii.gz"):
        run(tmp_path, image, tmp_path / "probs.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["probs.npy", "t1.nii.gz"]


def test_two_jobs_do_not_write_the_same_volume(tmp_path: Path) -> None:
    scan, probs = scene()
    image = save(tmp_path / "t1.nii", scan)
    np.save(tmp_path / "probs.npy", probs)
    with (
        claimed(tmp_path / "seg.nii.gz", "refine"),
        pytest.raises(ValueError, match=r"seg\.nii\.gz: another crfrnn refine is writing here"),
    ):
        run(tmp_path, image, tmp_path / "probs.npy")
    run(tmp_path, image, tmp_path / "probs.npy")
    assert not list(tmp_path.glob(".*"))


def test_affines_must_agree_at_all_corners(tmp_path: Path) -> None:
    """With two axes exchanged, the first and the far corner of a cube of voxels still agree."""
    scan, _ = scene((6, 6, 4))
    image = save(tmp_path / "t1.nii.gz", scan, np.eye(4))
    exchanged = np.eye(4)[[1, 0, 2, 3]]
    labels = save(
        tmp_path / "s.nii.gz", (scan > 450).astype(np.uint8).transpose(1, 0, 2), exchanged
    )
    with pytest.raises(ValueError, match=r"s\.nii\.gz lies elsewhere"):
        run(tmp_path, image, labels)


def test_bytes_with_a_slope_are_no_colors(tmp_path: Path) -> None:
    scan, probs = scene()
    stored = (scan // 4).astype(np.uint8)
    header = save(tmp_path / "ct.nii", stored).read_bytes()
    slope = np.array([10, -1000], "<f4").tobytes()
    (tmp_path / "ct.nii").write_bytes(header[:112] + slope + header[120:])
    np.save(tmp_path / "probs.npy", probs)
    labels, result = run(tmp_path, tmp_path / "ct.nii", tmp_path / "probs.npy")
    assert "image scaled to 0..255 from -9" in result.notes[-2]
    np.testing.assert_array_equal(labels.T, expected(stored * 10.0 - 1000, probs).labels[0])


def test_the_place_of_probabilities_is_checked_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, probs = scene()
    image = save(tmp_path / "t1.nii.gz", scan)
    np.save(tmp_path / "probs.npy", probs)

    def work(*_: Any) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr("crfrnn.containers.refine_volume.refine_inputs", work)
    with pytest.raises(NotADirectoryError, match="cannot write this file"):
        run(tmp_path, image, tmp_path / "probs.npy", probs=tmp_path / "none" / "p.nii.gz")


def test_axes_apply_to_arrays_with_the_names_of_nnunet(tmp_path: Path) -> None:
    scan, probs = scene((6, 6, 6))
    image = save(tmp_path / "t1.nii.gz", scan)
    np.savez(tmp_path / "case.npz", probabilities=probs.transpose(0, 3, 2, 1))
    labels, _ = run(tmp_path, image, tmp_path / "case.npz", options=VolumeOptions(axes="xyz"))
    np.testing.assert_array_equal(labels.T, expected(scan, probs).labels[0])


def test_the_classes_of_a_box_lie_where_it_fits_or_as_told(tmp_path: Path) -> None:
    scan, probs = scene((6, 5, 4), classes=2)
    image = save(tmp_path / "t1.nii.gz", scan)
    options = VolumeOptions(axes="xyz", offset=(0, 0, 0))
    first, last = ReadOptions(class_axis="first"), ReadOptions(class_axis="last")
    for width in (5, 6):
        box = probs[:, :3, :4, :width]
        plain = replace(options, axes="zyx")
        path = save_array(tmp_path, box)
        want, _ = run(tmp_path, image, path, options=plain, reading=first)
        path = save_array(tmp_path, box.transpose(3, 2, 1, 0))
        told, _ = run(tmp_path, image, path, options=options, reading=last)
        np.testing.assert_array_equal(told, want)
        path = save_array(tmp_path, box.transpose(0, 3, 2, 1))  # (2, width, 4, 3)
        if width == 5:
            with pytest.raises(ValueError, match=r"c,xyz or xyz,c; give --channels-first or"):
                run(tmp_path, image, path, options=options)
        else:  # the image has only five rows
            found, _ = run(tmp_path, image, path, options=options)
            np.testing.assert_array_equal(found, want)
    with pytest.raises(ValueError, match=r"do not fit from voxel \(9, 0, 0\) on into"):
        run(tmp_path, image, path, options=replace(options, offset=(9, 0, 0)))


def save_array(folder: Path, values: np.ndarray) -> Path:
    np.save(folder / "scores.npy", values)
    return folder / "scores.npy"


def test_quantized_logits_of_a_volume(tmp_path: Path) -> None:
    scan, probs = scene()
    image = save(tmp_path / "t1.nii.gz", scan)
    stored = np.rint(np.log(probs) * 20 + 200).clip(0, 255).astype(np.uint8)
    logits = (stored - np.float32(200)) * np.float32(0.05)
    np.savez(tmp_path / "want.npz", logits=logits)
    want, _ = run(tmp_path, image, tmp_path / "want.npz")
    np.savez(tmp_path / "q.npz", logits=stored, scale=np.float32(0.05), zero=np.float32(200))
    labels, result = run(tmp_path, image, tmp_path / "q.npz")
    np.testing.assert_array_equal(labels, want)
    assert result.kind == "logits"
