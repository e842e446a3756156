"""Data sets on disk: what is read, what is refused, and augmentations that keep pairs together."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crfrnn.data import CAMVID_CLASSES, MaskedImages, open_camvid, open_dataset, open_folder
from crfrnn.data.synthetic import draw_shapes, shapes
from crfrnn.data.transforms import Augment, crop, recolor, rescale, resize
from crfrnn.data.voc import open_voc
from crfrnn.io.palette import VOC_CLASSES, voc_palette

SIZE = (5, 7)


def photograph(path: Path, value: int = 9, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path, quality=95)


def mask(path: Path, ids: np.ndarray, palette: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype(np.uint8))
    if palette:
        image.putpalette(palette)
    image.save(path)


def some_ids(*values: int) -> np.ndarray:
    ids = np.zeros(SIZE, np.int64)
    ids.reshape(-1)[: len(values)] = values
    return ids


def listing(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    for index, name in enumerate(("a", "b", "c")):
        photograph(tmp_path / "JPEGImages" / f"{name}.jpg", 10 * index)
        mask(tmp_path / "SegmentationClass" / f"{name}.png", some_ids(index, 255), voc_palette())
    listing(tmp_path / "ImageSets" / "Segmentation" / "train.txt", "c", "", "a")
    return tmp_path


def test_voc(voc: Path) -> None:
    data = open_voc(voc, "train")
    assert data.names == ["c", "a"]
    assert (len(data), data.num_classes, data.classes) == (2, 21, VOC_CLASSES)
    sample = data[0]
    assert sample.name == "c"
    assert sample.image.dtype == torch.uint8
    torch.testing.assert_close(sample.image, torch.full((3, *SIZE), 20, dtype=torch.uint8))
    torch.testing.assert_close(sample.label, torch.from_numpy(some_ids(2, 255)))
    one = data.select([1])
    assert (one.names, one[0].name, one.classes) == (["a"], "a", VOC_CLASSES)


def test_arrays_hold_what_tensors_hold(voc: Path) -> None:
    data = open_voc(voc, "train")
    for sample in (data.read(1), data.in_numpy()[1], data.in_numpy().select([1])[0]):
        assert isinstance(sample.image, np.ndarray)
        np.testing.assert_array_equal(sample.image, data[1].image.numpy())
        np.testing.assert_array_equal(sample.label, data[1].label.numpy())
    loaded = list(torch.utils.data.DataLoader(data, batch_size=None))
    assert [sample.name for sample in loaded] == data.names
    torch.testing.assert_close(loaded[1].image, data[1].image)


def test_lists_of_sbd(voc: Path, tmp_path: Path) -> None:
    mask(voc / "Aug" / "b.png", some_ids(4))
    listing(tmp_path / "aug.txt", "/JPEGImages/b.jpg /SegmentationClassAug/b.png")
    data = open_dataset("voc", root=voc, ids=tmp_path / "aug.txt", masks="Aug")
    assert data.names == ["b"]
    assert int(data[0].label[0, 0]) == 4


def test_camvid(tmp_path: Path) -> None:
    photograph(tmp_path / "val" / "x.jpg")
    photograph(tmp_path / "val" / "y.png")
    for name in "xy":
        mask(tmp_path / "valannot" / f"{name}.png", some_ids(10, 11))
    listing(tmp_path / "val.txt", "/SegNet/CamVid/val/x.png /SegNet/CamVid/valannot/x.png", "y")
    data = open_camvid(tmp_path, "val")
    assert (data.names, data.classes) == (["x", "y"], CAMVID_CLASSES)
    for sample in (data[0], data[1]):
        assert sample.label.unique().tolist() == [0, 10, 255]


@pytest.mark.parametrize("palette", [None, voc_palette()], ids=["grey", "palette"])
def test_folders_of_ids(tmp_path: Path, palette: bytes | None) -> None:
    photograph(tmp_path / "i" / "p.png")
    photograph(tmp_path / "i" / "q.png")
    mask(tmp_path / "m" / "p.png", some_ids(2, 255, 9), palette)
    mask(tmp_path / "m" / "q_mask.png", some_ids(1), palette)
    data = open_folder(tmp_path / "i", tmp_path / "m", num_classes=3, ignore=[9])
    assert (data.names, data.classes) == (["p", "q"], None)
    assert data[0].label[0, :4].tolist() == [2, 255, 255, 0]
    assert int(data[1].label[0, 0]) == 1
    listing(tmp_path / "part.txt", "q")
    part = open_folder(tmp_path / "i", tmp_path / "m", num_classes=3, ids=tmp_path / "part.txt")
    assert part.names == ["q"]


def test_pictures_that_take_no_part_are_named(tmp_path: Path) -> None:
    for name in ("p.png", "q.png", "q.jpg"):
        photograph(tmp_path / "i" / name)
    for name in ("p", "q", "r"):
        mask(tmp_path / "m" / f"{name}.png", some_ids(1), None)
    folders = (tmp_path / "i", tmp_path / "m")
    with (
        pytest.warns(UserWarning, match=r"i: 1 pictures are not used.*: q\.jpg"),
        pytest.warns(UserWarning, match=r"m: 1 pictures are not used.*: r\.png"),
    ):
        assert open_folder(*folders, num_classes=3).names == ["p", "q"]
    listing(tmp_path / "part.txt", "p")  # what a list leaves out is left out on purpose
    assert open_folder(*folders, num_classes=3, ids=tmp_path / "part.txt").names == ["p"]


def test_folders_of_colors(tmp_path: Path) -> None:
    photograph(tmp_path / "i" / "p.png")
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[0, 0] = (255, 1, 2)
    colors[0, 1] = (7, 7, 7)
    (tmp_path / "m").mkdir()
    Image.fromarray(colors).save(tmp_path / "m" / "p.png")
    listing(tmp_path / "map.txt", "# R G B", "255 1 2 light pole", "7 7 7 Void", "0 0 0 ground")
    data = open_folder(tmp_path / "i", tmp_path / "m", label_map=tmp_path / "map.txt")
    assert data.classes == ("light pole", "ground")
    assert data[0].label[0, :3].tolist() == [0, 255, 1]
    colors[2, 3] = (9, 9, 9)
    Image.fromarray(colors).save(tmp_path / "m" / "p.png")
    with pytest.raises(ValueError, match=r"p.png: 1 colors are not in the label map: 090909"):
        data[0]
    data = open_folder(tmp_path / "i", tmp_path / "m", num_classes=2)
    with pytest.raises(ValueError, match=r"p.png: expected class ids.*give a label map"):
        data[0]


def refuse(error: type[Exception], text: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.unchecked
def test_missing_files_are_named_and_counted(voc: Path) -> None:
    (voc / "JPEGImages" / "c.jpg").unlink()
    refuse(FileNotFoundError, r"1 of 2 images are missing: .*c\.jpg", lambda: open_voc(voc))
    photograph(voc / "JPEGImages" / "c.jpg")
    listing(voc / "l.txt", "a", *(f"z{i}" for i in range(5)))
    for name in range(5):
        photograph(voc / "JPEGImages" / f"z{name}.jpg")
    text = r"5 of 6 masks are missing: .*z0\.png, .*z1\.png, .*z2\.png and 2 more"
    refuse(FileNotFoundError, text, lambda: open_voc(voc, ids=voc / "l.txt"))
    refuse(FileNotFoundError, r"val\.txt: expected a text file", lambda: open_voc(voc, "val"))
    refuse(FileNotFoundError, "found no such folder", lambda: open_voc(voc / "nowhere"))


@pytest.mark.unchecked
def test_bad_masks_and_lists(voc: Path) -> None:
    data = open_voc(voc)
    mask(voc / "SegmentationClass" / "a.png", some_ids(21, 254))
    text = r"a\.png: ids must be 0\.\.20 or 255 \(ignore\); got 21, 254\. Is the number of classes"
    refuse(ValueError, text, lambda: data[1])
    photograph(voc / "JPEGImages" / "c.jpg", size=(5, 8))
    text = r"c\.png: the mask is 7x5 and the image c\.jpg 8x5 \(width x height\)"
    refuse(ValueError, text, lambda: data[0])
    (voc / "SegmentationClass" / "a.png").write_bytes(b"nothing")
    refuse(ValueError, r"a\.png: not a readable image", lambda: data[1])
    listing(voc / "empty.txt", "", " ")
    refuse(ValueError, "the list is empty", lambda: open_voc(voc, ids=voc / "empty.txt"))
    listing(voc / "twice.txt", "a", "b", "a")
    refuse(ValueError, "1 names are listed twice: a", lambda: open_voc(voc, ids=voc / "twice.txt"))
    refuse(ValueError, "at least one image", lambda: MaskedImages([], 2))


@pytest.mark.unchecked
def test_bad_arguments(tmp_path: Path) -> None:
    photograph(tmp_path / "i" / "p.png")
    (tmp_path / "m").mkdir()
    folder = (tmp_path / "i", tmp_path / "m")
    refuse(ValueError, "the number of classes is unknown", lambda: open_folder(*folder))
    refuse(FileNotFoundError, "1 of 1 masks", lambda: open_folder(*folder, num_classes=2))
    refuse(
        ValueError, "no image", lambda: open_folder(tmp_path / "m", tmp_path / "m", num_classes=2)
    )
    for text, line in (("expected R G B name", "1 2 x"), ("is listed twice", "1 2 3 b")):
        listing(tmp_path / "map.txt", "1 2 3 a", line)
        refuse(ValueError, text, lambda: open_folder(*folder, label_map=tmp_path / "map.txt"))
    refuse(ValueError, "unknown data set 'coco'", lambda: open_dataset("coco"))
    refuse(ValueError, "unknown argument of data set 'voc'", lambda: open_dataset("voc", rot=1))
    refuse(ValueError, "'folder' needs images and masks", lambda: open_dataset("folder"))


# Generated images


def test_shapes_depend_on_the_generator_alone() -> None:
    first, second, other = (
        shapes(2, 20, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first[0], other[0])
    images, labels = draw_shapes(40, 32, noise=0, random_state=0)
    assert images.dtype == np.float32
    assert np.unique(labels).tolist() == [0, 1, 2]
    assert 0.4 < (labels == 0).mean() < 0.9
    # Without noise an image has a color for the ground and one for each of four shapes at most.
    assert max(len(np.unique(image.reshape(3, -1), axis=1).T) for image in images) <= 5


# Augmentations


def coded(size: tuple[int, int] = (12, 16)) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture of blocks whose red channel is ten times the label."""
    label = torch.arange(12).reshape(3, 4).repeat_interleave(4, 0).repeat_interleave(4, 1)
    label = label[: size[0], : size[1]]
    return torch.stack([label * 10.0, torch.zeros(size), torch.ones(size)]), label


def agree(image: torch.Tensor, label: torch.Tensor) -> float:
    """The share of labelled pixels whose color says the same."""
    inside = label != 255
    return float((image[0][inside] == label[inside] * 10.0).double().mean())


@pytest.mark.parametrize("seed", range(8))
def test_image_and_labels_move_together(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image, label = Augment(crop=(9, 20), color=(1, 2, 3))(*coded(), generator)
    assert label.shape == (9, 20)
    assert agree(image, label) == 1
    outside = label == 255
    assert int(outside.sum()) == 9 * 4  # the crop is four columns wider than the picture
    torch.testing.assert_close(image[:, outside], torch.tensor([[1.0], [2], [3]]).expand(-1, 36))
    image, label = rescale(*coded(), 3.0)
    assert label.shape == (36, 48)
    middle = (slice(5, 36, 12), slice(5, 48, 12))  # blocks' middles, away from interpolated edges
    torch.testing.assert_close(image[0][middle], label[middle] * 10.0)


def test_chance_is_the_generators_alone() -> None:
    augment = Augment((0.5, 2.0), (10, 10), 0.5, 0.4, 0.4, 0.4)
    image, label = coded()
    first, second, third = (
        augment(image, label, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first[0].shape == third[0].shape
    assert not torch.equal(first[0], third[0])
    assert agree(image, label) == 1  # what came in is as it was


def test_flips_come_half_of_the_time() -> None:
    generator = torch.Generator().manual_seed(0)
    image, label = coded()
    flipped = sum(
        torch.equal(Augment()(image, label, generator)[1], label.flip(1)) for _ in range(200)
    )
    assert 70 < flipped < 130
    torch.testing.assert_close(Augment(flip=0.0)(image, label, generator), (image, label))


@pytest.mark.parametrize("size", [(6, 8), (5, 3), (24, 31), (1, 1)])
def test_resizing_keeps_pixel_centers_over_each_other(size: tuple[int, int]) -> None:
    ramp = torch.arange(12.0)[:, None].expand(12, 16)
    image, label = resize(ramp.expand(3, -1, -1), ramp.long(), size)
    assert image.shape[1:] == label.shape == size
    assert float((image[0] - label).abs().max()) <= 0.5 * max(1, 12 / size[0])


def test_shrinking_averages_what_it_drops() -> None:
    stripes = torch.tensor([0.0, 100]).repeat(8)[:15].expand(3, 15, 15)
    image, _ = resize(stripes, torch.zeros(15, 15, dtype=torch.int64), (3, 3))
    assert float((image - 50).abs().max()) < 8  # no stripe is picked out


def test_windows_partly_and_wholly_outside() -> None:
    image, label = coded()
    picture, ids = crop(image, label, (-2, 13), (4, 5))
    assert (ids[:2] == 255).all()
    torch.testing.assert_close(ids[2:, :3], label[:2, 13:])
    torch.testing.assert_close(picture[:, 2:, :3], image[:, :2, 13:])
    assert (crop(image, label, (40, 0), (2, 2))[1] == 255).all()


def test_colors() -> None:
    image = torch.tensor([[[100.0, 50]], [[100, 50]], [[100, 80]]])
    torch.testing.assert_close(recolor(image, 1, 1, 1), image)
    torch.testing.assert_close(recolor(image, 3, 1, 1), (image * 3).clamp(max=255))
    grey = recolor(image, 1, 1, 0)
    torch.testing.assert_close(grey[0], torch.tensor([[100, 50 + 30 * 0.114]]))
    flat = recolor(grey, 1, 0, 1)
    torch.testing.assert_close(flat, grey.mean().expand_as(flat))


@pytest.mark.unchecked
def test_bad_augmentations() -> None:
    refuse(ValueError, "scale must be", lambda: Augment((2.0, 1.0)))
    refuse(ValueError, "scale is two factors", lambda: Augment((0.0, 1.0)))
    refuse(ValueError, "crop must be at least 1", lambda: Augment(crop=(0, 3)))
    refuse(ValueError, r"flip must lie in 0\.\.1", lambda: Augment(flip=2.0))


# What 255 means, names, and turned photographs


def black_and_white(folder: Path, *names: str, suffix: str = ".png") -> None:
    ids = np.zeros(SIZE, np.uint8)
    ids[:, SIZE[1] // 2 :] = 255
    for name in names:
        photograph(folder / "images" / f"{name}.png")
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(ids).save(folder / "masks" / f"{name}{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".bmp"])
def test_where_only_0_and_255_occur_255_is_the_foreground(tmp_path: Path, suffix: str) -> None:
    black_and_white(tmp_path, "a", "b", suffix=suffix)
    data = open_folder(tmp_path / "images", tmp_path / "masks", num_classes=2)
    for view in (data, data.select([1])):
        label = view.read(0).label
        assert label[0, 0] == 0
        assert label[0, -1] == 1


def test_one_other_id_shows_that_255_is_void(tmp_path: Path) -> None:
    black_and_white(tmp_path, "a", "b")
    mask(tmp_path / "masks" / "c.png", some_ids(0, 1, 255))
    photograph(tmp_path / "images" / "c.png")
    data = open_folder(tmp_path / "images", tmp_path / "masks", num_classes=2)
    assert set(np.unique(data.read(0).label)) == {0, 255}
    # Of more classes, 255 is void in any case, and it is said.
    (tmp_path / "masks" / "c.png").unlink()
    (tmp_path / "images" / "c.png").unlink()
    data = open_folder(tmp_path / "images", tmp_path / "masks", num_classes=3)
    with pytest.warns(UserWarning, match="two classes, not 3"):
        assert set(np.unique(data.read(0).label)) == {0, 255}


def test_a_label_map_says_itself_what_is_void(tmp_path: Path) -> None:
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[:, 2:] = 9
    photograph(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(colors).save(tmp_path / "masks" / "a.png")
    listing(tmp_path / "map.txt", "0 0 0 ground", "1 1 1 thing", "9 9 9 void")
    data = open_folder(tmp_path / "images", tmp_path / "masks", label_map=tmp_path / "map.txt")
    assert set(np.unique(data.read(0).label)) == {0, 255}


def test_ids_of_jpeg_are_refused(tmp_path: Path) -> None:
    black_and_white(tmp_path, "a", suffix=".jpg")
    data = open_folder(tmp_path / "images", tmp_path / "masks", num_classes=3)
    refuse(ValueError, r"a\.jpg: class ids cannot be read from a JPEG.*PNG", lambda: data.read(0))


def test_names_with_dots_and_spaces(tmp_path: Path) -> None:
    names = ["LIDC_1.3.6.7", "LIDC_1.3.6.8", "my photo 1.2"]
    black_and_white(tmp_path, *names)
    listing(tmp_path / "ids.txt", names[0], f"images/{names[1]}.png 7", names[2])
    data = open_folder(
        tmp_path / "images", tmp_path / "masks", num_classes=2, ids=tmp_path / "ids.txt"
    )
    assert data.names == names
    assert data.read(2).label.max() == 1


def test_every_layout_turns_photographs_when_asked(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[0, 0] = 200
    ids = np.zeros(SIZE, np.uint8)
    for photos, masks in (
        ("JPEGImages", "SegmentationClass"),
        ("train", "trainannot"),
        ("images", "masks"),
    ):
        for name in (photos, masks):
            (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / photos / "a.png", exif=exif)
        Image.fromarray(ids).save(tmp_path / masks / "a.png")
    listing(tmp_path / "train.txt", "a.png")
    listing(tmp_path / "ImageSets" / "Segmentation" / "train.txt", "a")
    folders = {"images": tmp_path / "images", "masks": tmp_path / "masks", "num_classes": 2}
    for kind, arguments in (
        ("voc", {"root": tmp_path}),
        ("camvid", {"root": tmp_path}),
        ("folder", folders),
    ):
        turned = open_dataset(kind, **arguments, apply_exif=True)
        assert turned.read(0).image[0, -1, -1] == 200
        stored = open_dataset(kind, **arguments)
        with pytest.warns(UserWarning, match=r"EXIF orientation.*apply_exif=True"):
            assert stored.read(0).image[0, 0, 0] == 200
