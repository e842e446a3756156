"""What a refinement changed, and the guard: exact numbers on small hand-made cases."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crfrnn import Gaussian, Refined, refine
from crfrnn.crf.marginals import Marginals
from crfrnn.offline.guard import Guarded, protect
from crfrnn.offline.verdict import Changed, compare
from tests.cases import needs_torch, torch

#: Strong enough that a lone pixel takes the label of its neighbors.
STRONG = [Gaussian(position=2, weight=20)]

# A confident speck of class 1 in class 0, and an unsure pixel.
FIVE = np.array([[0.9, 0.05, 0.9, 0.6, 0.9], [0.1, 0.95, 0.1, 0.4, 0.1]])
FIVE_CHANGED = Changed(5, 1, 4, 1, (1,), (), ((1, 0),))


def logits_of(labels: list[int], sure: list[bool], classes: int = 4) -> np.ndarray:
    """Logits whose likeliest class is `labels`: of probability 0.97 if sure, else 0.45."""
    one_hot = np.arange(classes)[:, None] == labels
    high = np.where(sure, 0.97, 0.45)
    return np.log(np.where(one_hot, high, (1 - high) / (classes - 1)))


def test_numbers_by_hand() -> None:
    logits = logits_of([0, 0, 1, 1, 1, 2], [True, False, True, True, False, False])
    found = compare(logits, np.array([0, 3, 2, 2, 1, 2]))
    # Two of three pixels of class 1 became 2, half of class 0 became 3: only one is a swap.
    assert found == Changed(6, 3, 3, 2, (), (3,), ((1, 2),))
    assert (found.share_relabeled, found.share_flipped) == (1 / 2, 2 / 3)


def test_a_swapped_class_is_named() -> None:
    logits = logits_of([0, 0, 1, 1], [True] * 4)
    found = compare(logits, np.array([0, 0, 3, 3]))
    assert (found.vanished, found.appeared, found.swapped) == ((1,), (3,), ((1, 3),))


def test_pixels_that_do_not_count() -> None:
    logits = logits_of([0, 0, 1, 1], [True] * 4)
    counted = np.array([True, True, False, False])
    assert compare(logits, np.array([0, 0, 2, 2]), counted) == Changed(2, 0, 2, 0, (), (), ())
    none = compare(logits, np.array([1, 1, 2, 2]), np.zeros(4, bool))
    assert none == Changed(0, 0, 0, 0, (), (), ())
    assert (none.share_relabeled, none.share_flipped) == (0, 0)


def test_exactly_nine_tenths_is_confident() -> None:
    for dtype in (np.float32, np.float64):
        probs = np.array([[0.9, 0.899], [0.1, 0.101]], dtype)
        assert refine(None, probs=probs, kernels=[]).changed.confident == 1


@pytest.mark.parametrize(
    "scores",
    [
        {"probs": FIVE},
        {"probs": FIVE[1:]},
        {"probs": FIVE.astype(np.float16)},
        {"logits": np.log(FIVE)},
        {"logits": np.log(FIVE[1:] / FIVE[:1])},
        {"energy": -np.log(FIVE)},
    ],
    ids=["probs", "one channel", "half", "logits", "one logit", "energy"],
)
def test_every_kind_of_scores(scores: dict[str, Any]) -> None:
    assert refine(None, kernels=STRONG, **scores).changed == FIVE_CHANGED


def test_labels_and_unknown_pixels() -> None:
    labels = np.array([0, 1, 0, 255, 0])
    found = refine(None, labels=labels, kernels=STRONG).changed
    assert found == Changed(4, 1, 0, 0, (1,), (), ((1, 0),))
    assert refine(None, labels=labels, kernels=STRONG, confidence=0.9).changed.flipped == 1


def test_a_mask_restricts_the_count() -> None:
    mask = np.array([False, True, True, True, True])
    assert refine(None, probs=FIVE, kernels=STRONG, mask=mask).changed.pixels == 4


def test_nothing_changes_without_steps() -> None:
    found = refine(None, probs=FIVE, kernels=STRONG, iterations=0).changed
    assert found == Changed(5, 0, 4, 0, (), (), ())


def test_a_batch_has_one_verdict_per_image() -> None:
    batch = np.stack([FIVE, FIVE[::-1]])[:, :, None]
    images = np.zeros((2, 1, 5, 3), np.uint8)
    found = refine(images, probs=batch, kernels=STRONG, guard=True)
    assert [guarded.reverted for guarded in found.guarded] == [1, 1]
    found = refine(images, probs=batch, kernels=STRONG)
    assert found.changed == [FIVE_CHANGED, replace(FIVE_CHANGED, vanished=(0,), swapped=((0, 1),))]


@needs_torch
@pytest.mark.parametrize("engine", [None, "reference"])
def test_tensors_and_engines_agree(engine: str | None) -> None:
    for scores in (FIVE, torch.from_numpy(FIVE)):
        for guard in (False, True):
            refined = refine(None, probs=scores, kernels=STRONG, engine=engine, guard=guard)
            expected = refine(None, probs=FIVE, kernels=STRONG, guard=guard)
            assert refined.changed == expected.changed
            assert refined.guarded == expected.guarded
            assert type(refined.labels) is type(scores)
            np.testing.assert_array_equal(np.asarray(refined.labels), expected.labels)
            assert type(refined.changed.flipped) is int


def test_it_is_computed_once_and_when_asked() -> None:
    refined = refine(None, probs=FIVE, kernels=STRONG)
    assert "changed" not in vars(refined)
    assert refined.changed is refined.changed
    assert "_before" not in repr(refined)


def test_a_pickle_and_a_copy_hold_the_verdict_and_no_scores() -> None:
    refined = refine(None, probs=np.repeat(FIVE, 200, axis=1), kernels=STRONG)
    expected = refine(None, probs=np.repeat(FIVE, 200, axis=1), kernels=STRONG).changed
    data = pickle.dumps(refined)
    assert len(data) < 2 * (refined.probs.nbytes + refined.labels.nbytes)
    for again in (pickle.loads(data), copy.copy(refined), copy.deepcopy(refined)):
        assert again.changed == expected
        assert again._before is None
        np.testing.assert_array_equal(again.labels, refined.labels)


def test_other_labels_give_another_verdict() -> None:
    refined = refine(None, probs=FIVE, kernels=STRONG)
    assert replace(refined, labels=np.ones(5, np.int64)).changed.relabeled == 4


@pytest.mark.unchecked
def test_without_scores_there_is_no_verdict() -> None:
    refined = refine(None, probs=FIVE, kernels=STRONG)
    with pytest.raises(ValueError, match="changed needs the scores before the CRF; got a Refined"):
        _ = Refined(refined.probs, refined.labels, "cpu", 1).changed


# The guard


def test_no_guard_by_default() -> None:
    assert refine(None, probs=FIVE, kernels=STRONG).guarded is None


def test_an_image_keeps_its_input() -> None:
    # One relabeled pixel is more than 0.3 times the one unsure pixel.
    refined = refine(None, probs=FIVE, kernels=STRONG, guard=True)
    assert refined.guarded == Guarded(kept_input=True, reverted=1)
    np.testing.assert_array_equal(refined.labels, FIVE.argmax(axis=0))
    np.testing.assert_allclose(refined.probs, FIVE, atol=1e-6)
    assert refined.changed.relabeled == 0


def judged(moved: int, unsure: int, new: float, *, graded: bool = True) -> tuple[Marginals, Any]:
    """Guard 40 pixels of class 0, of which `moved` unsure ones became class 1."""
    old = np.full(40, 0.97)
    old[:unsure] = 0.98 - new  # the new label has probability `new`, a third one 0.02
    second = np.where(np.arange(40) < unsure, new, 0.02)
    unary = np.log(np.stack([old, second, 1 - old - second]))[None]
    labels = (np.arange(40) < moved).astype(np.int64)[None]
    result = Marginals(np.full((1, 3, 40), 1 / 3), labels, [1], [None])
    return result, protect(result, unary, None, graded=graded)[0]


def test_just_enough_unsure_pixels_let_the_crf_work() -> None:
    result, guarded = judged(3, 10, new=0.3)
    assert guarded == Guarded(kept_input=False, reverted=0)
    assert result.labels.sum() == 3
    np.testing.assert_array_equal(result.probs, 1 / 3)


def test_one_pixel_more_is_too_much() -> None:
    result, guarded = judged(4, 10, new=0.3)
    assert guarded == Guarded(kept_input=True, reverted=4)
    assert result.labels.sum() == 0
    np.testing.assert_allclose(result.probs[0, :, 0], [0.68, 0.3, 0.02])
    np.testing.assert_allclose(result.probs[0, :, -1], [0.97, 0.02, 0.01])


@pytest.mark.parametrize(("new", "reverted"), [(0.24, 3), (0.26, 0)])
def test_a_label_that_the_scores_do_not_support_is_reverted(new: float, reverted: int) -> None:
    result, guarded = judged(3, 10, new=new)
    assert guarded == Guarded(kept_input=False, reverted=reverted)
    assert result.labels.sum() == 3 - reverted
    if reverted:  # and nothing else is touched
        np.testing.assert_allclose(result.probs[0, :, 0], [0.98 - new, new, 0.02])
    np.testing.assert_array_equal(result.probs[0, :, 3:], 1 / 3)


def test_scores_without_grades_are_judged_by_the_image_alone() -> None:
    assert judged(12, 0, new=0.1, graded=False)[1] == Guarded(kept_input=False, reverted=0)
    assert judged(13, 0, new=0.1, graded=False)[1] == Guarded(kept_input=True, reverted=13)


def test_unknown_pixels_stay_filled() -> None:
    labels = np.array([1, 1, 0, 255, 0, 1, 1, 0, 1])
    free = refine(None, labels=labels, kernels=STRONG)
    kept = refine(None, labels=labels, kernels=STRONG, guard=True)
    assert kept.guarded.kept_input
    expected = np.where(labels == 255, free.labels, labels)
    np.testing.assert_array_equal(kept.labels, expected)
    np.testing.assert_array_equal(kept.probs[:, 3], free.probs[:, 3])


def test_pixels_outside_the_mask_do_not_count() -> None:
    mask = np.array([True, True, True, False, True])
    refined = refine(None, probs=FIVE, kernels=STRONG, mask=mask, guard=True)
    assert refined.guarded == Guarded(kept_input=True, reverted=1)


def test_the_guard_leaves_the_scores_alone() -> None:
    logits = np.log(FIVE)
    before = logits.copy()
    refine(None, logits=logits, kernels=STRONG, guard=True)
    np.testing.assert_array_equal(logits, before)
