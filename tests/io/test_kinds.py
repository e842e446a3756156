"""What a file is: other values of the same kinds, pictures beyond 8 bits and one page, names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crfrnn._guide import GuideWarning
from crfrnn.io.files import image_size, open_image, read_image, stem_of
from crfrnn.io.label_maps import is_black_and_white, is_nearly_binary, one_channel
from crfrnn.io.notes import Remainder, Stretch, canvas_side
from crfrnn.io.options import ReadOptions
from crfrnn.io.score_kinds import Ambiguous, guess_kind
from crfrnn.io.scores import read_scores

SIZE = (20, 30)
RANDOM = np.random.default_rng(11)


def simplex(classes: int, sharp: float = 4.0) -> np.ndarray:
    z = np.exp(RANDOM.normal(0, sharp, (classes, *SIZE)))
    return np.asarray(z / z.sum(axis=0), dtype=np.float32)


@pytest.mark.parametrize("classes", [2, 3, 21, 60, 150])
@pytest.mark.parametrize("rounding", [np.rint, np.floor])
@pytest.mark.parametrize("stored", ["unit", "bytes", "floats of bytes"])
def test_probabilities_in_8_bits_are_probabilities(
    tmp_path: Path, classes: int, rounding: Any, stored: str
) -> None:
    probs = simplex(classes)
    codes = rounding(probs * 255)
    values = {"unit": codes / 255, "bytes": codes.astype(np.uint8), "floats of bytes": codes}[
        stored
    ]
    np.save(tmp_path / "p.npy", values)
    got = read_scores(tmp_path / "p.npy", SIZE)
    assert got.kind == "probs"
    np.testing.assert_allclose(got.values.sum(axis=0), 1, atol=1e-5)
    certain = probs.max(axis=0) > 0.6
    agree = got.values.argmax(axis=0) == probs.argmax(axis=0)
    assert agree[certain].all()


@pytest.mark.parametrize("classes", [2, 19, 171])
def test_energies_and_log_probabilities(classes: int) -> None:
    probs = simplex(classes, 1.0)
    assert guess_kind(-np.log(probs)).kind == "energy"
    assert guess_kind(np.log(probs)).kind == "logits"
    assert guess_kind((-np.log(probs)).astype(np.float16)).kind == "energy"


@pytest.mark.parametrize(
    "values",
    [
        simplex(4) * 0.7,
        1 / (1 + np.exp(-RANDOM.normal(0, 3, (5, *SIZE)))),  # sigmoids
        np.maximum(RANDOM.normal(0, 3, (5, *SIZE)), 0),  # a rectified layer
        RANDOM.integers(0, 9, (3, *SIZE)),
        np.where(RANDOM.random(SIZE) < 0.5, 90, 180).astype(np.uint8),
        RANDOM.integers(0, 60_000, SIZE).astype(np.uint16),
        RANDOM.random(SIZE) * 9,
    ],
)
def test_what_cannot_be_told_is_asked_for(values: np.ndarray) -> None:
    with pytest.raises(Ambiguous, match="--kind"):
        guess_kind(values)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_masks_of_jpeg_are_masks(tmp_path: Path, quality: int) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[9:50, 13:41] = 255
    Image.fromarray(mask).save(tmp_path / "m.jpg", quality=quality)
    got = read_scores(tmp_path / "m.jpg", (64, 64))
    assert got.kind == "probs"
    assert (got.labels() != (mask > 0)).mean() < 0.01
    assert 0.25 < got.values.min() < got.values.max() < 0.75  # not certain


@pytest.mark.parametrize("share", [0, 0.001, 0.05])
def test_some_gray_does_not_make_a_mask_certain(tmp_path: Path, share: float) -> None:
    mask = np.where(np.arange(2000) < 900, 0, 255).astype(np.uint8)
    mask[:: int(1 / share) if share else 5000][1:] = 120
    Image.fromarray(mask.reshape(40, 50)).save(tmp_path / "m.png")
    values = read_scores(tmp_path / "m.png", (40, 50), ReadOptions(kind="mask")).values
    assert values.min() == pytest.approx(0.3)
    assert values.max() == pytest.approx(0.7)


def test_black_and_white() -> None:
    assert is_black_and_white(np.array([0, 255, 0]))
    for others in ([0, 0], [255, 255], [0, 254], [0, 1, 255]):
        assert not is_black_and_white(np.array(others))
    assert is_nearly_binary(np.array([0, 1.0]))
    assert not is_nearly_binary(np.array([0, 0.0]))


# Pictures


def save_pages(path: Path, kinds: tuple[int, ...]) -> None:
    pages = [Image.fromarray(np.full(SIZE, 9 + 50 * kind, np.uint8)) for kind in kinds]
    pages[0].save(path, save_all=True, append_images=pages[1:])


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".png", ".webp"])
def test_pages_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_pages(path, (0, 1, 2))
    with pytest.raises(ValueError, match=r"holds 3 pages or frames.*Save each"):
        read_image(path)


def test_a_smaller_version_on_a_second_page_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    page = Image.fromarray(np.full(SIZE, 9, np.uint8))
    small = Image.fromarray(np.full((5, 5), 99, np.uint8))
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    small.encoderinfo = {"tiffinfo": ImageFileDirectory_v2()}
    small.encoderinfo["tiffinfo"][254] = 1
    page.save(path, save_all=True, append_images=[small])
    with Image.open(path) as image:
        image.seek(1)
        if image.tag_v2.get(254) != 1:
            pytest.skip("this Pillow does not write the tag")
    assert (read_image(path) == 9).all()


def test_other_bands_name_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    place = data.index(b"\x15\x01\x03\x00")  # samples per pixel
    data[place + 8] = 5
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"a\.tif: not a readable image.*three bands.*8-bit"):
        open_image(path)


@pytest.mark.parametrize("top", [1023, 4095])
def test_12_bits_in_16_are_warned_of(tmp_path: Path, top: int) -> None:
    values = np.linspace(0, top, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    with pytest.warns(GuideWarning, match=rf"a\.png uses only the lower part.*value is {top}"):
        read_image(tmp_path / "a.png")


def test_transparency_is_not_dropped_in_silence() -> None:
    mask = np.where(np.arange(600).reshape(SIZE) % 7 < 3, 0, 255).astype(np.uint8)
    solid = Image.fromarray(mask).convert("RGBA")
    np.testing.assert_array_equal(one_channel(solid), mask)
    np.testing.assert_array_equal(one_channel(Image.fromarray(mask).convert("LA")), mask)
    solid.putalpha(Image.fromarray(mask))
    with pytest.raises(ValueError, match=r"transparent pixels.*getchannel"):
        one_channel(solid)
    with pytest.raises(ValueError, match="got colors"):
        one_channel(Image.fromarray(np.dstack([mask, mask // 2, mask])))


def test_the_size_of_a_turned_photograph(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 8
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == SIZE
    assert image_size(tmp_path / "a.jpg", apply_exif=True) == SIZE[::-1]


# Names and geometry


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("LIDC-0001_1.3.6.7", "LIDC-0001_1.3.6.7"),
        ("a/b/2007.000032.jpg", "2007.000032"),
        ("x.PNG", "x"),
        ("v1.2.NPZ", "v1.2"),
        ("no.suffix", "no.suffix"),
    ],
)
def test_stems(name: str, stem: str) -> None:
    assert stem_of(name) == stem


@pytest.mark.parametrize(
    ("cells", "longest", "side"),
    [
        (33, 500, 513),
        (65, 500, 513),
        (41, 321, 321),
        (28, 224, 224),
        (64, 500, 512),
        (60, 470, 473),
    ],
)
def test_likely_canvases(cells: int, longest: int, side: int) -> None:
    assert canvas_side((cells, cells), longest) == side


def test_the_canvas_of_deeplab_is_named() -> None:
    text = str(Stretch((33, 33), (375, 500)))
    assert "probably 513x513, DeepLab's: give --canvas 513 (and --align-corners" in text
    assert "--canvas WIDTHxHEIGHT" in str(Stretch((30, 50), (375, 500)))


def test_cells_that_do_not_divide_the_image_are_noted(tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", RANDOM.normal(size=(3, 15, 20)))
    got = read_scores(tmp_path / "z.npy", (117, 155))
    assert got.notes[-1].what == Remainder((15, 20), (117, 155), (120, 160))
    assert "--canvas 160x120" in str(got.notes[-1])
    for size in ((120, 160), (113, 153)):  # whole cells, and corner centers on corner pixels
        assert not read_scores(tmp_path / "z.npy", size).notes[1:]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("a.pt", "tensor.detach()"), ("a.pkl", "can run code"), ("a.csv", "loadtxt")],
)
def test_files_of_scores_that_are_not_read(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(ValueError, match="scores are not read from") as error:
        read_scores(tmp_path / name, (4, 6))
    assert name in str(error.value)
    assert remedy in str(error.value)


@pytest.mark.parametrize("pixels_last", [True, False])
def test_pixels_in_one_row(tmp_path: Path, pixels_last: bool) -> None:
    row = np.random.default_rng(0).normal(size=(3, 40 * 60)).astype(np.float32)
    np.save(tmp_path / "a.npy", row if pixels_last else row.T)
    remedy = r"reshape\(-1, 40, 60\)" if pixels_last else r"reshape\(40, 60, -1\)"
    with pytest.raises(ValueError, match=f"in one row.*{remedy}"):
        read_scores(tmp_path / "a.npy", (40, 60))


def test_several_arrays_without_a_known_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.zeros((3, 4, 6)), two=np.zeros((3, 4, 6)))
    with pytest.raises(ValueError, match=r"got one, two. Rename one, or choose it by FILE:NAME"):
        read_scores(tmp_path / "a.npz", (4, 6))


def test_arrays_of_objects(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([1.5, None], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"got an array of objects\. Save a single array"):
        read_scores(tmp_path / "a.npy", (4, 6))
