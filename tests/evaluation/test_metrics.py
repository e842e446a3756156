"""Metrics against their definitions written out, cases counted by hand, and bootstrap laws."""

import math

import numpy as np
import pytest
import torch

from crfrnn.evaluation.boundaries import (
    contour,
    fill,
    inner_band,
    other_label_distance,
    pixels_of,
    squared_distance,
)
from crfrnn.evaluation.metrics import (
    Counts,
    Judge,
    Settings,
    boundary_f,
    boundary_iou,
    confusion_matrix,
    interval,
    iou,
    mean_iou,
    pixel_accuracy,
    resample,
    stack,
    summarize,
    total,
)

SIZES = [(1, 1), (1, 7), (7, 1), (5, 7), (13, 11)]


def pixels(size: tuple[int, int]) -> list[tuple[int, int]]:
    return [(y, x) for y in range(size[0]) for x in range(size[1])]


def blocky(size: tuple[int, int], classes: int = 3, *, void: float = 0.0) -> torch.Tensor:
    """Random blocks of two or three pixels."""
    coarse = torch.randint(classes, (size[0] // 2 + 1, size[1] // 3 + 1))
    label = coarse.repeat_interleave(2, 0).repeat_interleave(3, 1)[: size[0], : size[1]]
    return torch.where(torch.rand(size) < void, 255, label)


# Geometry


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("limit", [1, 3, 20])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.6, 1.0])
def test_squared_distance(size: tuple[int, int], limit: int, density: float) -> None:
    chosen = torch.rand(size) < density
    expected = torch.full(size, (limit + 1) ** 2)
    for y, x in pixels(size):
        found = [(y - v) ** 2 + (x - u) ** 2 for v, u in pixels(size) if chosen[v, u]]
        if found and min(found) <= limit**2:
            expected[y, x] = min(found)
    torch.testing.assert_close(squared_distance(chosen, limit), expected)


@pytest.mark.parametrize("size", SIZES)
def test_distance_to_another_label(size: tuple[int, int]) -> None:
    label = blocky(size, void=0.1)
    expected = torch.full(size, 16)
    for y, x in pixels(size):
        found = [(y - v) ** 2 + (x - u) ** 2 for v, u in pixels(size) if label[v, u] != label[y, x]]
        if found and min(found) <= 9:
            expected[y, x] = min(found)
    torch.testing.assert_close(other_label_distance(label, 3), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", [1, 2, 3, 9])
def test_inner_band_is_what_erosion_takes_away(size: tuple[int, int], width: int) -> None:
    mask = torch.rand(size) < 0.9
    padded = torch.nn.functional.pad(mask.float()[None, None], (1, 1, 1, 1))
    for _ in range(width):  # 3 x 3 erosion with zeros around the image, one pixel at a time
        padded = -torch.nn.functional.max_pool2d(-padded, 3, stride=1, padding=1)
        padded = torch.nn.functional.pad(padded[..., 1:-1, 1:-1], (1, 1, 1, 1))
    torch.testing.assert_close(inner_band(mask, width), mask & (padded[0, 0, 1:-1, 1:-1] == 0))


@pytest.mark.parametrize("size", SIZES)
def test_contours(size: tuple[int, int]) -> None:
    mask = torch.rand(size) < 0.6
    expected = torch.zeros(size, dtype=torch.bool)
    for y, x in pixels(size):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        inside = [mask[v, u] for v, u in around if 0 <= v < size[0] and 0 <= u < size[1]]
        expected[y, x] = mask[y, x] and not all(inside)
    torch.testing.assert_close(contour(mask), expected)


def test_void_closes_from_its_edges() -> None:
    label = torch.tensor([[1, 255, 255, 255, 255, 255, 2]])
    assert fill(label, 255, 1).tolist() == [[1, 1, 255, 255, 255, 2, 2]]
    assert fill(label, 255, 9).tolist()[0][:3] == [1, 1, 1]
    assert fill(label, 255, 9).tolist()[0][4:] == [2, 2, 2]
    assert label.tolist() == [[1, 255, 255, 255, 255, 255, 2]]
    assert fill(torch.full((2, 2), 255), 255, 9).tolist() == [[255] * 2] * 2


def test_shares_of_the_diagonal() -> None:
    assert pixels_of((300, 400), 0.02) == 10
    assert pixels_of((3, 4), 0.02) == 1


# Counts and scores


def test_a_case_counted_by_hand() -> None:
    label = torch.tensor([[0, 0, 0, 1, 1, 255]])
    prediction = torch.tensor([[0, 0, 1, 1, 2, 2]])
    confusion = confusion_matrix(prediction, label, 4)
    assert confusion.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(
        iou(confusion), torch.tensor([2 / 3, 1 / 3, 0, math.nan]).double(), equal_nan=True
    )
    assert float(mean_iou(confusion)) == pytest.approx(1 / 3)  # class 3 is in neither, 2 is in one
    assert float(pixel_accuracy(confusion)) == pytest.approx(3 / 5)


@pytest.mark.parametrize("size", SIZES)
def test_counts_against_their_definitions(size: tuple[int, int]) -> None:
    label, prediction = blocky(size, void=0.15), blocky(size)
    settings = Settings(widths=(1, 2), band=0.15, tolerance=0.1)
    counts = Judge(label, 3, settings).count(prediction)
    valid = label != 255
    edge = other_label_distance(label, 2)
    for width, trimap in zip((1, 2), counts.trimap, strict=True):
        inside = torch.where(edge <= width**2, label, 255)
        torch.testing.assert_close(trimap, confusion_matrix(prediction, inside, 3))
    torch.testing.assert_close(counts.confusion, confusion_matrix(prediction, label, 3))
    reach, tolerance = pixels_of(size, 0.15), pixels_of(size, 0.1)
    closed = fill(label, 255, max(reach, tolerance) + 1)
    near = squared_distance(valid, tolerance) <= tolerance**2
    for c in range(3):
        true, mine = closed == c, prediction == c
        a, b = inner_band(true, reach) & valid, inner_band(mine, reach) & valid
        assert counts.band[:, c].tolist() == [int((a & b).sum()), int((a | b).sum())]
        p, t = contour(mine), contour(true)
        to_true, to_mine = (squared_distance(x, tolerance) <= tolerance**2 for x in (t, p))
        expected = [(p & near & to_true), (p & near), (t & near & to_mine), (t & near)]
        assert counts.contour[:, c].tolist() == [int(x.sum()) for x in expected]


@pytest.mark.parametrize("void", [0.0, 0.1])
def test_the_truth_scores_one(void: float) -> None:
    label = blocky((13, 17), void=void)
    closed = fill(label, 255, 30)
    scores = summarize(Judge(label, 3).count(closed), Settings())
    torch.testing.assert_close(torch.stack(list(scores.values())), torch.ones(8).double())


def test_a_shifted_square_by_hand() -> None:
    """A square of 6 moved by one pixel; bands and tolerance are one pixel wide."""
    label = torch.zeros((12, 14), dtype=torch.int64)
    label[3:9, 3:9] = 1
    prediction = label.roll(1, dims=1)
    counts = Judge(label, 2, Settings(widths=(1,))).count(prediction)
    # Class 1: rings of 20 pixels. Rows 3 and 8 share 5 each; columns 4..7 inside share nothing.
    assert counts.band[:, 1].tolist() == [10, 30]
    assert counts.contour[:, 1].tolist() == [20, 20, 20, 20]  # all within one pixel
    assert counts.confusion.tolist() == [[126, 6], [6, 30]]
    # The band of one pixel: the square's ring and the 24 pixels that touch it by a side.
    assert int(counts.trimap.sum()) == 20 + 24
    assert counts.trimap[0].tolist() == [[18, 6], [6, 14]]
    far = Judge(label, 2, Settings(widths=(1,))).count(label.roll(3, dims=1))
    assert far.contour[:, 1].tolist() == [10, 20, 10, 20]
    assert float(boundary_f(far)) < float(boundary_f(counts)) == 1


def test_classes_on_one_side_count_and_on_neither_do_not() -> None:
    label = torch.zeros((6, 8), dtype=torch.int64)
    prediction = label.clone()
    prediction[:, 4:] = 1
    counts = Judge(label, 3).count(prediction)
    assert float(mean_iou(counts.confusion)) == pytest.approx((0.5 + 0) / 2)
    assert counts.band[1].tolist()[1:] == [6 * 4 - 4 * 2, 0]
    assert float(boundary_iou(counts)) < 1
    assert float(boundary_f(counts)) == 0  # the truth has no contour at all
    alone = Judge(label, 3).count(label)
    assert math.isnan(float(boundary_f(alone)))  # nothing to score
    assert float(mean_iou(alone.confusion)) == 1


def test_contours_deep_in_void_do_not_count() -> None:
    label = torch.zeros((9, 20), dtype=torch.int64)
    label[:, 4:16] = 255
    prediction = torch.zeros((9, 20), dtype=torch.int64)
    prediction[:, 10:12] = 1  # in the middle of what nobody labelled
    counts = Judge(label, 2, Settings(widths=(1,), tolerance=0.1)).count(prediction)
    assert counts.contour.sum() == 0
    prediction[:, 5:7] = 1  # its contour is within two pixels of labelled ones
    counts = Judge(label, 2, Settings(widths=(1,), tolerance=0.1)).count(prediction)
    assert counts.contour[:, 1].tolist() == [0, 9, 0, 0]


def test_the_band_of_boundary_iou_is_that_of_cheng() -> None:
    """By its definition: |(G_d & G) & (P_d & P)| / |(G_d & G) | (P_d & P)| over a whole image."""
    label, prediction = (torch.zeros((40, 50), dtype=torch.int64) for _ in range(2))
    label[10:30, 10:40] = 1
    prediction[12:30, 8:40] = 1
    counts = Judge(label, 2, Settings(band=0.05)).count(prediction)
    width = pixels_of((40, 50), 0.05)
    assert width == 3
    true = torch.zeros((40, 50), dtype=torch.bool)
    true[10:30, 10:40] = True
    true[13:27, 13:37] = False
    mine = torch.zeros((40, 50), dtype=torch.bool)
    mine[12:30, 8:40] = True
    mine[15:27, 11:37] = False
    assert counts.band[:, 1].tolist() == [int((true & mine).sum()), int((true | mine).sum())]


# Many images


def judged(number: int, noise: float) -> Counts:
    """Counts of random predictions; the same true labels for every `noise`."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for _ in range(number):
        label = torch.randint(3, (6, 7), generator=generator)
        wrong = torch.rand((6, 7), generator=generator) < noise
        found.append(Judge(label, 3).count(torch.where(wrong, (label + 1) % 3, label)))
    return stack(found)


def test_counts_add_up_over_images() -> None:
    counts = judged(9, 0.3)
    whole = total(counts)
    assert int(whole.confusion.sum()) == 9 * 42
    torch.testing.assert_close(whole.trimap, counts.trimap.sum(dim=0))
    pooled = whole.confusion.double()
    expected = [
        float(pooled[c, c] / (pooled[c].sum() + pooled[:, c].sum() - pooled[c, c]))
        for c in range(3)
    ]
    assert float(mean_iou(whole.confusion)) == pytest.approx(sum(expected) / 3)


def test_bootstrap_draws_images() -> None:
    counts, settings = judged(7, 0.3), Settings()
    got = resample({"a": counts}, settings, resamples=50, seed=3)["a"]
    draws = torch.randint(7, (50, 7), generator=torch.Generator().manual_seed(3))
    for row, draw in enumerate(draws):
        chosen = Counts(
            *(getattr(counts, f)[draw] for f in ("confusion", "trimap", "band", "contour"))
        )
        for name, value in summarize(total(chosen), settings).items():
            torch.testing.assert_close(got[name][row], value)


def test_intervals_cover_and_differences_are_paired() -> None:
    rows = {"before": judged(40, 0.4), "same": judged(40, 0.4), "after": judged(40, 0.2)}
    drawn = resample(rows, Settings(), resamples=400)
    low, high = interval(drawn["before"]["mean_iou"])
    assert low < float(mean_iou(total(rows["before"]).confusion)) < high
    nothing = drawn["same"]["mean_iou"] - drawn["before"]["mean_iou"]
    assert interval(nothing) == (0, 0)
    gain = interval(drawn["after"]["mean_iou"] - drawn["before"]["mean_iou"])
    assert gain[0] > 0
    # Paired: narrower than what independent draws would give.
    apart = resample({"after": rows["after"]}, Settings(), resamples=400, seed=1)["after"]
    loose = interval(apart["mean_iou"] - drawn["before"]["mean_iou"])
    assert gain[1] - gain[0] < loose[1] - loose[0]


def test_more_images_give_narrower_intervals() -> None:
    widths = []
    for number in (10, 160):
        drawn = resample({"a": judged(number, 0.3)}, Settings(), resamples=300)
        low, high = interval(drawn["a"]["pixel_accuracy"])
        widths.append(high - low)
    assert 2.5 < widths[0] / widths[1] < 6.5  # about the square root of 16


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_arrays_give_arrays_with_the_numbers_of_tensors(dtype: type) -> None:
    label, prediction = blocky((13, 17), void=0.1), blocky((13, 17))
    tensors = stack([Judge(label, 3).count(prediction)] * 2)
    judge = Judge(label.numpy().astype(dtype), 3)
    arrays = stack([judge.count(prediction.numpy().astype(dtype))] * 2)
    for name in ("confusion", "trimap", "band", "contour"):
        assert isinstance(getattr(arrays, name), np.ndarray)
        torch.testing.assert_close(getattr(tensors, name).numpy(), getattr(arrays, name))
    drawn = resample({"a": tensors}, Settings(), resamples=9)["a"]
    for name, values in resample({"a": arrays}, Settings(), resamples=9)["a"].items():
        assert isinstance(values, np.ndarray)
        assert isinstance(drawn[name], torch.Tensor)
        np.testing.assert_array_equal(drawn[name].numpy(), values)
        assert interval(drawn[name]) == interval(values)


@pytest.mark.gpu
def test_answers_lie_where_the_tensors_do() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    label = torch.zeros(4, 5, dtype=torch.int64, device="cuda")
    counts = Judge(label, 2).count(label)
    assert counts.trimap.device == mean_iou(counts.confusion).device == label.device


def test_nothing_to_score_has_no_interval() -> None:
    assert all(math.isnan(end) for end in interval(np.full(5, np.nan)))
    assert interval(np.array([0.5, np.nan, 0.5])) == (0.5, 0.5)


@pytest.mark.unchecked
def test_bad_input() -> None:
    judge = Judge(torch.zeros((2, 3), dtype=torch.int64), 2)
    with pytest.raises(
        ValueError, match=r"must have the same size \(height, width\); got \(3, 2\) and \(2, 3\)"
    ):
        judge.count(torch.zeros((3, 2), dtype=torch.int64))
    with pytest.raises(ValueError, match=r"predicted ids must be 0\.\.1; got 0\.\.2"):
        judge.count(torch.tensor([[0, 1, 2], [0, 0, 0]]))
    with pytest.raises(ValueError, match=r"predicted ids must be 0\.\.1 where .* 255; got 0\.\.2"):
        confusion_matrix(np.array([0, 2, 7]), np.array([0, 0, 255]), 2)
    with pytest.raises(ValueError, match=r"true ids must be 0\.\.1 where .* 255; got -1\.\.1"):
        confusion_matrix(np.array([0, 0]), np.array([-1, 1]), 2)
    with pytest.raises(ValueError, match="width must be at least 1"):
        Settings(widths=(0,))
    rows = {"a": judged(2, 0.1), "b": judged(3, 0.1)}
    with pytest.raises(ValueError, match=r"the same images; got \[2, 3\]"):
        resample(rows, Settings())
