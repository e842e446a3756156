"""Looking at the files of a job before any work: what they hold, and whether the options can work.

The files of a job have one kind and one number of classes, which are reported first.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn.io.copies import Copies
from crfrnn.io.files import describe, image_size, read_image, shorten
from crfrnn.io.notes import spell_size
from crfrnn.io.options import Kind, ReadOptions, Size
from crfrnn.io.paths import AnyPath, Remote
from crfrnn.io.progress import Progress
from crfrnn.io.score_kinds import MANY_CLASSES, Ambiguous
from crfrnn.io.scores import Glance, glance
from crfrnn.offline.device import PROCESSORS, refine_on
from crfrnn.offline.inputs import Inputs
from crfrnn.offline.options import RefineOptions

from .settings import Settings

#: Files of scores to look at. Label maps and masks are small, so all of them are looked at.
_LOOK_AT = 8
_AT_ONCE = 8
_IDS_SHOWN = 8
_SMALL_MAPS = ("labels", "mask")


@dataclass(frozen=True)
class Understood:
    """What the files of a job hold.

    Attributes:
        kind: of all files of scores.
        why: what shows it.
        classes: C; 1 for a mask; K for independent masks.
        ids: those that occur in the label maps, without the id of unknown pixels.
        shape: of the first file of scores.
        axes: of the shape, such as "(C, h, w)".
        low: the smallest value.
        high: the largest.
        file: the first file of scores.
        files: how many there are.
        image: height and width of its photograph.
        guide: type, smallest and largest value of the photograph, as refined.
        note: the first assumption about the place of scores in an image; "" if there is none.
    """

    kind: Kind
    why: str
    classes: int
    ids: tuple[int, ...]
    shape: tuple[int, ...]
    axes: str
    low: float
    high: float
    file: str
    files: int
    image: Size
    guide: tuple[str, float, float]
    note: str = ""

    def lines(self) -> list[str]:
        """Say what the files hold, at the beginning of a job."""
        first = f" (first of {self.files} files: {self.file})" if self.files > 1 else ""
        kind, low, high = self.guide
        return [
            f"scores: {self.kind}, because {self.why}; {self.axes} = {self.shape}, values "
            f"{self.low:.6g} to {self.high:.6g}{first}",
            f"classes: {self._classes()}",
            f"image: {spell_size(self.image)} (height x width), {kind}, values {low:.4g} to "
            f"{high:.4g}",
        ]

    def _classes(self) -> str:
        if self.kind == "mask" or (self.classes == 1 and self.kind != "masks"):
            return "foreground and background"
        if self.kind == "masks":
            return f"{self.classes} masks, each against its background"
        if self.kind != "labels":
            return str(self.classes)
        if not self.ids:
            return str(self.classes)
        ids = shorten(self.ids, _IDS_SHOWN)
        return f"{self.classes}, of which {len(self.ids)} occur: {ids}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            **asdict(self),
            "guide": dict(zip(("type", "low", "high"), self.guide, strict=True)),
        }


def survey(
    pairs: Sequence[tuple[AnyPath, AnyPath]], settings: Settings, *, here: bool = True
) -> Understood:
    """Look at the files of a job.

    Args:
        pairs: photographs and their scores.
        settings: how they will be read and refined.
        here: whether this process will refine them, on its own device.

    Raises:
        ValueError: the kind is unclear, the files are of several kinds, or an option or the device
            cannot work with them.
    """
    settled = _is_settled(settings)
    looks = _look(pairs, settings.reading, settled=settled)
    kind, why = _kind(looks, settings.reading)
    if kind == "labels" and len(looks) < len(pairs) and not settled:
        looks = _look(pairs, settings.reading, everywhere=True)
    image, path = next((pair for pair in pairs if pair[1] in looks), pairs[0])
    first = looks[path]
    unknown = settings.refining.ignore_index
    ids: tuple[int, ...] = ()
    if kind == "labels" and not settled:
        ids = tuple(sorted({i for look in looks.values() for i in look.ids if i != unknown}))
    classes = _classes(kind, first, ids, settings.refining)
    reading = settings.reading
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come when the file is refined
        with Copies() as copies:
            photo = read_image(
                copies.fetch(image), apply_exif=reading.apply_exif, max_pixels=reading.max_pixels
            )
    understood = Understood(
        kind=kind,
        why=why,
        classes=classes,
        ids=ids,
        shape=first.shape,
        axes=_axes(first),
        low=first.low,
        high=first.high,
        file=path.name,
        files=len(pairs),
        image=(photo.shape[0], photo.shape[1]),
        guide=("8 bits" if photo.dtype == np.uint8 else "16 bits, as floats", *_range(photo)),
        note=next((f"{path.name} {look.note}" for path, look in looks.items() if look.note), ""),
    )
    _rehearse(kind, classes, settings, ids, here=here)
    _check_canvas(pairs, settings.reading)
    return understood


def settle(settings: Settings, understood: Understood) -> Settings:
    """Return the settings with what all files of the job share: their kind and their ids."""
    return replace(settings, job_kind=understood.kind, ids=understood.ids or None)


def _is_settled(settings: Settings) -> bool:
    """Whether the options already say what label maps and masks would be looked at for.

    With two classes, all maps together decide what 255 means.
    """
    kind, classes = settings.reading.kind, settings.refining.num_classes
    return kind == "mask" or (kind == "labels" and classes is not None and classes > 2)


def _look(
    pairs: Sequence[tuple[AnyPath, AnyPath]],
    reading: ReadOptions,
    *,
    everywhere: bool = False,
    settled: bool = False,
) -> dict[AnyPath, Glance]:
    """Look at some files: eight, spread evenly, and all if they are label maps or masks.

    Args:
        pairs: photographs and their scores.
        reading: how to read.
        everywhere: look at all.
        settled: look at eight, whatever they are.
    """
    step = max(1, len(pairs) // _LOOK_AT)
    chosen = list(pairs) if everywhere else list(pairs[::step][:_LOOK_AT])
    looks: dict[AnyPath, Glance] = {}
    problems: list[Exception] = []
    few = len(chosen) <= _LOOK_AT
    # Reading from a bucket is mostly waiting.
    at_once = _AT_ONCE if any(isinstance(path, Remote) for path in chosen[0]) else 1
    with (
        Progress("looking at", len(chosen), "files", quiet=few) as progress,
        ThreadPoolExecutor(at_once) as pool,
    ):
        found = pool.map(lambda pair: _glance(pair[0], pair[1], reading), chosen)
        for (_, scores), look in zip(chosen, found, strict=True):
            if isinstance(look, Glance):
                looks[scores] = look
            else:
                problems.append(look)  # of the file, which is reported when its turn comes
            progress.advance()
    small = any(look.kind in _SMALL_MAPS for look in looks.values())
    if small and len(chosen) < len(pairs) and not settled:
        return _look(pairs, reading, everywhere=True)
    unclear = [error for error in problems if isinstance(error, Ambiguous)]
    if not any(look.firm for look in looks.values()) and unclear:
        raise unclear[0]
    if not looks:
        raise problems[0]
    return looks


def _glance(image: AnyPath, scores: AnyPath, reading: ReadOptions) -> Glance | Exception:
    try:
        with Copies() as copies:
            return glance(copies.fetch(scores), _size(copies.fetch(image), reading), reading)
    except (ValueError, TypeError, OSError) as error:
        return error


def _kind(looks: dict[AnyPath, Glance], reading: ReadOptions) -> tuple[Kind, str]:
    """Return the kind of all files, and why; firm evidence in one file decides for all."""
    named: dict[Kind, list[AnyPath]] = defaultdict(list)
    for firm in (True, False):
        for path, look in looks.items():
            if look.firm == firm:
                named[look.kind].append(path)
        if named:
            break
    if len(named) > 1 and not firm:
        named = {kind: paths for kind, paths in named.items() if kind == "mask"} or named
    if len(named) > 1:
        listed = "; ".join(
            f"{kind} ({shorten([path.name for path in paths])})" for kind, paths in named.items()
        )
        raise ValueError(
            f"the files of scores seem to be of several kinds: {listed}. If all are of one kind, "
            "give --kind; otherwise put each kind into its own folder"
        )
    kind, paths = next(iter(named.items()))
    return kind, looks[paths[0]].why


def _classes(kind: Kind, first: Glance, ids: tuple[int, ...], options: RefineOptions) -> int:
    given = options.num_classes
    if kind != "labels":
        count = first.classes or 1
        if given is not None and kind in ("logits", "probs", "energy") and given != max(count, 2):
            raise ValueError(f"--classes is {given}, but the scores have {count} classes")
        return count
    if given is not None:
        return given
    highest = max(ids, default=0)
    if highest >= MANY_CLASSES:
        raise ValueError(
            f"label maps with ids up to {highest} would mean {highest + 1} classes; renumber the "
            "ids, or give --classes N if there are that many"
        )
    return max(highest + 1, 2)


def _axes(first: Glance) -> str:
    if len(first.shape) == 2:
        return "(h, w)"
    letter = "K" if first.kind == "masks" else "C"
    shape = first.shape[1:] if len(first.shape) == 4 else first.shape
    last = shape[1:] != first.cells and shape[:2] == first.cells
    axes = f"h, w, {letter}" if last else f"{letter}, h, w"
    return f"(1, {axes})" if len(first.shape) == 4 else f"({axes})"


def _size(image: Path, reading: ReadOptions) -> Size:
    return image_size(image, apply_exif=reading.apply_exif)


def _range(photo: np.ndarray) -> tuple[float, float]:
    return float(photo.min()), float(photo.max())


def _rehearse(
    kind: Kind, count: int, settings: Settings, ids: tuple[int, ...], *, here: bool
) -> None:
    """Rehearse on processors, where an error is about the options, and then on the device."""
    options, device = settings.refining, settings.device
    if device == PROCESSORS:
        rehearse(kind, count, options, ids)
        return
    rehearse(kind, count, replace(options, engine=None), ids)
    if not here:
        return
    try:
        rehearse(kind, count, options, ids, device)
    except Exception as error:  # torch raises several kinds
        raise ValueError(
            f"the device {device} cannot refine these scores: {describe(error)}. Refine on "
            "processors, which is the default"
        ) from error


def rehearse(
    kind: Kind,
    count: int,
    options: RefineOptions,
    ids: tuple[int, ...] = (),
    device: str = PROCESSORS,
) -> None:
    """Refine two by two pixels, so that an option that cannot work fails before the first file."""
    name: str = {"mask": "probs"}.get(kind, kind)
    scores: np.ndarray
    if kind == "labels":
        scores = np.full((2, 2), max(ids, default=0))
    elif kind == "masks":
        scores = np.zeros((count, 2, 2), bool)
    else:
        scores = np.full((count, 2, 2), 1 / max(count, 2), np.float32)
        name = "logits" if name == "energy" else name
    image = np.zeros((2, 2, 3), np.uint8)
    refine_on(device, Inputs(image, name, scores, channels_last=True, ids=ids or None), options)


def _check_canvas(pairs: Sequence[tuple[AnyPath, AnyPath]], reading: ReadOptions) -> None:
    if reading.canvas is None:
        return
    large = []
    for image, _ in pairs:
        if isinstance(image, Remote):
            continue  # it is checked when its turn comes
        try:
            size = _size(image, reading)
        except (OSError, ValueError):
            continue
        if size[0] > reading.canvas[0] or size[1] > reading.canvas[1]:
            large.append(f"{image.name} ({spell_size(size)})")
    if large:
        raise ValueError(
            f"the canvas {spell_size(reading.canvas)} must not be smaller than an image (height x "
            f"width); {len(large)} of {len(pairs)} are larger: {shorten(large)}"
        )
