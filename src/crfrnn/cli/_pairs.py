"""Matching two folders by stem."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from crfrnn.io.array_files import ZARR_SUFFIX
from crfrnn.io.files import IMAGE_SUFFIXES, shorten
from crfrnn.io.scores import ARRAY_SUFFIXES, SCORE_SUFFIXES

from ._job import Outputs


@dataclass(frozen=True)
class Pair:
    """A photograph, its scores, the files to write, and a map of clamped pixels."""

    stem: str
    image: Path
    scores: Path
    outputs: Outputs
    clamp: Path | None = None


@dataclass(frozen=True)
class Matches:
    """The files of two folders, matched.

    Attributes:
        pairs: the pairs to work on.
        images: stems of photographs without scores.
        scores: stems of scores without a photograph.
        clashes: stems of more than one file, each with the reason why it is left out.
    """

    pairs: list[Pair]
    images: list[str] = field(default_factory=list)
    scores: list[str] = field(default_factory=list)
    clashes: list[tuple[str, str]] = field(default_factory=list)


def match(images: Path, scores: Path, folders: Outputs) -> Matches:
    """Match the files of two folders by stem; subfolders and hidden files are ignored.

    If a stem has an array and images among the scores, the array is used: such an image is mostly
    a picture of the array. In a folder of both photographs and scores, images are photographs.
    """
    same = images.resolve() == scores.resolve()
    left = _by_stem(images, IMAGE_SUFFIXES)
    right = _by_stem(scores, ARRAY_SUFFIXES if same else SCORE_SUFFIXES)
    pairs, clashes = [], []
    for stem in sorted(left.keys() & right.keys()):
        arrays = [path for path in right[stem] if path.suffix.lower() in ARRAY_SUFFIXES]
        files = left[stem] if len(left[stem]) > 1 else arrays or right[stem]
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            clashes.append((stem, f"cannot tell which file to use: {names}; keep one of them"))
        else:
            pairs.append(Pair(stem, left[stem][0], files[0], _outputs(folders, stem)))
    if not pairs and not clashes:
        raise ValueError(
            f"no image in {images} ({len(left)}) has the stem of a score file in {scores} "
            f"({len(right)}); name files that belong together alike, such as a.jpg and a.npy"
        )
    return Matches(
        pairs, sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys()), clashes
    )


def as_arrays(matches: Matches) -> Matches:
    """Return matches whose results are arrays, as those of independent masks are."""
    pairs = [
        replace(pair, outputs=replace(pair.outputs, labels=pair.outputs.labels.with_suffix(".npy")))
        for pair in matches.pairs
    ]
    return replace(matches, pairs=pairs)


def with_clamps(matches: Matches, folder: Path | None) -> Matches:
    """Give each pair the map of its stem, if there is a folder of them.

    Raises:
        ValueError: a pair has no map, or more than one.
    """
    if folder is None:
        return matches
    found: dict[str, list[Path]] = {pair.stem: [] for pair in matches.pairs}
    for path in sorted(folder.iterdir()):
        if path.stem in found and path.suffix.lower() in SCORE_SUFFIXES and path.is_file():
            found[path.stem].append(path)
    wrong = [stem for stem, paths in found.items() if len(paths) != 1]
    if wrong:
        raise ValueError(
            f"--clamp {folder}: expected one map for each image; got none or several for "
            f"{len(wrong)} of {len(found)}: {shorten(wrong)}. Where nothing is clamped, give a "
            f"map of 255."
        )
    return replace(
        matches, pairs=[replace(pair, clamp=found[pair.stem][0]) for pair in matches.pairs]
    )


def _by_stem(folder: Path, suffixes: Collection[str]) -> dict[str, list[Path]]:
    paths: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        is_input = path.is_file() or suffix == ZARR_SUFFIX  # a folder
        if suffix in suffixes and not path.name.startswith(".") and is_input:
            paths[path.stem].append(path)
    return paths


def _outputs(folders: Outputs, stem: str) -> Outputs:
    return Outputs(
        folders.labels / f"{stem}.png",
        folders.probs and folders.probs / f"{stem}.npy",
        folders.overlay and folders.overlay / f"{stem}.png",
    )
