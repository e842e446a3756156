"""Timing the main calls on this machine, next to the original pydensecrf if it is installed."""

from __future__ import annotations

import gc
import importlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8

from . import _checks
from .data.synthetic import shapes
from .demo import network_scores, photograph
from .layer.crfrnn import CRFRNN
from .offline.refine import refine
from .presets import PRESETS

#: What is timed: whole calls, which build the lattice each time.
CASES = (
    "refine, 21 classes, T = 10",
    "refine, 21 classes, T = 10, without pruning",
    "refine, 2 classes, T = 10",
    "CRFRNN forward + backward, 21 classes, T = 5",
)

#: Below this share of equal labels, the original is not timed: it computes something else.
LEAST_AGREEMENT = 0.99

_CLASSES = 21
_KERNELS = PRESETS["crfasrnn"].kernels  # bilateral 160 / 3 with weight 5, spatial 3 with weight 3
_NORMALIZATION = "symmetric"  # pydensecrf's default


@dataclass(frozen=True)
class Picture:
    """The input of the calls.

    Attributes:
        name: "astronaut", or "synthetic" where scikit-image is missing.
        image: the photograph.
        logits: scores of 21 classes.
    """

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    logits: Float32[np.ndarray, "C H W"]


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


def measure(given: Picture, repeats: int, threads: Sequence[int]) -> Iterator[Timing]:
    """Time every case on every number of threads.

    Args:
        given: the input of the calls.
        repeats: calls of each case, or pairs of calls with the original.
        threads: numbers of threads; torch's previous number is restored at the end.
    """
    _checks.count("repeats", repeats, least=1)
    before, original = torch.get_num_threads(), original_model()
    try:
        for count in threads:
            torch.set_num_threads(count)
            for case, ours, theirs in _cases(given, original):
                yield _time(case, count, ours, theirs, repeats)
    finally:
        torch.set_num_threads(before)


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
    whole, unpruned, few, trained = CASES
    for name, logits, prune in (
        (whole, given.logits, True),
        (unpruned, given.logits, False),
        (few, two, True),
    ):
        theirs = original and _original_call(original, given.image, logits)
        yield name, _refine_call(given.image, logits, prune), theirs
    yield trained, _layer_call(given), None


def _refine_call(
    image: UInt8[np.ndarray, "H W 3"], logits: Float32[np.ndarray, "C H W"], prune: bool
) -> Callable[[], Int64[np.ndarray, "H W"]]:
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


def _original_call(
    model: Any, image: UInt8[np.ndarray, "H W 3"], logits: Float32[np.ndarray, "C H W"]
) -> Callable[[], Int64[np.ndarray, "H W"]]:
    classes, height, width = logits.shape
    energy = np.ascontiguousarray(-logits.reshape(classes, -1))

    def call() -> Int64[np.ndarray, "H W"]:
        crf = model(width, height, classes)
        crf.setUnaryEnergy(energy)
        crf.addPairwiseGaussian(sxy=3, compat=3)
        crf.addPairwiseBilateral(sxy=160, srgb=3, rgbim=image, compat=5)
        labels: np.ndarray = np.argmax(crf.inference(10), axis=0).reshape(height, width)
        return labels

    return call


def _layer_call(given: Picture) -> Callable[[], Any]:
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
    generator = torch.Generator().manual_seed(0)
    images, labels = shapes(1, size, generator=generator)
    fine = torch.nn.functional.one_hot(labels, _CLASSES).permute(0, 3, 1, 2).float()
    coarse = torch.nn.functional.adaptive_avg_pool2d(fine, max(1, size // 8))
    coarse = 20 * coarse + 0.5 * torch.randn(coarse.shape, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    image = images[0].permute(1, 2, 0).round().to(torch.uint8).contiguous()
    return Picture("synthetic", image.numpy(), logits[0].contiguous().numpy())
