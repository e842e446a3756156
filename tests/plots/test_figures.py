"""What is drawn, in sizes, colors and places."""

import numpy as np
import pytest
from PIL import Image

from crfrnn.io.palette import distinct_palette, voc_palette
from crfrnn.plots.figures import Box, Column, Row, before_after, overlay, rows_of_columns

PHOTO = np.full((20, 30, 3), 100, np.uint8)
LABELS = np.zeros((20, 30), np.int64)
LABELS[:, 15:] = 15


def test_regions_are_tinted_outlined_and_the_background_faded() -> None:
    got = np.asarray(overlay(PHOTO, LABELS)).astype(int)
    np.testing.assert_array_equal(got[10, 2], [196] * 3)  # 62 % of the way to white
    np.testing.assert_array_equal(got[10, 27], [125, 107, 107])  # 28 % to VOC's person
    edge = (got[10] == 0).all(axis=1).nonzero()[0]
    np.testing.assert_array_equal(edge, [15])
    assert (got[10, [14, 16]] == 255).all()


def test_a_palette_of_ones_own_colors_the_regions() -> None:
    palette = bytes(45) + bytes([0, 200, 0])
    got = np.asarray(overlay(PHOTO, LABELS, palette=palette)).astype(int)
    np.testing.assert_array_equal(got[10, 27], [72, 128, 72])


def test_without_labels_the_photograph_stays_as_it_is() -> None:
    np.testing.assert_array_equal(overlay(PHOTO, None), PHOTO)


@pytest.mark.parametrize("size", [(60, 40), (11, 7)])
def test_labels_follow_when_the_picture_is_resized(size: tuple[int, int]) -> None:
    got = np.asarray(overlay(PHOTO, LABELS, size=size)).astype(int)
    assert got.shape == (size[1], size[0], 3)
    edge = (got[0] == 0).all(axis=1).nonzero()[0]
    np.testing.assert_allclose(edge.mean(), size[0] / 2, atol=1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_a_single_pixel_or_row_is_drawn(shape: tuple[int, int]) -> None:
    picture = overlay(np.zeros((*shape, 3), np.uint8), np.ones(shape, np.int64))
    assert picture.size == shape[::-1]


def test_more_labels_than_colors_start_again() -> None:
    np.testing.assert_array_equal(overlay(PHOTO, LABELS + 256), overlay(PHOTO, LABELS))


def test_before_after_shows_every_column_whole_and_enlarged() -> None:
    columns = [Column("Photograph"), Column("Network", LABELS), Column("Refined", 15 - LABELS)]
    box = Box(10, 5, 12, 8)
    figure = before_after(PHOTO, columns, box=box, caption="c", names=["x"] * 21, panel=120)
    pixels = np.asarray(figure).astype(int)
    assert isinstance(figure, Image.Image)
    yellow = (pixels == (255, 214, 10)).all(axis=2)
    # The frames of the enlarged parts are as wide as the columns: three runs of 120 pixels.
    widest = yellow.sum(axis=1).max()
    assert widest == 360
    # The first column is the bare photograph, the second has the person's tint on its right.
    middle = pixels[24 + 32 + 70]
    assert (middle[24 + 4] == 100).all()
    tinted = (middle == (125, 107, 107)).all(axis=1).nonzero()[0]
    assert tinted.min() in range(218, 224)
    assert tinted.max() in range(347, 353)
    # The legend has a chip of the person's color.
    assert (pixels[-60:] == (192, 128, 128)).all(axis=2).sum() >= 100


def test_classes_are_named_on_the_panels() -> None:
    row = Row(np.full((120, 200, 3), 100, np.uint8), [Column("p"), Column("t", HALVES)], "c")
    bare = np.asarray(rows_of_columns([row], panel=200)).astype(int)
    named = np.asarray(rows_of_columns([row], names=["sky"] * 3 + ["a tree"], panel=200))
    differs = (named != bare).any(axis=2)
    assert not differs[:, : 24 + 200].any()  # the photograph has no names
    columns = differs.any(axis=0).nonzero()[0] - (24 + 200 + 14)
    assert ((columns < 100).any(), (columns > 100).any()) == (True, True)
    assert not differs[:, 24 + 200 + 14 + 95 : 24 + 200 + 14 + 105].any()


HALVES = np.zeros((120, 200), np.int64)
HALVES[:, 100:] = 3


def test_tints_of_a_distinct_palette_can_be_told_apart() -> None:
    def nearest(palette: bytes) -> float:
        colors = np.frombuffer(palette, np.uint8).reshape(-1, 3)[1:21].astype(float)
        gaps = np.linalg.norm(colors[:, None] - colors[None], axis=2)
        return float(gaps[~np.eye(len(colors), dtype=bool)].min())

    assert nearest(distinct_palette(21)) > 1.3 * nearest(voc_palette())
    assert distinct_palette(8) == distinct_palette(21)[:24]
    assert len(set(zip(*[iter(distinct_palette(100))] * 3, strict=True))) == 100
    assert len(distinct_palette(300)) <= 3 * 256
