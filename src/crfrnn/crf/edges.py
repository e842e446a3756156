"""Neighborhood: the pairs of nearby pixels that a loss compares, and their weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from crfrnn import _checks
from crfrnn._arrays import Array, namespace

from .kernel import Kernel, Scene

#: A larger window costs more than a lattice over all pairs.
_MOST_OFFSETS = 2000


@dataclass(frozen=True)
class Neighborhood:
    """The pixels that `PottsLoss` compares each pixel with, in place of all pixels.

    Args:
        radius: the largest distance of two neighbors, in pixels: 1 gives the 4 nearest pixels of an
            image, 1.5 the 8 around it, 2 twelve.
        nearest: of the pixels within `radius`, keep the k that the kernels weight highest, such as
            those most alike; None keeps all.

    Example:
        >>> from crfrnn import Neighborhood
        >>> [len(Neighborhood(radius).offsets(2)) for radius in (1, 1.5, 2)]
        [4, 8, 12]
    """

    radius: float = 1.0
    nearest: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        (radius,) = _checks.positive("Neighborhood radius", self.radius, "a distance in pixels")
        if radius < 1:
            raise ValueError(
                f"Neighborhood radius must be at least 1, the distance of two pixels; got {radius}"
            )
        if (2 * radius + 1) ** 2 > 2 * _MOST_OFFSETS:
            raise ValueError(
                f"Neighborhood radius is at most 31; got {radius}. To compare pixels farther "
                f"apart, leave out neighbors=: a filter over all pairs is faster."
            )
        if self.nearest is not None:
            _checks.count("Neighborhood nearest", self.nearest, least=1)

    def offsets(self, axes: int) -> list[tuple[int, ...]]:
        """The steps from a pixel to its neighbors, before `nearest` chooses among them.

        Args:
            axes: 1 for a signal, 2 for an image, 3 for a volume.

        Example:
            >>> from crfrnn import Neighborhood
            >>> Neighborhood().offsets(2)
            [(-1, 0), (0, -1), (0, 1), (1, 0)]
        """
        reach = math.floor(self.radius)
        steps = itertools.product(range(-reach, reach + 1), repeat=axes)
        found = [step for step in steps if 0 < sum(s * s for s in step) <= self.radius**2]
        if len(found) > _MOST_OFFSETS:
            raise ValueError(
                f"Neighborhood(radius={self.radius}) has {len(found)} neighbors in {axes} axes; "
                f"at most {_MOST_OFFSETS} are possible. Choose a smaller radius."
            )
        return found

    def count(self, axes: int) -> int:
        """The neighbors of a pixel away from the border.

        Example:
            >>> from crfrnn import Neighborhood
            >>> Neighborhood(2, nearest=5).count(axes=2)
            5
        """
        within = len(self.offsets(axes))
        return within if self.nearest is None else min(self.nearest, within)


#: Selects pixels from (..., *S).
Index = tuple[Any, ...]


class Pair(NamedTuple):
    """All pairs of pixels that are one step apart.

    Attributes:
        here: selects the one end of each pair from (..., *S).
        there: selects the other end.
        weight: (B, ...) of each pair; the sum over both orders, per neighbor.
    """

    here: Index
    there: Index
    weight: Array


def build_edges(
    kernels: Sequence[Kernel], neighbors: Neighborhood, scene: Scene, mask: Array | None
) -> tuple[Pair, ...]:
    """Weight the pairs of a neighborhood by Σ_k w_k exp(-½ |f_i - f_j|²).

    Args:
        kernels: each has one weight.
        neighbors: which pairs.
        scene: what the kernels look at, as tensors.
        mask: (B, *S) bool; a pair with a pixel outside has the weight 0.

    Returns:
        Pairs for one of the two steps between any two pixels. The weights are divided by the
        number of neighbors of a pixel, so that those of a pixel sum to at most 2 Σ_k w_k.
    """
    size = tuple(scene.like.shape[2:])
    points = [kernel.points(scene).mT.unflatten(2, size) for kernel in kernels]  # B D *S
    numbers = [weight_of(kernel) for kernel in kernels]
    chosen = None
    if neighbors.nearest is not None and neighbors.nearest < len(neighbors.offsets(len(size))):
        chosen = _nearest(points, numbers, neighbors, size, mask)
    pairs = []
    for offset in neighbors.offsets(len(size)):
        if offset < (0,) * len(size):
            continue  # the opposite step connects the same pixels
        here, there = _ends(offset)
        weight = _weights(points, numbers, here, there)
        if mask is not None:
            weight = weight * (mask[here] & mask[there])
        if chosen is None:
            weight = 2 * weight
        else:
            opposite = tuple(-step for step in offset)
            counted = chosen[offset][here].int() + chosen[opposite][there].int()
            weight = weight * counted
        pairs.append(Pair(here, there, weight / neighbors.count(len(size))))
    return tuple(pairs)


def weight_of(kernel: Kernel) -> float:
    """The weight of a kernel that has one for all classes; refuse one weight per class."""
    numbers = kernel.weight if isinstance(kernel.weight, (tuple, list)) else (kernel.weight,)
    if len(numbers) != 1:
        raise ValueError(
            f"{type(kernel).__name__} weight has {len(numbers)} numbers; a loss with neighbors=, "
            f"log=True or relaxation='normalized' takes one number for all classes"
        )
    return float(numbers[0])


def _nearest(
    points: Sequence[Array],
    numbers: Sequence[float],
    neighbors: Neighborhood,
    size: tuple[int, ...],
    mask: Array | None,
) -> dict[tuple[int, ...], Array]:
    """For each step, where (B, *S) it leads to one of the nearest neighbors of a pixel."""
    torch = namespace(points[0])
    offsets = neighbors.offsets(len(size))
    # A neighbor beyond the border, or outside the mask, comes after all others.
    weights = points[0].new_full((len(points[0]), len(offsets), *size), -math.inf)
    for index, offset in enumerate(offsets):
        here, there = _ends(offset)
        weight = _weights(points, numbers, here, there)
        if mask is not None:
            weight = weight.masked_fill(~mask[there], -math.inf)
        weights[:, index][here] = weight
    best = weights.topk(int(neighbors.nearest or 0), dim=1).indices
    kept = torch.zeros_like(weights, dtype=torch.bool).scatter_(1, best, True)
    return dict(zip(offsets, kept.unbind(1), strict=True))


def _weights(
    points: Sequence[Array],
    numbers: Sequence[float],
    here: Index,
    there: Index,
) -> Array:
    total = 0
    for part, number in zip(points, numbers, strict=True):
        distance = (part[here] - part[there]).square().sum(1)
        total = total + number * (-0.5 * distance).exp()
    return total


def _ends(offset: tuple[int, ...]) -> tuple[Index, Index]:
    """The pixels with a neighbor at `offset`, and these neighbors."""
    here = (slice(max(0, -step), -step if step > 0 else None) for step in offset)
    there = (slice(max(0, step), step if step < 0 else None) for step in offset)
    return (..., *here), (..., *there)
