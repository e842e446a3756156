"""COCO annotations: masks of an image out of a JSON file, and refined ones back into it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn._extras import load
from crfrnn.io.files import describe, write_text
from crfrnn.io.trees import read_json_file

#: Polygons with corners farther outside than this many image sizes are damage, not rounding: the
#: outline is drawn pixel by pixel, so a corner at 1e9 would take all memory.
_MOST_OUTSIDE = 4


@dataclass(frozen=True)
class ImageMasks:
    """An image of an annotation file, and its annotations.

    Attributes:
        id: of the image.
        name: its file name, with folders if the file has them; None in a file of results.
        size: height and width.
        places: where its annotations are in the list of the file.
    """

    id: Any
    name: str | None
    size: tuple[int, int] | None
    places: tuple[int, ...]


@dataclass(frozen=True)
class Masks:
    """Masks of an image that can be refined.

    Attributes:
        masks: (K, H, W) bool.
        places: where the annotation of each is in the list of the file.
    """

    masks: np.ndarray
    places: tuple[int, ...]


@dataclass
class AnnotationFile:
    """A COCO file of instances, or a list of results, with every key that it has.

    Example:
        >>> from pathlib import Path
        >>> from crfrnn.containers.annotations import AnnotationFile
        >>> box = {"size": [2, 3], "counts": [2, 2, 2]}
        >>> tree = [{"image_id": 7, "category_id": 1, "segmentation": box, "score": 0.5}]
        >>> file = AnnotationFile(Path("results.json"), tree)
        >>> file.images[0].id, file.masks(file.images[0], (2, 3)).masks[0].tolist()
        (7, [[False, True, False], [False, True, False]])
    """

    path: Path
    tree: Any
    images: tuple[ImageMasks, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Check the structure and group the annotations by image."""
        self.annotations: list[dict[str, Any]] = _annotations(self.path, self.tree)
        places: dict[Any, list[int]] = defaultdict(list)
        for place, annotation in enumerate(self.annotations):
            if "image_id" not in annotation:
                raise ValueError(f"{self.path}: {_name(annotation, place)} has no image_id")
            _check_id(self.path, _name(annotation, place), "image_id", annotation["image_id"])
            places[annotation["image_id"]].append(place)
        if isinstance(self.tree, list):
            self.images = tuple(
                ImageMasks(number, None, None, tuple(listed)) for number, listed in places.items()
            )
            return
        images = [_image(self.path, entry, places) for entry in self.tree["images"]]
        unknown = places.keys() - {image.id for image in images}
        if unknown:
            raise ValueError(
                f"{self.path}: annotations of images that it does not list: "
                f"{', '.join(map(str, sorted(unknown, key=str)[:3]))}"
            )
        self.images = tuple(images)

    def masks(self, image: ImageMasks, size: tuple[int, int]) -> Masks:
        """Return the masks of an image that can be refined.

        Crowds, which mark regions to ignore, annotations without a segmentation, and empty masks
        are left out: they stay as they are.

        Args:
            image: one of `images`.
            size: height and width of the photograph.

        Raises:
            ValueError: a segmentation is damaged, or of another size.
        """
        if image.size is not None and image.size != size:
            raise ValueError(
                f"{self.path}: image {image.id} has {image.size[1]} x {image.size[0]} pixels, the "
                f"photograph {size[1]} x {size[0]}; if it is turned by EXIF, give --apply-exif"
            )
        chosen, places = [], []
        for place in image.places:
            annotation = self.annotations[place]
            segmentation = annotation.get("segmentation")
            if not segmentation or annotation.get("iscrowd"):
                continue
            try:
                mask = to_mask(segmentation, size)
            except (ValueError, TypeError) as error:
                name = _name(annotation, place)
                raise ValueError(f"{self.path}: {name}: {describe(error)}") from error
            if mask.any():
                chosen.append(mask)
                places.append(place)
        stacked = np.stack(chosen) if chosen else np.zeros((0, *size), np.bool_)
        return Masks(stacked, tuple(places))

    def replace(self, place: int, mask: np.ndarray) -> dict[str, Any]:
        """Return what changes in an annotation for a new mask: segmentation, area and bbox.

        Polygons and compressed runs become compressed runs; lists of runs stay lists. `area` and
        `bbox` are there if the annotation has them.
        """
        old = self.annotations[place]
        codec = load("pycocotools.mask", "coco", self.path)
        run_lengths = codec.encode(np.asfortranarray(mask.astype(np.uint8)))
        segmentation = {**run_lengths, "counts": run_lengths["counts"].decode("ascii")}
        given = old["segmentation"]
        if isinstance(given, dict):
            if isinstance(given["counts"], list):
                segmentation["counts"] = runs_of(mask)
            segmentation = {**given, **segmentation}
        changed: dict[str, Any] = {"segmentation": segmentation}
        if "area" in old:
            area = int(mask.sum())
            changed["area"] = float(area) if isinstance(old["area"], float) else area
        if "bbox" in old:
            changed["bbox"] = codec.toBbox(run_lengths).tolist()
        return changed

    def write(self, path: Path, changes: Mapping[int, Mapping[str, Any]]) -> None:
        """Write the file with some annotations changed; all else, and its order, stays.

        Args:
            path: the file to write.
            changes: by the annotation's place in the list, keys and their new values.
        """
        annotations = [
            {**annotation, **changes.get(place, {})}
            for place, annotation in enumerate(self.annotations)
        ]
        is_list = isinstance(self.tree, list)
        tree = annotations if is_list else {**self.tree, "annotations": annotations}
        write_text(path, json.dumps(tree))


def read_annotations(path: Path) -> AnnotationFile:
    """Read a COCO file of instances, or a list of results.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or has another structure.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected COCO annotations, but there is no such file")
    return AnnotationFile(path, read_json_file(path))


def to_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Return the mask (H, W) of a segmentation: polygons, compressed runs, or a list of runs.

    Polygons are cut off at the image. Nothing damaged reaches the library that draws them.

    Raises:
        ValueError: the runs do not add up to the image, or are of another size; a polygon is none.

    Example:
        >>> from crfrnn.containers.annotations import to_mask
        >>> to_mask({"size": [2, 2], "counts": [1, 2, 1]}, (2, 2)).tolist()
        [[False, True], [True, False]]
    """
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, size)
    if not isinstance(segmentation, list):
        raise ValueError(
            f"a segmentation must be polygons or runs; got {type(segmentation).__name__}"
        )
    height, width = size
    for polygon in segmentation:
        _check_polygon(polygon, size)
    codec = load("pycocotools.mask", "coco", "a polygon of COCO annotations")
    return _from_runs(codec.merge(codec.frPyObjects(segmentation, height, width)), size)


def runs_of(mask: np.ndarray) -> list[int]:
    """Return the lengths of the runs of a mask, down its columns, the first one outside."""
    flat = mask.reshape(-1, order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs: list[int] = np.diff([0, *ends.tolist(), flat.size]).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


def _from_runs(segmentation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    stated, counts = segmentation.get("size"), segmentation.get("counts")
    if stated is not None and list(stated) != list(size):
        raise ValueError(
            f"its runs are of an image of {stated} (height, width); the photograph has {list(size)}"
        )
    runs: Any = _decompress(counts) if isinstance(counts, (str, bytes)) else counts
    whole = isinstance(runs, list) and all(
        isinstance(run, int) and not isinstance(run, bool) and run >= 0 for run in runs
    )
    if not whole:
        raise ValueError("runs must be whole numbers from 0 on, or their compressed string")
    total, pixels = sum(runs), size[0] * size[1]
    if total != pixels:
        raise ValueError(f"its runs cover {total} pixels, but the image has {pixels}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size, order="F")


def _decompress(text: str | bytes) -> list[int]:
    """Return the runs that a compressed string holds.

    A number is written in groups of 5 bits, the lowest first, as the characters from "0" on; 32
    marks that more groups follow, and 16 in the last group a negative number. From the fourth run
    on, the number is the difference to the run before the last.
    """
    data = text.encode("ascii", "replace") if isinstance(text, str) else text
    runs: list[int] = []
    number = shift = 0
    for byte in data:
        group = byte - 48
        if not 0 <= group < 64 or shift > 60:
            raise ValueError("its compressed runs are damaged")
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    if shift:
        raise ValueError("its compressed runs end in the middle of a number")
    return runs


def _check_polygon(polygon: Any, size: tuple[int, int]) -> None:
    is_list = isinstance(polygon, list) and all(
        isinstance(number, (int, float)) and not isinstance(number, bool) for number in polygon
    )
    if not is_list or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("a polygon must be a list of at least three x, y pairs")
    corners = np.array(polygon, np.float64)
    most = _MOST_OUTSIDE * max(size)
    if not np.isfinite(corners).all() or np.abs(corners).max() > most:
        raise ValueError(
            f"a polygon has corners up to {np.abs(corners).max():.4g}, far outside of the image of "
            f"{size[1]} x {size[0]} pixels"
        )


def _annotations(path: Path, tree: Any) -> list[dict[str, Any]]:
    listed = tree.get("annotations") if isinstance(tree, dict) else tree
    complete = isinstance(tree, list) or (
        isinstance(tree, dict) and isinstance(tree.get("images"), list)
    )
    if (
        not complete
        or not isinstance(listed, list)
        or not all(isinstance(annotation, dict) for annotation in listed)
    ):
        raise ValueError(
            f"{path}: expected COCO instances, an object with the lists `images` and "
            "`annotations`, or a list of results"
        )
    return listed


def _image(path: Path, entry: Any, places: Mapping[Any, Sequence[int]]) -> ImageMasks:
    if not isinstance(entry, dict) or "id" not in entry or "file_name" not in entry:
        raise ValueError(f"{path}: an image must have an id and a file_name; got {entry!r:.80}")
    _check_id(path, "an image", "id", entry["id"])
    size: Any = (entry.get("height"), entry.get("width"))
    if not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"{path}: image {entry['id']} must have a height and a width; got {size}")
    return ImageMasks(
        entry["id"], str(entry["file_name"]), size, tuple(places.get(entry["id"], ()))
    )


def _check_id(path: Path, owner: str, key: str, value: Any) -> None:
    if not isinstance(value, (int, float, str)):
        raise ValueError(
            f"{path}: {owner} must have a number or a string as {key}; got {value!r:.80}"
        )


def _name(annotation: Mapping[str, Any], place: int) -> str:
    return f"annotation {annotation['id']}" if "id" in annotation else f"annotation no. {place + 1}"
