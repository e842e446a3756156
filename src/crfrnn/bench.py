"""Timing the main calls on this machine, next to the original pydensecrf if it is installed."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _checks
from .core.names import Normalization
from .core.threads import limited_threads
from .data.synthetic import draw_shapes
from .demo import network_scores, photograph
from .io.score_grid import resample
from .offline.refine import refine
from .presets import PRESETS

#: The case that needs torch.
TRAINING = "CRFRNN forward + backward, 21 classes, T = 5"

#: What is timed: whole calls, which build the lattice each time.
CASES = (
    "refine, 21 classes, T = 10",
    "refine, 21 classes, T = 10, without pruning",
    "refine, 2 classes, T = 10",
    TRAINING,
)

#: Below this share of equal labels, the original is not timed: it computes something else.
LEAST_AGREEMENT = 0.99

_CLASSES = 21
_KERNELS = PRESETS["crfasrnn"].kernels  # bilateral 160 / 3 with weight 5, spatial 3 with weight 3
_NORMALIZATION: Normalization = "symmetric"  # pydensecrf's default


@dataclass(frozen=True)
class Picture:
    """The input of the calls.

    Attributes:
        name: "astronaut", or "synthetic" where scikit-image is missing.
        image: the photograph, (H, W, 3) uint8.
        logits: scores of 21 classes, (C, H, W) float32.
    """

    name: str
    image: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class Timing:
    """Seconds of one case.

    Attributes:
        case: one of `CASES`.
        threads: threads of this library; the original has one.
        seconds: seconds of each call.
        original: seconds of the original pydensecrf's calls in between; None if it was not timed.
        agreement: share of labels that are equal to the original's; None if it did not run.
    """

    case: str
    threads: int
    seconds: list[float]
    original: list[float] | None = None
    agreement: float | None = None

    @property
    def ratios(self) -> list[float]:
        """How many times as long the original took, pair by pair."""
        return [b / a for a, b in zip(self.seconds, self.original or (), strict=False)]


def middle_and_ends(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, least and largest."""
    return statistics.median(values), min(values), max(values)


def in_turn(functions: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Time functions in turn, A B A B ..., so that a slow moment hits all of them.

    Args:
        functions: the functions; each is called once before, to warm up.
        repeats: how often to time each.

    Returns:
        The seconds of the calls, per function.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    for call in functions:
        call()
    for _ in range(repeats):
        for call, times in zip(functions, seconds, strict=True):
            gc.collect()  # outside the time, so that no call pays for another's garbage
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return seconds


def picture(size: int) -> Picture:
    """Return a square picture and its scores, without a download.

    Args:
        size: height and width in pixels. The photograph is cut around its middle, or continued by
            its mirror image, so that it has the same detail per area at every size.
    """
    _checks.count("size", size, least=1)
    try:
        image = photograph("astronaut")
    except ImportError:
        return _synthetic(size)
    height, width = image.shape[:2]
    logits = network_scores("astronaut", (height, width)).values.astype(np.float32)
    cut = np.ascontiguousarray(_fit(image, size, (0, 1)))
    return Picture("astronaut", cut, np.ascontiguousarray(_fit(logits, size, (1, 2))))


def cases_here() -> tuple[str, ...]:
    """The cases that can run on this machine: all, or all but `TRAINING` without torch."""
    return CASES if importlib.util.find_spec("torch") else CASES[:-1]


def measure(given: Picture, repeats: int, threads: Sequence[int]) -> Iterator[Timing]:
    """Time the cases of `cases_here` on every number of threads.

    Args:
        given: the input of the calls.
        repeats: calls of each case, or pairs of calls with the original.
        threads: numbers of threads; the previous number is restored after each.
    """
    _checks.count("repeats", repeats, least=1)
    original = original_model()
    for count in threads:
        with limited_threads(count):
            for case, ours, theirs in _cases(given, original):
                yield _time(case, count, ours, theirs, repeats)


def original_model() -> Any | None:
    """Import the original's `DenseCRF2D`; None if it is missing or replaced by this library."""
    try:
        model = importlib.import_module("pydensecrf.densecrf").DenseCRF2D
    except (ImportError, AttributeError):
        return None
    return None if model.__module__.startswith("crfrnn") else model


def _time(
    case: str, threads: int, ours: Callable[[], Any], theirs: Callable[[], Any] | None, repeats: int
) -> Timing:
    agreement = None if theirs is None else float(np.mean(ours() == theirs()))
    if theirs is None or agreement is None or agreement < LEAST_AGREEMENT:
        (seconds,) = in_turn((ours,), repeats)
        return Timing(case, threads, seconds, None, agreement)
    seconds, original = in_turn((ours, theirs), repeats)
    return Timing(case, threads, seconds, original, agreement)


def _cases(
    given: Picture, original: Any | None
) -> Iterator[tuple[str, Callable[[], Any], Callable[[], Any] | None]]:
    """Yield the name of each case, our call, and the original's."""
    likeliest = np.argsort(-given.logits.mean(axis=(1, 2)))[:2]
    two = np.ascontiguousarray(given.logits[likeliest])
    whole, unpruned, few, _ = CASES
    for name, logits, prune in (
        (whole, given.logits, True),
        (unpruned, given.logits, False),
        (few, two, True),
    ):
        theirs = original and _original_call(original, given.image, logits)
        yield name, _refine_call(given.image, logits, prune), theirs
    if TRAINING in cases_here():
        yield TRAINING, _layer_call(given), None


def _refine_call(image: np.ndarray, logits: np.ndarray, prune: bool) -> Callable[[], np.ndarray]:
    return lambda: (
        refine(
            image,
            logits=logits,
            kernels=_KERNELS,
            iterations=10,
            normalization=_NORMALIZATION,
            prune=prune,
        ).labels
    )


def _original_call(model: Any, image: np.ndarray, logits: np.ndarray) -> Callable[[], np.ndarray]:
    classes, height, width = logits.shape
    energy = np.ascontiguousarray(-logits.reshape(classes, -1))

    def call() -> np.ndarray:
        crf = model(width, height, classes)
        crf.setUnaryEnergy(energy)
        crf.addPairwiseGaussian(sxy=3, compat=3)
        crf.addPairwiseBilateral(sxy=160, srgb=3, rgbim=image, compat=5)
        labels: np.ndarray = np.argmax(crf.inference(10), axis=0).reshape(height, width)
        return labels

    return call


def _layer_call(given: Picture) -> Callable[[], Any]:
    import torch

    from .layer.crfrnn import CRFRNN

    layer = CRFRNN(_CLASSES, _KERNELS, iterations=5, normalization=_NORMALIZATION)
    logits = torch.from_numpy(given.logits)[None].requires_grad_()
    image = torch.from_numpy(given.image).permute(2, 0, 1)[None]
    upstream = torch.full_like(logits, 1 / logits.numel())
    wanted = (logits, *layer.parameters())
    return lambda: torch.autograd.grad(layer(logits, image), wanted, upstream)


def _fit(array: np.ndarray, size: int, axes: tuple[int, int]) -> np.ndarray:
    """Cut two axes to `size` around their middle, or continue them by their mirror image."""
    for axis in axes:
        padding = [(0, 0)] * array.ndim
        padding[axis] = (0, max(0, size - array.shape[axis]))
        array = np.pad(array, padding, mode="symmetric")
        start = (array.shape[axis] - size) // 2
        array = array.take(range(start, start + size), axis=axis)
    return array


def _synthetic(size: int) -> Picture:
    """Draw shapes with noisy edges, and scores as coarse as a network's."""
    random = np.random.default_rng(0)
    images, labels = draw_shapes(1, size, random_state=random)
    fine = (labels[0] == np.arange(_CLASSES)[:, None, None]).astype(np.float32)
    cells = max(1, size // 8)
    coarse = 20 * resample(fine, (cells, cells))
    coarse += 0.5 * random.standard_normal(coarse.shape, np.float32)
    image = np.rint(images[0]).astype(np.uint8)
    return Picture(
        "synthetic",
        np.ascontiguousarray(image.transpose(1, 2, 0)),
        resample(coarse, (size, size)),
    )
