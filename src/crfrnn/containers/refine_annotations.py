"""Refining the masks of a COCO file: those of an image together, resumed image by image."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from crfrnn._extras import load
from crfrnn.core.threads import limit_threads, limited_threads, threads
from crfrnn.io.files import (
    describe,
    make_folder,
    read_image,
    require_writable,
    write_image,
)
from crfrnn.io.locks import claimed
from crfrnn.io.options import DEFAULTS, ReadOptions
from crfrnn.io.trees import read_json
from crfrnn.offline.inputs import Inputs
from crfrnn.offline.options import RefineOptions
from crfrnn.offline.refine import refine_inputs

from .annotated_photos import find_photos
from .annotations import AnnotationFile, ImageMasks, read_annotations

#: More images at a time would need much memory and gain little.
_MOST_WORKERS = 8
#: Masks of an image are refined in groups of this many pixels in all: about 1 GB.
_MOST_PIXELS = 1 << 27

Change = dict[str, Any]


@dataclass(frozen=True)
class RefinedAnnotations:
    """What `refine_annotations` returns.

    Attributes:
        images: number of photographs whose masks were refined now.
        masks: number of these masks.
        resumed: number of photographs that an interrupted run had refined.
        relabeled: share of the masks' pixels that the CRF changed, of those refined now, relative
            to their area before.
        absent: names of images that have no photograph; their annotations stay as they were.
        failed: for each image that failed, its name and why; its annotations stay as they were.
        seconds: time taken.
    """

    images: int
    masks: int
    resumed: int
    relabeled: float
    absent: tuple[str, ...]
    failed: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class FoundAnnotations:
    """What `find_annotations` returns.

    Attributes:
        annotations: number of annotations in the file.
        masks: how many of them have a segmentation, are no crowd, and have a photograph. Empty ones
            among them stay as they are.
        photographs: number of photographs with annotations.
        absent: names of annotated images that have no photograph.
        unclear: names of those with an ambiguous photograph, each with the reason.
    """

    annotations: int
    masks: int
    photographs: int
    absent: tuple[str, ...]
    unclear: dict[str, str]


def find_annotations(photos: str | Path, annotations: str | Path) -> FoundAnnotations:
    """Read a COCO file and look for its photographs, and refine nothing.

    The arguments and errors are those of `refine_annotations`.
    """
    load("pycocotools.mask", "coco", annotations)
    file = read_annotations(Path(annotations))
    found = find_photos(file, Path(photos))
    entries = [file.annotations[place] for image, _ in found.pairs for place in image.places]
    masks = sum(bool(e.get("segmentation")) and not e.get("iscrowd") for e in entries)
    return FoundAnnotations(
        len(file.annotations), masks, len(found.pairs), found.absent, found.unclear
    )


@dataclass(frozen=True)
class _Job:
    """One photograph: its entry in the file, and where it lies."""

    image: ImageMasks
    photo: Path

    def key(self) -> list[Any]:
        """Return what identifies it in the journal; a photograph that changed is done again."""
        stat = self.photo.stat()
        return [self.image.id, stat.st_size, stat.st_mtime_ns]

    def overlay(self, photos: Path, overlay: Path | None) -> Path | None:
        """Return the picture to draw: `overlay` itself if `photos` is a file, else a file in it."""
        if overlay is None or photos.is_file():
            return overlay
        return overlay / self.photo.relative_to(photos).with_suffix(".png")


@dataclass
class _Done:
    """The outcome for one photograph."""

    changes: dict[int, Change] = field(default_factory=dict)
    masks: int = 0
    flipped: int = 0
    area: int = 0


def refine_annotations(
    photos: str | Path,
    annotations: str | Path,
    output: str | Path,
    *,
    overlay: str | Path | None = None,
    refining: RefineOptions | None = None,
    reading: ReadOptions = DEFAULTS,
    workers: int | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> RefinedAnnotations:
    """Refine the masks of a COCO file, and write a copy of the file with the refined masks.

    The masks of a photograph are refined as `refine(photo, masks=...)` does, on one lattice. Every
    key of the file stays, and so does the order; `segmentation`, `area` and `bbox` of the refined
    masks change. Crowds, empty masks and annotations without a segmentation stay as they are.

    Until all photographs are done, a journal beside the output, `.NAME.journal`, holds the finished
    ones. After an interruption, or once you replaced photographs that failed or were missing, the
    same call continues from there.

    Args:
        photos: one photograph, or a folder of photographs with the file names that the annotations
            give, with or without the folders in these names. A list of results gives no names;
            there the number at the end of a file's stem is the image's id. An image with
            an ambiguous photograph fails.
        annotations: a COCO file of instances, with polygons or runs, or a list of results.
        output: the JSON file to write.
        overlay: also draw the refined masks over each photograph: a folder for the pictures, or if
            `photos` is one photograph, a `.png` or `.jpg`. Later masks lie over earlier ones.
        refining: how to refine; default: the preset "deeplab". `confidence` is the probability that
            a pixel of a mask is right.
        reading: how to read photographs: `apply_exif` and `max_pixels`.
        workers: number of photographs at a time; default: one per thread, at most 8.
        advance: called after each photograph with the number done and the number of all.

    Raises:
        ImportError: pycocotools is not installed.
        ValueError: the file is damaged, none of its photographs is there, or another job is writing
            the same output.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from PIL import Image
        >>> from crfrnn.containers.refine_annotations import refine_annotations
        >>> folder = Path(tempfile.mkdtemp())
        >>> picture = np.zeros((20, 30, 3), np.uint8); picture[:, 15:] = 200
        >>> Image.fromarray(picture).save(folder / "a.png")
        >>> box = [[12.0, 0, 30, 0, 30, 20, 12, 20]]  # three pixels too wide
        >>> tree = {"images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        ...         "annotations": [{"id": 5, "image_id": 1, "segmentation": box, "area": 360.0}]}
        >>> _ = (folder / "in.json").write_text(json.dumps(tree))
        >>> result = refine_annotations(folder, folder / "in.json", folder / "out.json")
        >>> json.loads((folder / "out.json").read_text())["annotations"][0]["area"]
        300.0
    """
    start = time.perf_counter()
    photos, annotations, output = Path(photos), Path(annotations), Path(output)
    refining = refining or RefineOptions()
    load("pycocotools.mask", "coco", annotations)
    file = read_annotations(annotations)
    if output.resolve() == annotations.resolve():
        raise ValueError(f"{output} is the file of annotations; write the result elsewhere")
    if overlay is not None and Path(overlay).resolve() == photos.resolve():
        raise ValueError(f"{overlay} holds the photographs; write the overlays elsewhere")
    require_writable(output)
    found = find_photos(file, photos)
    jobs = [_Job(image, path) for image, path in found.pairs]
    pictures = {
        job: job.overlay(photos, None if overlay is None else Path(overlay)) for job in jobs
    }
    for picture in pictures.values():
        if picture is not None:
            make_folder(picture.parent)
    journal = output.with_name(f".{output.name}.journal")
    changes: dict[int, Change] = {}
    failed: dict[str, str] = {}
    masks = flipped = area = count = 0
    with claimed(output, "refine"):
        with _journal(journal, _origin(file, refining, reading)) as (earlier, log):
            waiting = []
            for job in jobs:
                old = earlier.get(json.dumps(job.key()))
                picture = pictures[job]
                if old is None or (picture is not None and not picture.is_file()):
                    waiting.append(job)
                else:
                    changes |= {int(place): change for place, change in old.items()}

            def work(job: _Job) -> _Done:
                return _refine_image(file, job, pictures[job], refining, reading)

            for job, outcome in _outcomes(waiting, work, workers):
                if isinstance(outcome, Exception):
                    failed[job.photo.name] = describe(outcome)
                else:
                    log.write(f"{json.dumps({'key': job.key(), 'changes': outcome.changes})}\n")
                    log.flush()
                    changes |= outcome.changes
                    masks, flipped = masks + outcome.masks, flipped + outcome.flipped
                    area += outcome.area
                    count += 1
                if advance is not None:
                    advance(len(jobs) - len(waiting) + count + len(failed), len(jobs))
        file.write(output, changes)
        failed = {**found.unclear, **failed}
        if not failed and (photos.is_file() or not found.absent):
            journal.unlink()
    return RefinedAnnotations(
        images=count,
        masks=masks,
        resumed=len(jobs) - len(waiting),
        relabeled=flipped / max(area, 1),
        absent=found.absent,
        failed=failed,
        seconds=round(time.perf_counter() - start, 3),
    )


def _refine_image(
    file: AnnotationFile,
    job: _Job,
    picture: Path | None,
    refining: RefineOptions,
    reading: ReadOptions,
) -> _Done:
    photo = read_image(job.photo, apply_exif=reading.apply_exif, max_pixels=reading.max_pixels)
    given = file.masks(job.image, photo.shape[:2])
    done, drawn = _Done(), np.zeros(photo.shape[:2], np.int64)
    group = max(1, _MOST_PIXELS // (photo.shape[0] * photo.shape[1]))
    for begin in range(0, len(given.masks), group):
        part = given.masks[begin : begin + group]
        places = given.places[begin : begin + group]
        labels = refine_inputs(Inputs(photo, "masks", part, channels_last=True), refining).labels
        for place, mask in zip(places, labels, strict=True):
            done.changes[place] = file.replace(place, np.asarray(mask))
            drawn[mask] = len(done.changes)
        done.masks += len(part)
        done.flipped += int((labels != part).sum())
        done.area += int(part.sum())
    if picture is not None:
        from crfrnn.plots.figures import overlay

        write_image(picture, overlay(photo.astype(np.uint8), drawn))
    return done


def _outcomes(
    jobs: list[_Job], work: Callable[[_Job], _Done], workers: int | None
) -> Iterator[tuple[_Job, _Done | Exception]]:
    """Work on photographs in threads, which divide the processors; yield what comes of each."""
    if not jobs:
        return
    budget = threads()
    workers = min(workers or min(budget, _MOST_WORKERS), len(jobs))
    share = max(1, budget // workers)
    with limited_threads(share):
        pool = ThreadPoolExecutor(workers, initializer=limit_threads, initargs=(share,))
        try:
            futures = {pool.submit(work, job): job for job in jobs}
            for future in as_completed(futures):
                error = future.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield futures.pop(future), error or future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _origin(file: AnnotationFile, refining: RefineOptions, reading: ReadOptions) -> str:
    """Return a digest of everything but the photographs that the result depends on."""
    settings = json.dumps([refining.parameters(), reading.apply_exif], sort_keys=True, default=str)
    digest = hashlib.sha256(settings.encode())
    digest.update(file.path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _journal(path: Path, origin: str) -> Iterator[tuple[dict[str, Any], IO[str]]]:
    """Open the journal of a job; yield what an earlier run with the same origin had done."""
    done: dict[str, Any] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [json.dumps({"origin": origin})]
    if lines and lines[0] == kept[0]:
        for line in lines[1:]:
            try:
                entry = read_json(line)
                done[json.dumps(entry["key"])] = entry["changes"]
            except (ValueError, KeyError, TypeError):
                continue  # cut off when the process was killed
            kept.append(line)
    part = path.with_name(f"{path.name}.part")
    part.write_text("\n".join([*kept, ""]), encoding="utf-8")
    part.replace(path)
    try:
        with path.open("a", encoding="utf-8") as log:
            yield done, log
            log.flush()
            os.fsync(log.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
