"""Matching two folders by stem."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from crfrnn.io.array_files import ZARR_SUFFIX
from crfrnn.io.files import IMAGE_SUFFIXES, shorten
from crfrnn.io.paths import AnyPath, entries
from crfrnn.io.scores import ARRAY_SUFFIXES, REMEDIES, SCORE_SUFFIXES


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files to write; when refining a folder, the folders to write to."""

    labels: AnyPath
    probs: AnyPath | None = None
    overlay: AnyPath | None = None

    def paths(self) -> dict[str, AnyPath]:
        """Return the requested paths by name."""
        given = {"labels": self.labels, "probs": self.probs, "overlay": self.overlay}
        return {name: path for name, path in given.items() if path is not None}

    def to_json(self) -> dict[str, str]:
        """Return the requested paths by name, as JSON values."""
        return {name: str(path) for name, path in self.paths().items()}


def require_apart(outputs: Outputs, inputs: Mapping[str, Sequence[AnyPath | None]]) -> None:
    """Raise ValueError if an output would replace an input or another output.

    Args:
        outputs: files or folders.
        inputs: paths by what they are, such as "the folder of images"; None for one not given.
    """
    taken = {
        path.resolve(): what for what, paths in inputs.items() for path in paths if path is not None
    }
    for name, path in outputs.paths().items():
        place = path.resolve()
        if place in taken:
            raise ValueError(f"{path} is {taken[place]}; write the {name} elsewhere")
        taken[place] = f"the output for {name}"


@dataclass(frozen=True, slots=True)
class Pair:
    """A photograph, its scores, the files to write, and a map of clamped pixels.

    Attributes:
        more: of a volume, the other modalities.
    """

    stem: str
    image: AnyPath
    scores: AnyPath
    outputs: Outputs
    clamp: AnyPath | None = None
    more: tuple[AnyPath, ...] = ()

    def inputs(self) -> tuple[AnyPath, ...]:
        """Return the files that the results depend on."""
        clamp = () if self.clamp is None else (self.clamp,)
        return (self.image, self.scores, *clamp, *self.more)


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


def match(images: AnyPath, scores: AnyPath, folders: Outputs) -> Matches:
    """Match the files of two folders by stem; subfolders and hidden files are ignored.

    If a stem has an array and images among the scores, the array is used: such an image is usually
    a picture of the array. In a folder of both photographs and scores, images are photographs.
    """
    same = images.resolve() == scores.resolve()
    left = by_stem(images, IMAGE_SUFFIXES)
    right = by_stem(scores, ARRAY_SUFFIXES if same else SCORE_SUFFIXES)
    pairs, clashes = [], []
    for stem in sorted(left.keys() & right.keys()):
        arrays = [path for path in right[stem] if path.suffix.lower() in ARRAY_SUFFIXES]
        files = left[stem] if len(left[stem]) > 1 else arrays or right[stem]
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            clashes.append((stem, f"cannot tell which file to use: {names}; keep one of them"))
        else:
            pairs.append(Pair(stem, left[stem][0], files[0], results(folders, stem)))
    if not pairs and not clashes:
        raise ValueError(
            f"no image in {images} ({len(left)}) has the stem of a score file in {scores} "
            f"({len(right)}); " + _remedy(left, right, scores)
        )
    return Matches(
        pairs, sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys()), clashes
    )


def _remedy(
    left: Mapping[str, Sequence[AnyPath]], right: Mapping[str, Sequence[AnyPath]], scores: AnyPath
) -> str:
    if not left:
        return "the folder of photographs comes first, the folder of scores second"
    others = {PurePath(path.name).suffix.lower() for path in _inputs(scores)}
    unread = sorted(others & REMEDIES.keys())
    if not right and unread:
        return f"scores are not read from {unread[0]} files. {REMEDIES[unread[0]]}"
    alike = "name files that belong together alike, such as a.jpg and a.npy"
    if not right:
        return f"{alike}. Subfolders are not searched"
    return f"{alike}. The first are {min(left)!r} and {min(right)!r}"


def as_arrays(matches: Matches) -> Matches:
    """Return matches whose results are arrays, as those of independent masks are."""
    pairs = [
        replace(pair, outputs=replace(pair.outputs, labels=pair.outputs.labels.with_suffix(".npy")))
        for pair in matches.pairs
    ]
    return replace(matches, pairs=pairs)


def with_clamps(
    matches: Matches, folder: AnyPath | None, suffixes: Collection[str] = SCORE_SUFFIXES
) -> Matches:
    """Give each pair the map of its stem, if there is a folder of them, with such suffixes.

    Raises:
        ValueError: a pair has no map, or more than one.
    """
    if folder is None:
        return matches
    maps = by_stem(folder, suffixes)
    found = {pair.stem: maps.get(pair.stem, []) for pair in matches.pairs}
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


def results(folders: Outputs, stem: str) -> Outputs:
    """Name the results for a stem in their folders."""
    return Outputs(
        folders.labels / f"{stem}.png",
        folders.probs and folders.probs / f"{stem}.npy",
        folders.overlay and folders.overlay / f"{stem}.png",
    )


def by_stem(folder: AnyPath, suffixes: Collection[str]) -> dict[str, list[AnyPath]]:
    """Return the files of a folder that have one of these suffixes, by the name without it."""
    paths: dict[str, list[AnyPath]] = defaultdict(list)
    for path in _inputs(folder):
        suffix = next((s for s in suffixes if path.name.lower().endswith(s)), None)
        if suffix is not None and not path.name.startswith("."):
            paths[path.name[: -len(suffix)]].append(path)
    return paths


def _inputs(folder: AnyPath) -> list[AnyPath]:
    """List the files of a folder; if it is local, zarr stores too, which are folders."""
    if isinstance(folder, Path):
        paths = sorted(folder.iterdir())
        return [p for p in paths if p.is_file() or p.suffix.lower() == ZARR_SUFFIX]
    return [folder / name for name in entries(folder)]
