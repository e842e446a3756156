"""Pictures of large images: what they show, and that they cost no memory to speak of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crfrnn.containers import overview
from crfrnn.containers.overview import Overview
from crfrnn.containers.plain import Photograph
from crfrnn.containers.refine_tiles import TileOptions, refine_tiles
from crfrnn.containers.scaling import Scaling
from crfrnn.containers.tiling import plan_side
from crfrnn.io.options import ReadOptions
from crfrnn.plots.figures import overlay


@pytest.mark.parametrize("size", [(23, 61), (1, 50), (50, 1), (40, 40), (41, 83)])
@pytest.mark.parametrize("most", [1, 7, 20, 200])
def test_labels_are_those_in_the_middle_of_each_square(
    size: tuple[int, int], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "MOST_SIDE", most)
    labels = np.random.default_rng(0).integers(0, 250, size)
    view = Overview(size)
    assert max(view.labels.shape) <= most
    for tile in plan_side(size, 9, 0).tiles():
        view.add(tile.core, labels[None][(slice(None), *tile.core)])
    rows, columns = (range(min(view.step // 2, length - 1), length, view.step) for length in size)
    np.testing.assert_array_equal(view.labels, labels[np.ix_(rows, columns)])


def test_the_picture_is_the_mean_of_each_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "MOST_SIDE", 20)
    monkeypatch.setattr(overview, "_STRIP_BYTES", 1)  # a row of squares at a time
    photo = np.random.default_rng(0).integers(0, 255, (45, 78, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "a.png")
    view = Overview((45, 78))
    assert (view.step, view.labels.shape) == (4, (11, 19))
    view.write(tmp_path / "v.png", Photograph(tmp_path / "a.png", ReadOptions()), Scaling(()), None)
    means = photo[:44, :76].reshape(11, 4, 19, 4, 3).mean((1, 3))
    means[-1, :-1] = photo[40:, :72].reshape(5, 18, 4, 3).mean((0, 2))  # the last takes the rest
    want = np.asarray(overlay(means.astype(np.uint8), view.labels))
    with Image.open(tmp_path / "v.png") as picture:
        got = np.asarray(picture)
    np.testing.assert_array_equal(got[:, :-1], want[:, :-1])


def test_a_small_image_is_drawn_as_it_is(tmp_path: Path) -> None:
    photo = np.full((40, 60, 3), 60, np.uint8)
    photo[:, 30:] = 200
    logits = np.where(np.arange(60) < 30, -3.0, 3.0) * np.ones((40, 1))
    Image.fromarray(photo).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.stack([-logits, logits]).astype(np.float32))
    refine_tiles(
        tmp_path / "a.png", tmp_path / "a.npy", tmp_path / "o.png",
        overlay=tmp_path / "v.png", options=TileOptions(tile=25, overlap=9),
    )  # fmt: skip
    with Image.open(tmp_path / "o.png") as labels, Image.open(tmp_path / "v.png") as view:
        want = overlay(photo, np.asarray(labels))
        np.testing.assert_array_equal(np.asarray(view), np.asarray(want))
