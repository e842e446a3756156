"""Scribbles keep true labels, on about the share of pixels that was asked for."""

import numpy as np
import pytest

from crfrnn.data import scribble


def scene() -> np.ndarray:
    label = np.zeros((90, 120), np.int64)
    label[:, 60:] = 4
    label[30:50, 20:50] = 2
    label[0, 0] = 7  # a class of one pixel
    label[80:] = 255
    return label


@pytest.mark.parametrize("share", [0.01, 0.03, 0.3, 1.0])
def test_the_share_of_each_class(share: float) -> None:
    label = scene()
    drawn = scribble(label, share, seed=5)
    kept = drawn != 255
    assert (drawn[kept] == label[kept]).all()
    for value in (0, 2, 4, 7):
        region = label == value
        wanted = max(1, round(share * region.sum()))
        found = int((drawn == value).sum())
        assert found <= wanted
        assert found >= (0.9 if share < 1 else 0.5) * wanted
    assert not kept[80:].any()


def test_strokes_are_connected_and_few() -> None:
    label = np.zeros((200, 200), np.int64)
    drawn = scribble(label, 0.03) == 0
    padded = np.pad(drawn, 1)
    around = sum(np.roll(padded, step, axis)[1:-1, 1:-1] for axis in (0, 1) for step in (-1, 1))
    assert (around[drawn] > 0).mean() > 0.99  # hardly a pixel stands alone
    assert np.ptp(np.argwhere(drawn), 0).min() > 20


def test_the_seed_decides() -> None:
    label = scene()
    assert (scribble(label, seed=1) == scribble(label, seed=1)).all()
    assert (scribble(label, seed=1) != scribble(label, seed=2)).any()


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 3, 4), np.int64),), r"label must be \(H, W\) integer class ids"),
        ((np.zeros((3, 4)),), "got float64"),
        ((scene(), 0.0), "must be positive"),
        ((scene(), 1.5), "share must be in"),
    ],
)
def test_bad_input_is_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scribble(*arguments)
