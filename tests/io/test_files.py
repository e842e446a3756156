"""Reading photographs and scores, and writing results whole or not at all."""

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crfrnn._guide import GuideWarning
from crfrnn.io.files import (
    image_size,
    make_folder,
    read_image,
    replacing,
    require_writable,
    write_array,
    write_labels,
)
from crfrnn.io.notes import Note, Stretch
from crfrnn.io.options import ReadOptions
from crfrnn.io.palette import VOC_CLASSES, voc_palette
from crfrnn.io.scores import Scores, read_scores

SIZE = (5, 7)


@pytest.fixture
def grey() -> np.ndarray:
    return np.arange(35, dtype=np.uint8).reshape(SIZE) * 7


def logits(classes: int = 3, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(classes, *size)).astype(np.float32)


def probabilities(classes: int = 3) -> np.ndarray:
    e = np.exp(logits(classes))
    return e / e.sum(axis=0)


def saved(tmp_path: Path, values: Any, **named: Any) -> Path:
    path = tmp_path / ("scores.npz" if named else "scores.npy")
    if named:
        np.savez(path, **named)
    else:
        np.save(path, values)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Photographs


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "CMYK"])
def test_every_mode_reads_as_rgb(tmp_path: Path, grey: np.ndarray, mode: str) -> None:
    image = Image.fromarray(grey).convert("RGB").convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    got = read_image(path)
    assert got.shape == (*SIZE, 3)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.asarray(image.convert("RGB")))


def test_16_bit_grey_is_scaled_and_keeps_its_steps(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 35).astype(np.uint16).reshape(SIZE)
    Image.fromarray(values).save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png")
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[..., 1], values / 257, rtol=1e-6)


def test_exif_orientation_is_applied_only_when_asked(tmp_path: Path, grey: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(grey).save(tmp_path / "a.png", exif=exif)
    with pytest.warns(GuideWarning, match=r"a\.png has an EXIF orientation.*--apply-exif"):
        stored = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(stored[..., 0], grey)
    turned = read_image(tmp_path / "a.png", apply_exif=True)[..., 0]
    np.testing.assert_array_equal(turned, np.rot90(grey, -1))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_tiffs_come_upright_and_have_that_size(
    tmp_path: Path, grey: np.ndarray, orientation: int, mode: str
) -> None:
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.tif", tiffinfo={274: orientation})
    upright = np.rot90(grey, {1: 0, 3: 2, 6: -1}[orientation])
    for apply_exif in (False, True):
        got = read_image(tmp_path / "a.tif", apply_exif=apply_exif)[..., 0]
        np.testing.assert_array_equal(got, upright)
        assert image_size(tmp_path / "a.tif", apply_exif=apply_exif) == upright.shape


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits per color, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def test_colors_of_12_bits_in_16_are_warned_of(tmp_path: Path) -> None:
    values = np.full((*SIZE, 3), 400, np.uint16)
    values[0] = 3800
    path = tmp_path / "a.png"
    path.write_bytes(deep_png(values))
    with pytest.warns(GuideWarning, match=r"a\.png uses only the lower part of 0\.\.65535"):
        assert read_image(path).max() == 14
    (tmp_path / "a.ppm").write_bytes(
        f"P6 {SIZE[1]} {SIZE[0]} 65535\n".encode() + values.astype(">u2").tobytes()
    )
    with pytest.warns(GuideWarning, match=r"a\.ppm uses only the lower part of 0\.\.65535"):
        read_image(tmp_path / "a.ppm")
    path.write_bytes(deep_png(values * 16))
    assert read_image(path).max() == 237
    Image.fromarray(np.full((*SIZE, 3), 9, np.uint8)).save(path)  # a dark one of 8 bits
    assert read_image(path).max() == 9


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "folder", "float"])
def test_unreadable_images_are_told_by_name(tmp_path: Path, grey: np.ndarray, damage: str) -> None:
    path = tmp_path / ("a.tif" if damage == "float" else "a.png")
    if damage == "folder":
        path.mkdir()
    elif damage == "text":
        path.write_text("not an image")
    elif damage == "float":
        Image.fromarray(grey.astype(np.float32)).save(path)
    elif damage != "missing":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[: 300 if damage == "truncated" else 0])
    with pytest.raises((ValueError, FileNotFoundError), match=r"a\.(png|tif)"):
        read_image(path)


# Scores: layout


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("last", [False, True])
def test_either_layout_and_any_float_type(tmp_path: Path, dtype: Any, last: bool) -> None:
    values = logits().astype(dtype)
    path = saved(tmp_path, np.moveaxis(values, 0, -1) if last else values)
    got = read_scores(path, SIZE)
    assert got.kind == "logits"
    np.testing.assert_array_equal(got.values, values.astype(np.float32))


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        ((21, 33, 33), "auto", (21, 33, 33)),
        ((33, 33, 21), "auto", (21, 33, 33)),
        ((150, 5, 7), "auto", (150, 5, 7)),  # the size of the image decides
        ((5, 7, 150), "auto", (150, 5, 7)),
        ((1, 21, 5, 7), "auto", (21, 5, 7)),  # a batch of one
        ((4, 4, 4), "first", (4, 4, 4)),
        ((6, 7, 4), "last", (4, 6, 7)),
        ((40, 5, 8), "first", (40, 5, 8)),
    ],
)
def test_class_axis(
    tmp_path: Path, shape: tuple[int, ...], axis: Any, expected: tuple[int, ...]
) -> None:
    ids = np.arange(expected[0], dtype=np.float32) - 1
    values = np.ones(shape, np.float32) * (ids[:, None, None] if shape[-3:] == expected else ids)
    got = read_scores(saved(tmp_path, values), SIZE, ReadOptions(class_axis=axis))
    np.testing.assert_allclose(got.values, np.ones((1, *SIZE)) * ids[:, None, None], rtol=1e-6)


@pytest.mark.parametrize(("size", "classes"), [((1, 7), 3), ((1, 1), 5), ((6, 1), 9)])
def test_one_pixel_and_one_row(tmp_path: Path, size: tuple[int, int], classes: int) -> None:
    values = logits(classes, size)
    for layout in (values, np.moveaxis(values, 0, -1)):
        np.testing.assert_array_equal(read_scores(saved(tmp_path, layout), size).values, values)


def test_an_undecidable_class_axis_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path, logits(150, (33, 33)))
    with pytest.raises(ValueError, match="--channels-first or --channels-last"):
        read_scores(path, (100, 100))
    assert read_scores(path, (100, 100), ReadOptions(class_axis="first")).values.shape == (
        150,
        100,
        100,
    )


@pytest.mark.parametrize("shape", [(3, 7, 5), (7, 5, 3), (3, 14, 10), (7, 5)])
def test_swapped_height_and_width(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"swapped.*5x7"):
        read_scores(saved(tmp_path, np.random.default_rng(0).normal(size=shape)), SIZE)


def test_swapped_by_one_pixel(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="swapped"):
        read_scores(saved(tmp_path, logits(3, (6, 5))), (5, 6))


def test_another_shape_is_stretched_and_noted(tmp_path: Path) -> None:
    got = read_scores(saved(tmp_path, logits(3, (9, 9))), (30, 60))
    assert got.notes[-1] == Note("scores.npy", Stretch((9, 9), (30, 60)))
    assert str(got.notes[-1]).startswith("scores.npy has scores of 9x9 that are stretched to 30x60")
    assert "--canvas" in str(got.notes[-1])


# Scores: resampling


def test_upsampling_matches_hand_computed_values(tmp_path: Path) -> None:
    path = saved(tmp_path, np.array([[[0.0, -4.0]], [[0.0, 4.0]]]))  # one row of two cells
    halves = read_scores(path, (1, 4)).values[1, 0]
    np.testing.assert_allclose(halves, [0, 1, 3, 4])
    corners = read_scores(path, (1, 5), ReadOptions(align_corners=True)).values[1, 0]
    np.testing.assert_allclose(corners, [0, 1, 2, 3, 4])


def test_canvas_is_upsampled_and_cropped(tmp_path: Path) -> None:
    cells = logits(2, (3, 3))
    options = ReadOptions(canvas=(9, 9), align_corners=True, class_axis="first")
    got = read_scores(saved(tmp_path, cells), SIZE, options)
    np.testing.assert_allclose(got.values[:, ::4, ::4], cells[:, :2, :2], rtol=1e-5)
    assert not got.notes[1:]
    with pytest.raises(ValueError, match=r"canvas 4x9 must not be smaller than the image 5x7"):
        read_scores(tmp_path / "scores.npy", SIZE, ReadOptions(canvas=(4, 9)))


# Scores: kinds


@pytest.mark.parametrize(
    ("values", "kind", "why"),
    [
        (logits(), "logits", "negative"),
        (-np.log(probabilities()), "logits", "under exp"),  # energies, turned round
        (np.round(probabilities(21) * 255).astype(np.float32) / 255, "probs", "sum to one"),
        (np.floor(probabilities(40) * 255) / 255, "probs", "sum to one"),
        (np.round(probabilities(9) * 255), "probs", "sum to 255"),
        (np.round(probabilities(9) * 255).astype(np.uint8), "probs", "sum to 255"),
        (probabilities() - 0.005, "probs", "sum to one"),  # sharp resizing dips below 0
        (probabilities(), "probs", "sum to one"),
        (probabilities(150).astype(np.float16), "probs", "sum to one"),
        (probabilities()[0], "probs", r"0\.\.1"),
        (logits()[0], "logits", "negative"),
        (np.full(SIZE, 3), "labels", "below 64"),
        (np.full(SIZE, 3.0), "labels", "below 64"),
        (np.array([[0.0, 1.0]]).repeat(5, 0).repeat(4, 1)[:, :7], "labels", "below 64"),
        (np.array([3, 28, 139, 3, 3, 3, 139] * 5).reshape(SIZE), "labels", "3 different"),
        (np.full(SIZE, 20, np.uint8), "labels", "below 64"),
        (np.where(np.arange(35).reshape(SIZE) > 9, 65535, 0), "probs", "0 and 65535"),
        (np.arange(35).reshape(SIZE) > 9, "probs", "Boolean"),
        (np.where(np.arange(35).reshape(SIZE) > 9, 255, 0).astype(np.uint8), "probs", "0 and 255"),
        (np.array([0] * 20 + [128] + [255] * 14).reshape(SIZE), "probs", "near 0 or 255"),
        (np.eye(5, 7)[None].repeat(3, 0).astype(bool), "masks", "two values"),
        (np.eye(5, 7)[None].repeat(3, 0).astype(np.uint8) * 255, "masks", "two values"),
    ],
)
def test_kind_is_guessed_and_told(tmp_path: Path, values: np.ndarray, kind: str, why: str) -> None:
    got = read_scores(saved(tmp_path, values), SIZE)
    assert got.kind == kind
    assert len(got.notes) == 1
    assert re.search(why, str(got.notes[0]))


def test_npz_is_read_by_name(tmp_path: Path) -> None:
    z, p = logits(), probabilities()
    assert read_scores(saved(tmp_path, None, logits=z, extra=p), SIZE).kind == "logits"
    assert read_scores(saved(tmp_path, None, probs=p), SIZE).notes == ()
    assert read_scores(saved(tmp_path, None, anything=p), SIZE).kind == "probs"
    both = saved(tmp_path, None, logits=z, probs=p)
    assert read_scores(both, SIZE, ReadOptions(kind="probs")).kind == "probs"
    with pytest.raises(ValueError, match="got logits, probs"):
        read_scores(both, SIZE)


def test_quantized_logits_are_restored(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 255, (*SIZE, 4)).astype(np.uint8)
    path = saved(tmp_path, None, logits=codes, scale=np.float32(0.5), zero=36)
    got = read_scores(path, SIZE)
    assert got.kind == "logits"
    np.testing.assert_allclose(got.values, (np.moveaxis(codes, -1, 0) - 36.0) * 0.5)


def test_a_binary_mask_can_still_be_moved(tmp_path: Path, grey: np.ndarray) -> None:
    Image.fromarray(np.where(grey > 99, 255, 0).astype(np.uint8)).save(tmp_path / "m.png")
    got = read_scores(tmp_path / "m.png", SIZE, ReadOptions(kind="mask", confidence=0.8))
    np.testing.assert_allclose(got.values[0], np.where(grey > 99, 0.8, 0.2), rtol=1e-6)
    np.testing.assert_array_equal(got.labels(), grey > 99)
    with pytest.raises(ValueError, match=r"confidence.*0\.4"):
        read_scores(tmp_path / "m.png", SIZE, ReadOptions(kind="mask", confidence=0.4))


def test_a_soft_mask_is_a_probability(tmp_path: Path, grey: np.ndarray) -> None:
    Image.fromarray(grey).convert("RGB").save(tmp_path / "m.png")  # grey, though saved in color
    got = read_scores(tmp_path / "m.png", SIZE, ReadOptions(kind="mask"))
    np.testing.assert_allclose(got.values[0], grey / 255, rtol=1e-6)


def test_a_palette_is_kept(tmp_path: Path) -> None:
    image = Image.fromarray(np.ones(SIZE, np.uint8))
    image.putpalette([9, 8, 7, 1, 2, 3])
    image.save(tmp_path / "l.png")
    got = read_scores(tmp_path / "l.png", SIZE)
    assert got.kind == "labels"
    assert got.palette is not None
    assert got.palette[:6] == bytes([9, 8, 7, 1, 2, 3])
    assert got.notes == ()


def test_labels_before_refinement() -> None:
    values = np.array([[[0.2, 0.7]]], np.float32)
    np.testing.assert_array_equal(Scores(values, "probs").labels(), [[0, 1]])
    np.testing.assert_array_equal(Scores(values - 0.5, "logits").labels(), [[0, 1]])
    np.testing.assert_array_equal(Scores(np.array([[4, 2]]), "labels").labels(), [[4, 2]])


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (logits().astype(np.int64), "auto", "quantized logits.*scale"),
        (logits().astype(np.int64), "logits", "must be floating point; got int64"),
        (np.zeros(SIZE, np.uint8), "probs", "must be floating point; got one map of uint8"),
        (np.abs(logits()), "auto", "--kind logits or --kind energy"),
        (np.random.default_rng(0).random((3, *SIZE)), "auto", "Divide.*--kind masks or"),
        (probabilities()[0] * 255, "auto", "--kind mask, --kind logits"),
        (np.full(SIZE, 200, np.uint8), "auto", "--kind labels or --kind mask"),
        (np.array([[0, 139]]).repeat(5, 0).repeat(4, 1)[:, :7], "auto", "--kind labels or"),
        (np.full(SIZE, 30000), "auto", "30001 classes.*--classes N"),
        (
            np.arange(35).reshape(1, *SIZE) % 3 == np.arange(3)[:, None, None],
            "auto",
            "--kind masks",
        ),
        (logits()[0], "energy", "at least two classes"),
        (logits()[0], "labels", "labels must be integers; got float32"),
        (logits(), "mask", "one channel"),
        (np.full(SIZE, 2.0), "mask", r"0\.\.1; got 2\.0"),
        (np.zeros((4, 6), np.int64), "auto", r"size of the image, 5x7.*got 4x6"),
        (np.zeros((2, 3, 5, 7)), "auto", r"got shape \(2, 3, 5, 7\)"),
        (np.zeros(9), "auto", r"got shape \(9,\)"),
        (np.zeros((3, 0, 7)), "auto", "empty"),
        (np.where(logits() > 1, np.nan, logits()), "auto", "NaN"),
        (np.array([["a"]]), "auto", "expected numbers"),
    ],
)
def test_bad_scores_are_told_by_name(
    tmp_path: Path, values: np.ndarray, kind: Any, message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=f"scores.npy: .*{message}"):
        read_scores(saved(tmp_path, values), SIZE, ReadOptions(kind=kind))


def test_pickled_arrays_are_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy: expected a pickled dictionary of arrays"):
        read_scores(tmp_path / "a.npy", SIZE)
    np.savez(tmp_path / "a.npz", np.array([{}], object))
    with pytest.raises(ValueError, match=r"a\.npz: holds pickled Python objects.*np\.savez"):
        read_scores(tmp_path / "a.npz", SIZE)


def test_a_dictionary_of_class_maps_is_read_with_its_background(tmp_path: Path) -> None:
    """The label of key k is k + 1, and the background (1 - maximum)^background."""
    maps = np.random.default_rng(0).random((2, *SIZE)).astype(np.float32)
    np.save(tmp_path / "a.npy", {1: maps[0], 4: maps[1]}, allow_pickle=True)
    scores = read_scores(tmp_path / "a.npy", SIZE, ReadOptions(background=8))
    assert (scores.kind, scores.values.shape) == ("probs", (6, *SIZE))
    parts = np.stack([(1 - maps.max(0)) ** 8, *maps])
    np.testing.assert_allclose(scores.values[[0, 2, 5]], parts / parts.sum(0), rtol=1e-4)
    assert "dictionary of class maps: the label of a map is its key + 1" in str(scores.notes[0])
    own = read_scores(tmp_path / "a.npy", SIZE, ReadOptions(background=0))
    assert own.values.shape == (5, *SIZE)


def test_the_pages_of_a_tiff_are_classes(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(3, *SIZE)).astype(np.float32)
    pages = [Image.fromarray(page) for page in logits]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    scores = read_scores(tmp_path / "a.tif", SIZE)
    assert scores.kind == "logits"
    np.testing.assert_array_equal(scores.values, logits)
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.tif: not a readable image"):
        read_scores(tmp_path / "a.tif", SIZE)


def test_an_array_is_chosen_by_its_name(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(3, *SIZE)).astype(np.float32)
    np.savez(tmp_path / "a.npz", fold0=logits, fold1=-logits)
    scores = read_scores(Path(f"{tmp_path / 'a.npz'}:fold1"), SIZE)
    np.testing.assert_array_equal(scores.values, -logits)
    with pytest.raises(ValueError, match=r"a\.npz: expected an array 'x'; it has fold0, fold1"):
        read_scores(Path(f"{tmp_path / 'a.npz'}:x"), SIZE)


def test_colored_labels_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", SIZE[::-1], (1, 2, 3)).save(tmp_path / "l.png")
    with pytest.raises(ValueError, match="class ids, not colors"):
        read_scores(tmp_path / "l.png", SIZE)


# Writing


def test_labels_are_written_in_voc_colors_a_palette_or_16_bits(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 15]])
    write_labels(tmp_path / "a.png", labels, classes=21)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(image, labels)
        # As the VOC development kit has them: aeroplane, person.
        np.testing.assert_array_equal(
            image.convert("RGB"), [[[0] * 3, [128, 0, 0], [192, 128, 128]]]
        )
    write_labels(tmp_path / "b.png", labels, classes=16, palette=bytes(range(48)))
    with Image.open(tmp_path / "b.png") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[0, 2], [45, 46, 47])
    write_labels(tmp_path / "c.png", labels + 300, classes=320)
    with Image.open(tmp_path / "c.png") as image:
        np.testing.assert_array_equal(image, labels + 300)
    with pytest.raises(ValueError, match="65536"):
        write_labels(tmp_path / "d.png", labels, classes=70000)
    assert not (tmp_path / "d.png").exists()


def test_the_voc_palette() -> None:
    assert len(VOC_CLASSES) == 21
    colors = [tuple(voc_palette()[i : i + 3]) for i in range(0, 768, 3)]
    assert len(set(colors)) == 256
    assert colors[255] == (224, 224, 192)


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, failure: Any) -> None:
    path = tmp_path / "a.npy"
    write_array(path, np.zeros(2))
    before = path.read_bytes()
    with pytest.raises(failure), replacing(path) as file:  # noqa: PT012 - the failure is the point
        file.write(b"half")
        raise failure
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.npy"]


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_array(tmp_path / "a.npy", np.zeros(2))
    assert (tmp_path / "a.npy").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert names(tmp_path) == ["a.npy", "usual"]


def test_unwritable_places_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="missing"):
        require_writable(tmp_path / "nowhere" / "a.png")
    with pytest.raises(OSError, match="not a folder"):
        require_writable(tmp_path / "file" / "a.png")
    with pytest.raises(OSError, match="name of a file to write; got a folder"):
        require_writable(tmp_path)
    with pytest.raises(OSError, match="cannot create this folder"):
        make_folder(tmp_path / "file" / "folder")
    require_writable(tmp_path / "a.png")
    assert names(tmp_path) == ["file"]


def test_scores_in_the_place_of_the_photograph(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.zeros((3, 4, 5)))
    with pytest.raises(ValueError, match=r"scores\.npy: .*give the photograph first, then its sco"):
        read_image(tmp_path / "scores.npy")
