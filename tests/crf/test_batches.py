"""Batches of small images, which are computed several at a time."""

from __future__ import annotations

import numpy as np
import pytest

from crfrnn import Bilateral, Gaussian, refine
from crfrnn.core.native import core_missing
from crfrnn.core.threads import SMALL_IMAGE, for_each_image, limited_threads, share_out

KERNELS = (Bilateral(position=12, color=20, weight=4), Gaussian(position=2, weight=3))


@pytest.mark.parametrize(
    ("images", "pixels", "expected"),
    [
        (16, 224 * 224, (4, 1)),
        (3, 224 * 224, (3, 1)),
        (2, 224 * 224, (2, 2)),
        (1, 224 * 224, (1, 4)),
        (0, 224 * 224, (1, 4)),
        (16, SMALL_IMAGE + 1, (1, 4)),
    ],
)
def test_threads_are_shared_out(images: int, pixels: int, expected: tuple[int, int]) -> None:
    with limited_threads(4):
        assert share_out(images, pixels) == expected


def test_results_come_in_the_order_of_the_images() -> None:
    with limited_threads(3):
        assert for_each_image(lambda item, threads: (item, threads), "abcde", 64) == [
            (letter, 1) for letter in "abcde"
        ]


def test_an_error_of_one_image_is_that_of_the_batch() -> None:
    def fail(item: int, threads: int) -> None:
        if item == 3:
            raise ValueError(f"image {item}")

    with limited_threads(2), pytest.raises(ValueError, match="image 3"):
        for_each_image(fail, range(5), 64)


@pytest.mark.skipif(bool(core_missing()), reason="needs the C++ core")
@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_small_images_have_the_bits_that_they_have_alone(count: int, prune: bool) -> None:
    random = np.random.default_rng(0)
    image = random.uniform(0, 255, (5, 3, 40, 50))
    logits = random.normal(0, 2, (5, 6, 40, 50)).astype(np.float32)
    logits[:, 3:] -= 20
    logits[1:, 2] -= 20  # which classes are left out differs between images
    options = {"kernels": KERNELS, "prune": prune, "channels_last": False}
    with limited_threads(count):
        found = refine(image, logits=logits, **options)
    with limited_threads(1):
        alone = [refine(image[i], logits=logits[i], **options) for i in range(5)]
    np.testing.assert_array_equal(found.probs, np.stack([one.probs for one in alone]))
    np.testing.assert_array_equal(found.labels, np.stack([one.labels for one in alone]))
    assert found.pruned == [one.pruned for one in alone]
    if prune:
        assert len({one.pruned.kept for one in alone}) == 2
