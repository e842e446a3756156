"""Matching two folders by stem."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from crfrnn.io.files import IMAGE_SUFFIXES
from crfrnn.io.scores import ARRAY_SUFFIXES, SCORE_SUFFIXES

from ._job import Outputs


@dataclass(frozen=True)
class Pair:
    """A photograph, its scores, and the files to write."""

    stem: str
    image: Path
    scores: Path
    outputs: Outputs


@dataclass(frozen=True)
class Matches:
    """What lies in two folders.

    Attributes:
        pairs: to work on.
        images: stems of photographs without scores.
        scores: stems of scores without a photograph.
        clashes: stems that name more than one file, with the reason that they are left out.
    """

    pairs: list[Pair]
    images: list[str] = field(default_factory=list)
    scores: list[str] = field(default_factory=list)
    clashes: list[tuple[str, str]] = field(default_factory=list)


def match(images: Path, scores: Path, folders: Outputs) -> Matches:
    """Match the files of two folders by stem; sub-folders and hidden files are left alone.

    Among scores of one stem an array wins over pictures of it.
    """
    same = images.resolve() == scores.resolve()
    left = _by_stem(images, IMAGE_SUFFIXES)
    right = _by_stem(scores, ARRAY_SUFFIXES if same else SCORE_SUFFIXES)
    pairs, clashes = [], []
    for stem in sorted(left.keys() & right.keys()):
        maps = [path for path in right[stem] if path.suffix.lower() in ARRAY_SUFFIXES]
        many = left[stem] if len(left[stem]) > 1 else maps or right[stem]
        if len(many) > 1:
            names = ", ".join(path.name for path in many)
            clashes.append((stem, f"cannot tell which file to use: {names}"))
        else:
            pairs.append(Pair(stem, left[stem][0], many[0], _outputs(folders, stem)))
    if not pairs and not clashes:
        raise ValueError(
            f"no image in {images} ({len(left)}) has the stem of a score file in {scores} "
            f"({len(right)}); files are matched by name without suffix, as a.jpg and a.npy"
        )
    return Matches(
        pairs, sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys()), clashes
    )


def _by_stem(folder: Path, suffixes: Collection[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            found[path.stem].append(path)
    return found


def _outputs(folders: Outputs, stem: str) -> Outputs:
    return Outputs(
        folders.labels / f"{stem}.png",
        folders.probs and folders.probs / f"{stem}.npy",
        folders.overlay and folders.overlay / f"{stem}.png",
    )
