"""Resampling in NumPy against torch's interpolation, and against cases counted by hand."""

import numpy as np
import pytest

from crfrnn.io.options import ReadOptions
from crfrnn.io.score_grid import resample
from tests.cases import needs_torch, torch

SIZES = [(1, 1), (1, 7), (5, 3), (33, 33), (64, 40), (200, 9)]


@needs_torch
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize("target", SIZES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_torch(size: tuple[int, int], target: tuple[int, int], align_corners: bool) -> None:
    values = np.random.default_rng(0).normal(size=(3, *size))
    shrinks = size[0] > target[0] or size[1] > target[1]
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None],
        size=target,
        mode="bilinear",
        align_corners=align_corners,
        antialias=shrinks and not align_corners,
    )[0].numpy()
    options = ReadOptions(align_corners=align_corners)
    np.testing.assert_allclose(resample(values, target, options), expected, rtol=0, atol=1e-12)
    # In single precision torch rounds the places between the cells too, here up to 200.
    single = resample(values.astype(np.float32), target, options)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-5)


def test_the_part_of_a_canvas_that_shows_the_image() -> None:
    values = np.random.default_rng(0).normal(size=(2, 5, 5)).astype(np.float32)
    for align_corners in (False, True):
        options = ReadOptions(canvas=(17, 19), align_corners=align_corners)
        whole = resample(values, (17, 19), options)
        part = resample(values, (7, 11), options)
        np.testing.assert_array_equal(part, whole[:, :7, :11])
        assert part.flags.c_contiguous


def test_shrinking_averages_and_corners_do_not() -> None:
    stripes = np.tile(np.float32([0, 100]), 8)[None, None]
    assert abs(resample(stripes, (1, 4)) - 50).max() < 8
    corners = resample(stripes, (1, 4), ReadOptions(align_corners=True))
    np.testing.assert_allclose(corners[0, 0], [0, 100, 0, 100], atol=1e-3)
