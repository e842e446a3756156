"""What a refiner is: a function of a photograph and its scores, with numbers to choose."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

#: Classes that are nowhere likelier than this are left out of a map-by-map refiner.
LEAST = 0.05

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Scene:
    """A photograph with its scores.

    Attributes:
        image: (H, W, 3) uint8.
        logits: (C, H, W) float32, at the size of the photograph.
        coarse: (C, h, w) float32, as the network gave them.
        covered: height and width in pixels that the coarse scores cover, from the top left.
        align_corners: whether the centers of the corner cells are those of the corner pixels.
    """

    image: np.ndarray
    logits: np.ndarray
    coarse: np.ndarray
    covered: tuple[int, int]
    align_corners: bool

    def probs(self) -> np.ndarray:
        """The probabilities of the classes, (C, H, W) float32."""
        return softmax(self.logits)


class Span(NamedTuple):
    """Numbers between two bounds, drawn evenly on a logarithmic scale."""

    low: float
    high: float
    whole: bool = False

    def draw(self, random: np.random.Generator) -> float:
        """Draw a number."""
        value = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        return round(value) if self.whole else float(f"{value:.4g}")


class Choice(NamedTuple):
    """One of a few values, each as likely."""

    values: tuple[Any, ...]

    def draw(self, random: np.random.Generator) -> Any:
        """Draw a value."""
        return self.values[int(random.integers(len(self.values)))]


#: Returns probabilities (C, H, W), or labels (H, W) of integers.
Refine = Callable[[Scene, Numbers], np.ndarray]


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: in files and on the command line.
        title: in the table.
        refine: what it does.
        start: the numbers to try first; the first are the defaults of its library or paper.
        space: what is drawn for further trials; empty if nothing is tuned.
        same_as: the method whose tuned numbers it takes.
        needs: modules that must be installed.
        install: the packages that hold them.
        source: the paper.
        with_rankseg: decide its probabilities by RankSEG too, as a row of its own.
    """

    name: str
    title: str
    refine: Refine
    start: tuple[Numbers, ...] = ({},)
    space: Mapping[str, Span | Choice] = field(default_factory=dict)
    same_as: str | None = None
    needs: tuple[str, ...] = ()
    install: str = ""
    source: str = ""
    with_rankseg: bool = False

    def missing(self) -> str | None:
        """What to install, or None if all is there."""
        absent = [name for name in self.needs if find_spec(name) is None]
        return f"{self.title}: left out, install {self.install}" if absent else None

    def proposals(self, trials: int, seed: int) -> list[Numbers]:
        """The numbers of each trial: those to start from, then draws; the same for a seed."""
        random = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        proposals = list(self.start[: max(1, trials)])
        while self.space and len(proposals) < trials:
            proposals.append({name: span.draw(random) for name, span in self.space.items()})
        return proposals


def softmax(logits: np.ndarray) -> np.ndarray:
    """The probabilities of logits, over the first axis."""
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


def likely(probs: np.ndarray) -> np.ndarray:
    """The ids of the classes that are likely somewhere, and always those of the likeliest two."""
    most = probs.reshape(len(probs), -1).max(axis=1)
    chosen = most >= min(LEAST, np.sort(most)[-min(2, len(most))])
    return np.flatnonzero(chosen)


def over_classes(probs: np.ndarray, refine: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Refine the probabilities (K, H, W) of the likely classes; the others become zero."""
    ids = likely(probs)
    out = np.zeros_like(probs)
    out[ids] = np.clip(refine(np.ascontiguousarray(probs[ids])), 0, None)
    return out / np.maximum(out.sum(axis=0), 1e-12)


def map_by_map(probs: np.ndarray, smooth: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Smooth each probability map (H, W) of a likely class by itself."""
    return over_classes(probs, lambda maps: np.stack([smooth(one) for one in maps]))


def scattered(labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Ids of classes from places among the likely ones."""
    return np.asarray(ids)[labels].astype(np.int64)


def offsets(radius: int, diamond: bool = False) -> Iterator[tuple[int, int]]:
    """The steps to the neighbors within a square, or within a diamond; not the pixel itself."""
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if (dy, dx) != (0, 0) and not (diamond and abs(dy) + abs(dx) > radius):
                yield dy, dx


def moved(padded: np.ndarray, radius: int, dy: int, dx: int) -> np.ndarray:
    """A view of what lies `(dy, dx)` from each pixel, in maps that were padded by `radius`."""
    height, width = (side - 2 * radius for side in padded.shape[-2:])
    return padded[..., radius + dy : radius + dy + height, radius + dx : radius + dx + width]
