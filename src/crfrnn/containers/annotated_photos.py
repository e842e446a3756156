"""Which photograph belongs to which image of an annotation file: by name, or by number."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from crfrnn.io.files import IMAGE_SUFFIXES, shorten

from .annotations import AnnotationFile, ImageMasks


@dataclass(frozen=True)
class FoundPhotos:
    """The photographs of the images that have annotations.

    Attributes:
        pairs: an image and its photograph.
        absent: names of images that have no photograph.
        unclear: names of images with an ambiguous photograph, each with the reason.
    """

    pairs: tuple[tuple[ImageMasks, Path], ...]
    absent: tuple[str, ...]
    unclear: dict[str, str]


class _Candidate(NamedTuple):
    """A photograph that may belong to an image.

    Attributes:
        path: the photograph.
        whole: whether the whole name matches, not only the file name without its folders.
    """

    path: Path
    whole: bool


def find_photos(file: AnnotationFile, photos: Path) -> FoundPhotos:
    """Find the photographs of the images that have annotations.

    A file name is looked up with its folders first, then without them. A list of results has no
    names, so its images are looked up by id. Ambiguous matches are left out.

    Args:
        file: the annotations.
        photos: a folder, or one photograph.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no photograph is found.
    """
    wanted = [image for image in file.images if image.places]
    numbers = {}
    if not photos.is_file():
        if not photos.is_dir():
            raise FileNotFoundError(f"{photos}: expected a folder of photographs; there is none")
        if any(image.name is None for image in wanted):
            numbers = _by_number(photos)
    found = [_candidates(image, photos, numbers) for image in wanted]
    if photos.is_file() and len(file.images) == 1:
        found = [[_Candidate(photos, True)] for _ in wanted]
    names = [str(image.name or image.id) for image in wanted]
    exact = {path for candidates in found for path, whole in candidates if whole}
    claims: dict[Path, set[str]] = defaultdict(set)
    for name, candidates in zip(names, found, strict=True):
        for path, _ in candidates:
            claims[path].add(name)
    pairs, absent, unclear = [], [], {}
    for image, name, candidates in zip(wanted, names, found, strict=True):
        if not candidates or (not candidates[0].whole and candidates[0].path in exact):
            absent.append(name)
        elif len(candidates) > 1:
            several = shorten([path.name for path, _ in candidates])
            unclear[name] = f"its number is that of several photographs, {several}; rename them"
        elif not candidates[0].whole and len(claims[candidates[0].path]) > 1:
            rivals = shorten(sorted(claims[candidates[0].path] - {name}))
            unclear[name] = (
                f"{candidates[0].path} may be its photograph, but also that of {rivals}; keep "
                "photographs in folders as the annotations name them"
            )
        else:
            pairs.append((image, candidates[0].path))
    if wanted and not pairs:
        if unclear:
            name, why = next(iter(unclear.items()))
            raise ValueError(f"{file.path}: {name}: {why}")
        raise ValueError(
            f"{photos} has none of the {len(wanted)} photographs that {file.path} annotates, such "
            f"as {absent[0]}"
        )
    return FoundPhotos(tuple(pairs), tuple(absent), unclear)


def _candidates(
    image: ImageMasks, photos: Path, numbers: Mapping[str, list[Path]]
) -> list[_Candidate]:
    if image.name is None:
        return [_Candidate(path, True) for path in numbers.get(str(image.id), [])]
    relative = Path(image.name)
    if photos.is_file():
        if relative.name != photos.name:
            return []
        whole = photos.resolve().parts[-len(relative.parts) :] == relative.parts
        return [_Candidate(photos, whole)]
    inside = not relative.is_absolute() and ".." not in relative.parts
    if inside and (photos / relative).is_file():
        return [_Candidate(photos / relative, True)]
    flat = photos / relative.name
    return [_Candidate(flat, False)] if flat.is_file() else []


def _by_number(folder: Path) -> dict[str, list[Path]]:
    """Index the photographs by number: the whole stem, or else the digits at its end.

    Leading zeros do not count.
    """
    stems: dict[str, list[Path]] = defaultdict(list)
    numbers: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            stems[path.stem].append(path)
            if digits := re.search(r"(\d+)$", path.stem):
                numbers[str(int(digits[1]))].append(path)
    return {**numbers, **stems}
