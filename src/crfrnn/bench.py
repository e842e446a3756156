"""How long the main calls take on this machine, beside the original pydensecrf if it is there."""

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

#: What is timed: whole calls with the lattice built anew, on this many classes.
CASES = (
    "refine, 21 classes, T = 10",
    "refine, 21 classes, T = 10, without pruning",
    "refine, 2 classes, T = 10",
    "CRFRNN forward + backward, 21 classes, T = 5",
)

#: Below this share of equal labels no time of the original is told.
LEAST_AGREEMENT = 0.99

_CLASSES = 21
_KERNELS = PRESETS["crfasrnn"].kernels  # bilateral 160 / 3 with weight 5, spatial 3 with weight 3
_NORMALIZATION = "symmetric"  # pydensecrf's default

Runs = tuple[Callable[[], Any], ...]


@dataclass(frozen=True)
class Picture:
    """What the calls work on.

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
        threads: threads that this library had; the original has one.
        seconds: of each run.
        original: of the runs of the original pydensecrf in between; None if there were none.
        agreement: share of the labels that the original gives too; None if it was not asked.
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
    """Median, least and largest."""
    return statistics.median(values), min(values), max(values)


def in_turn(runs: Runs, repeats: int) -> list[list[float]]:
    """Time functions in turn, A B A B ..., so that a slow moment hits all, after one warm-up each.

    Args:
        runs: the functions.
        repeats: how often to run each.

    Returns:
        For each function, the seconds of its runs.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    for _ in range(repeats):
        for run, kept in zip(runs, seconds, strict=True):
            gc.collect()
            start = time.perf_counter()
            run()
            kept.append(time.perf_counter() - start)
    return seconds


def picture(size: int) -> Picture:
    """Return a square picture and its scores, without a download.

    Args:
        size: height and width in pixels. The photograph is cut around its middle, or goes on
            mirrored, so that an area holds as much at every size.
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
        given: what the calls work on.
        repeats: runs of each case, or pairs of runs with the original.
        threads: numbers of threads; torch's own is set back at the end.
    """
    _checks.count("repeats", repeats, least=1)
    before, original = torch.get_num_threads(), original_model()
    try:
        for count in threads:
            torch.set_num_threads(count)
            for case, run, theirs in _cases(given, original):
                yield _time(case, count, run, theirs, repeats)
    finally:
        torch.set_num_threads(before)


def original_model() -> Any | None:
    """The original's `DenseCRF2D`; None if it is missing, or this library stands in its place."""
    try:
        model = importlib.import_module("pydensecrf.densecrf").DenseCRF2D
    except (ImportError, AttributeError):
        return None
    return None if model.__module__.startswith("crfrnn") else model


def _time(
    case: str, threads: int, run: Callable[[], Any], theirs: Callable[[], Any] | None, repeats: int
) -> Timing:
    agreement = None if theirs is None else float(np.mean(run() == theirs()))
    if theirs is None or agreement is None or agreement < LEAST_AGREEMENT:
        (alone,) = in_turn((run,), repeats)
        return Timing(case, threads, alone, None, agreement)
    ours, original = in_turn((run, theirs), repeats)
    return Timing(case, threads, ours, original, agreement)


def _cases(
    given: Picture, original: Any | None
) -> Iterator[tuple[str, Callable[[], Any], Callable[[], Any] | None]]:
    """Each case: its name, our call, and the original's."""
    likeliest = np.argsort(-given.logits.mean(axis=(1, 2)))[:2]
    two = np.ascontiguousarray(given.logits[likeliest])
    whole, unpruned, few, trained = CASES
    for name, logits, prune in (
        (whole, given.logits, True),
        (unpruned, given.logits, False),
        (few, two, True),
    ):
        theirs = original and _original_run(original, given.image, logits)
        yield name, _refine_run(given.image, logits, prune), theirs
    yield trained, _layer_run(given), None


def _refine_run(
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


def _original_run(
    model: Any, image: UInt8[np.ndarray, "H W 3"], logits: Float32[np.ndarray, "C H W"]
) -> Callable[[], Int64[np.ndarray, "H W"]]:
    classes, height, width = logits.shape
    energy = np.ascontiguousarray(-logits.reshape(classes, -1))

    def run() -> Int64[np.ndarray, "H W"]:
        crf = model(width, height, classes)
        crf.setUnaryEnergy(energy)
        crf.addPairwiseGaussian(sxy=3, compat=3)
        crf.addPairwiseBilateral(sxy=160, srgb=3, rgbim=image, compat=5)
        labels: np.ndarray = np.argmax(crf.inference(10), axis=0).reshape(height, width)
        return labels

    return run


def _layer_run(given: Picture) -> Callable[[], Any]:
    layer = CRFRNN(_CLASSES, _KERNELS, iterations=5, normalization=_NORMALIZATION)
    logits = torch.from_numpy(given.logits)[None].requires_grad_()
    image = torch.from_numpy(given.image).permute(2, 0, 1)[None]
    upstream = torch.full_like(logits, 1 / logits.numel())
    wanted = (logits, *layer.parameters())
    return lambda: torch.autograd.grad(layer(logits, image), wanted, upstream)


def _fit(array: np.ndarray, size: int, axes: tuple[int, int]) -> np.ndarray:
    """Cut two axes to `size` around their middle, or let them go on mirrored."""
    for axis in axes:
        wider = [(0, 0)] * array.ndim
        wider[axis] = (0, max(0, size - array.shape[axis]))
        array = np.pad(array, wider, mode="symmetric")
        start = (array.shape[axis] - size) // 2
        array = array.take(range(start, start + size), axis=axis)
    return array


def _synthetic(size: int) -> Picture:
    """Shapes with noisy edges, and scores as coarse as a network's."""
    generator = torch.Generator().manual_seed(0)
    images, labels = shapes(1, size, generator=generator)
    fine = torch.nn.functional.one_hot(labels, _CLASSES).permute(0, 3, 1, 2).float()
    coarse = torch.nn.functional.adaptive_avg_pool2d(fine, max(1, size // 8))
    coarse = 20 * coarse + 0.5 * torch.randn(coarse.shape, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    image = images[0].permute(1, 2, 0).round().to(torch.uint8).contiguous()
    return Picture("synthetic", image.numpy(), logits[0].contiguous().numpy())
