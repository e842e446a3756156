"""Inputs that filters and recurrences are tried on: odd, prime, tiny, flat, doubled, strided."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from crfrnn.core.inference import Options
from crfrnn.core.native import core_missing

try:
    import torch
except ModuleNotFoundError:  # `make test-offline`
    torch = None

if TYPE_CHECKING:
    from torch import Tensor

    from crfrnn.crf.filters import KernelFilter
    from crfrnn.crf.kernel import Kernel

#: One table for all tests; a test that needs more says why. The first is the issue's promise.
TOLERANCE: dict[Any, dict[str, float]] = {
    np.float32: {"rtol": 1e-5, "atol": 1e-5},
    np.float64: {"rtol": 1e-12, "atol": 1e-12},
}
if torch is not None:
    TOLERANCE |= {torch.float32: TOLERANCE[np.float32], torch.float64: TOLERANCE[np.float64]}

needs_torch = pytest.mark.skipif(torch is None, reason="needs torch")
needs_core = pytest.mark.skipif(bool(core_missing()), reason=core_missing() or "")

#: Every engine that computes on the CPU, as parameters.
ENGINES = [pytest.param("reference", marks=needs_torch), pytest.param("cpu", marks=needs_core)]

NORMALIZATIONS = ["symmetric", "after", "before", "none"]


@dataclass(frozen=True)
class PointCase:
    """Points to filter over: B sets of N points in D dimensions, with C values each.

    `spread` is the standard deviation of the points in bandwidths; batch items differ in it.
    """

    batch: int
    n: int
    d: int
    c: int
    spread: float = 1.0
    kind: str = "random"

    def __str__(self) -> str:
        return f"{self.kind}-B{self.batch}-N{self.n}-D{self.d}-C{self.c}-spread{self.spread:g}"

    def make(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Features (B N D) and values (B N C)."""
        generator = torch.Generator().manual_seed(self.n * 100 + self.d)
        shape = (self.batch, self.n, self.d)
        features = torch.randn(*shape, generator=generator, dtype=torch.float64)
        scale = self.spread * torch.arange(1, self.batch + 1, dtype=torch.float64)
        features = features * scale[:, None, None]
        if self.kind == "constant":
            features = features[:, :1].expand(shape).clone()
        elif self.kind == "duplicated":
            features = features[:, torch.arange(self.n) // 3]
        elif self.kind == "lattice-points":  # on cell borders, where roundings tie
            features = features.round()
        values = torch.randn(self.batch, self.n, self.c, generator=generator, dtype=torch.float64)
        features, values = features.to(dtype), values.to(dtype)
        if self.kind == "strided":
            features = features.transpose(0, 2).contiguous().transpose(0, 2)
            values = values.repeat_interleave(2, dim=2)[..., ::2]
        return features, values


#: Dimensions and channel counts cover every branch of the C++ kernels (groups of 16, 8, 4, 2, 1).
POINT_CASES = [
    PointCase(1, 1, 1, 1),
    PointCase(1, 1, 5, 3),
    PointCase(1, 2, 2, 1),
    PointCase(2, 13, 1, 2, 3),
    PointCase(1, 97, 2, 5, 4),
    PointCase(2, 61, 3, 7, 2),
    PointCase(1, 101, 5, 21, 2),
    PointCase(3, 53, 5, 3, 0.3),
    PointCase(1, 83, 7, 11, 1),
    PointCase(1, 47, 8, 16, 1),
    PointCase(1, 29, 11, 33, 1),
    PointCase(1, 23, 4, 67, 1),
    PointCase(1, 67, 5, 4, 100),
    PointCase(1, 31, 5, 3, 1, "constant"),
    PointCase(2, 41, 5, 6, 2, "duplicated"),
    PointCase(1, 71, 3, 2, 5, "lattice-points"),
    PointCase(2, 37, 5, 19, 2, "strided"),
]


@dataclass(frozen=True)
class GridCase:
    """Logits (B C *S) and an image (B F *S) on 0..255, of different content in each batch item."""

    batch: int
    classes: int
    size: tuple[int, ...]
    channels: int = 3
    kind: str = "random"

    def __str__(self) -> str:
        size = "x".join(map(str, self.size))
        return f"{self.kind}-B{self.batch}-C{self.classes}-{size}-F{self.channels}"

    def make(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Logits and image."""
        generator = torch.Generator().manual_seed(math.prod(self.size) + self.classes)
        shape = (self.batch, self.classes, *self.size)
        logits = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
        shape = (self.batch, self.channels, *self.size)
        # Low in contrast, so that pixels hear each other through colour bandwidths of 3 to 40.
        image = torch.randint(100, 130, shape, generator=generator, dtype=torch.float64)
        if self.kind == "flat":
            image = torch.full_like(image, 77)
        elif self.kind == "edge":
            image = torch.zeros_like(image)
            image[..., self.size[-1] // 2 :] = 200
        elif self.kind == "strided":
            image = image.movedim(1, -1).contiguous().movedim(-1, 1)
            logits = logits.flip(-1).contiguous().flip(-1).transpose(0, 1)
            logits = logits.contiguous().transpose(0, 1)
        return logits.to(dtype), image.to(dtype)


GRID_CASES = [
    GridCase(1, 2, (1, 1)),
    GridCase(1, 3, (1, 7)),
    GridCase(1, 3, (7, 1)),
    GridCase(1, 1, (3, 5)),
    GridCase(1, 2, (3, 3)),
    GridCase(2, 5, (7, 11)),
    GridCase(3, 21, (5, 13)),
    GridCase(2, 3, (23,), 1),
    GridCase(1, 4, (3, 5, 7), 2),
    GridCase(1, 2, (5, 7), 3, "flat"),
    GridCase(2, 3, (5, 8), 1, "edge"),
    GridCase(2, 17, (5, 7), 3, "strided"),
]


def available_engines() -> list[str]:
    """The engines that can run here, for tests that go through them themselves."""
    reference = [] if torch is None else ["reference"]
    return reference if core_missing() else [*reference, "cpu"]


def containers() -> list[Callable[[np.ndarray], Any]]:
    """What makes of a NumPy array each of the containers that the library takes here."""
    return [np.asarray] if torch is None else [np.asarray, torch.from_numpy]


def gaussian_matrix(points: np.ndarray) -> np.ndarray:
    """exp(-½ |f_i - f_j|²) for points (N D), by brute force in float64."""
    squared = np.zeros((len(points), len(points)))
    for axis in points.astype(np.float64).T:
        squared += np.subtract.outer(axis, axis) ** 2
    return np.exp(-0.5 * squared)


def gaussian_sum(features: Tensor, values: Tensor) -> np.ndarray:
    """Σ_j exp(-½ |f_i - f_j|²) v_j by brute force in float64, for (B N D) and (B N C)."""
    items = zip(features.numpy(), values.double().numpy(), strict=True)
    return np.stack([gaussian_matrix(f) @ v for f, v in items])


def pixels(size: Sequence[int]) -> np.ndarray:
    """Coordinates (N, len(size)) of a grid in the order (x, y, z), by loops."""
    return np.array([index[::-1] for index in np.ndindex(*size)], dtype=np.float64)


@functools.cache
def photograph(name: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A photograph of scikit-image and real network scores of it, at `size`: (H W 3), (C H W)."""
    pytest.importorskip("skimage")
    from importlib.resources import files

    import skimage.data
    import skimage.transform
    from PIL import Image

    image = getattr(skimage.data, name)()
    with np.load(files("crfrnn") / "demo" / "scores" / f"{name}_scores.npz") as file:
        scores = (file["logits"].astype(np.float32) - file["zero"]) * file["scale"]
    scores = scores.astype(np.float32)  # the type that people hold
    # The network saw a canvas of 513 x 513 with the photograph at its top left.
    canvas = _stretched(_stretched(np.moveaxis(scores, -1, 0)).swapaxes(1, 2)).swapaxes(1, 2)
    logits = np.ascontiguousarray(canvas[:, : image.shape[0], : image.shape[1]])
    if size != image.shape[:2]:
        image = skimage.transform.resize(image, size, anti_aliasing=True, preserve_range=True)
        maps = [Image.fromarray(m).resize(size[::-1], Image.Resampling.BILINEAR) for m in logits]
        logits = np.stack([np.asarray(m) for m in maps])
    return image.round().astype(np.uint8), logits


def _stretched(maps: np.ndarray, n: int = 513) -> np.ndarray:
    """Maps with their last axis interpolated to `n` places, the first and the last kept."""
    place = np.linspace(0, maps.shape[-1] - 1, n, dtype=np.float32)
    low = np.minimum(place.astype(np.int64), maps.shape[-1] - 2)
    part = place - low.astype(np.float32)
    return maps[..., low] * (1 - part) + maps[..., low + 1] * part


def infer(
    logits: Tensor,
    filters: Sequence[KernelFilter],
    weights: Tensor,
    compatibility: Tensor | None,
    iterations: int,
    *,
    tolerance: float = 0.0,
    engine: str | None = None,
    **step: Any,
) -> tuple[Tensor, Tensor]:
    """Logits and steps of an inference, its parts spelled out."""
    from crfrnn.crf import inference
    from crfrnn.crf.inference import Pairwise

    pairwise = Pairwise(filters, weights, compatibility, engine)
    result = inference.infer(logits, pairwise, Options(iterations, tolerance), **step)
    return result.logits, result.steps


def build_filters(
    kernels: Sequence[Kernel],
    logits: Tensor,
    image: Tensor | None,
    features: Sequence[Tensor],
    *,
    mask: Tensor | None = None,
    **recipe: Any,
) -> list[KernelFilter]:
    """The filters of some kernels, their parts spelled out."""
    from crfrnn.crf import filters
    from crfrnn.crf.kernel import Scene
    from crfrnn.crf.recipe import Recipe

    scene = Scene(logits, image, features)
    return filters.build_filters(Recipe(tuple(kernels), **recipe), scene, mask=mask)
