"""The range of the guide: every door warns of the same images, with the same words."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import crfrnn
from crfrnn import Bilateral, Gaussian
from crfrnn._guide import GuideWarning, judge_range
from crfrnn.pydensecrf.densecrf import DenseCRF2D
from tests.cases import needs_torch, torch

BYTES = np.random.default_rng(3).integers(0, 256, (9, 11, 3)).astype(np.uint8)
UNIT = (BYTES / 255).astype(np.float32)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Images that no color bandwidth of a preset suits, with a part of the sentence.
STRANGE: dict[str, tuple[np.ndarray, str]] = {
    "0..1": (UNIT, "multiply an image on 0..1 by 255"),
    "0..1, double": (UNIT.astype(np.float64), "multiply an image on 0..1 by 255"),
    "normalized": (((UNIT - MEAN) / STD).astype(np.float32), "normalized by a mean"),
    "-1..1": (UNIT * 2 - 1, "normalized by a mean"),
    "-0.5..0.5": (UNIT - 0.5, "normalized by a mean"),
    "10 bits": (BYTES.astype(np.uint16) * 4, "beyond 0..255"),
    "12 bits": (BYTES.astype(np.uint16) * 16, "12 bits: divide by 16"),
    "16 bits": (BYTES.astype(np.uint16) * 257, "beyond 0..255"),
    "16 bits, as floats": (BYTES.astype(np.float32) * 257, "beyond 0..255"),
    "scaled twice": (BYTES.astype(np.float32) * 255, "beyond 0..255"),
    "Hounsfield units": (BYTES.astype(np.int16) * 16 - 1000, "Hounsfield"),
}

#: Images that suit them.
USUAL: dict[str, np.ndarray] = {
    "bytes": BYTES,
    "floats": BYTES.astype(np.float32),
    "wide type": BYTES.astype(np.int64),
    "overshoot of resizing": BYTES.astype(np.float32) * 1.08 - 10,
    "flat": np.full_like(BYTES, 90),
    "almost flat floats": 90 + UNIT,
    "black floats": UNIT * 0,
}


def by_refine(image: np.ndarray) -> Any:
    return crfrnn.refine(image, logits=np.zeros((2, 9, 11), np.float32))


def by_upsample(image: np.ndarray) -> Any:
    return crfrnn.upsample(np.zeros((1, 3, 4), np.float32), image, color=3, channels_last=None)


def by_pydensecrf(image: np.ndarray) -> Any:
    crf = DenseCRF2D(11, 9, 2)
    crf.addPairwiseBilateral(sxy=60, srgb=5, rgbim=image, compat=3)
    return crf.inference(1)


def by_layer(image: np.ndarray) -> Any:
    tensor = torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy())
    return crfrnn.CRFRNN(2)(torch.zeros(1, 2, 9, 11), tensor)


def by_segmenter(image: np.ndarray) -> Any:
    """Whose user thinks that the network sees the image as it is."""
    crf = crfrnn.CRFRNN(2)
    model = crfrnn.Segmenter(torch.nn.Conv2d(3, 2, 1), crf, image_range=255)
    return model(torch.from_numpy(np.moveaxis(image, -1, 0)[None].astype(np.float32)))


def by_loss(image: np.ndarray) -> Any:
    tensor = torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy())
    kernels = [Bilateral(position=60, color=10)]
    return crfrnn.DenseCRFLoss(kernels)(torch.zeros(1, 2, 9, 11), tensor)


DOORS: list[Any] = [
    by_refine,
    by_upsample,
    by_pydensecrf,
    *(pytest.param(door, marks=needs_torch) for door in (by_layer, by_segmenter, by_loss)),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", list(STRANGE))
def test_every_door_warns_of_a_strange_image(door: Callable[..., Any], name: str) -> None:
    image, sentence = STRANGE[name]
    if torch is None and image.dtype == np.uint16:
        pytest.skip("needs torch")
    if door in (by_layer, by_loss) and image.dtype == np.uint16:
        image = image.astype(np.int32)
    with pytest.warns(GuideWarning, match=sentence) as caught:
        door(image)
    assert len(caught) == 1
    assert caught[0].filename == __file__, "the warning names the line that called the library"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", list(USUAL))
def test_no_door_warns_of_a_usual_image(door: Callable[..., Any], name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        door(USUAL[name])


def test_bandwidths_in_the_units_of_the_image_are_right() -> None:
    scores = np.zeros((2, 9, 11), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crfrnn.refine(UNIT, logits=scores, kernels=[Bilateral(position=60, color=0.05)])
        crfrnn.refine(STRANGE["12 bits"][0], logits=scores, kernels=[Bilateral(color=200)])
        crfrnn.refine(STRANGE["12 bits"][0], logits=scores, kernels=[Gaussian(position=3)])


def test_a_warning_has_a_sentence_without_numbers_of_one_image() -> None:
    sentences = set()
    for factor in (16, 15):
        with pytest.warns(GuideWarning) as caught:
            by_refine(BYTES.astype(np.uint16) * factor)
        warning = caught[0].message
        assert isinstance(warning, GuideWarning)
        assert str(int(BYTES.max()) * factor) in str(warning)
        sentences.add(warning.sentence)
    assert len(sentences) == 1


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-12, 268), (100, 101), (7, 7)])
def test_ranges_that_suit(low: float, high: float) -> None:
    assert judge_range(low, high, 3) is None
