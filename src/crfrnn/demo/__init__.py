"""A real network's scores of two photographs, refined and drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn._extras import install
from crfrnn.io.files import Picture, make_folder, require_writable, write_image, write_labels
from crfrnn.io.options import ReadOptions, Size
from crfrnn.io.palette import VOC_CLASSES
from crfrnn.io.scores import Scores, read_scores
from crfrnn.offline.inputs import Inputs
from crfrnn.offline.options import RefineOptions
from crfrnn.offline.refine import refine_inputs
from crfrnn.plots.figures import Box, Column, before_after

#: The photographs, and the part of each to enlarge: left, top, width and height.
PHOTOGRAPHS = {"astronaut": (230, 300, 176, 132), "chelsea": (290, 60, 161, 121)}

#: A TensorFlow network (hence the corners) saw the photograph at the top left of this canvas.
READING = ReadOptions(canvas=(513, 513), align_corners=True)


def refine_photographs(
    output: Path, options: RefineOptions, *, advance: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Refine the scores of the photographs, and write label maps and figures.

    Args:
        output: the folder to write to; created if it is missing.
        options: how to refine.
        advance: called after each photograph.

    Returns:
        A record of each photograph, as JSON values.
    """
    photographs = {name: photograph(name) for name in PHOTOGRAPHS}
    make_folder(output)
    require_writable(output / "figure.png")
    records = []
    for name, photo in photographs.items():
        records.append(_refine(name, photo, output, options))
        advance()
    return records


def photograph(name: str) -> np.ndarray:
    """Read one of `PHOTOGRAPHS`, (H, W, 3) uint8, from scikit-image."""
    try:
        import skimage.data
    except ImportError as error:
        message = f"the photographs need scikit-image: {install('demo')}"
        raise ImportError(message) from error
    return np.asarray(getattr(skimage.data, name)())


def network_scores(name: str, size: Size) -> Scores:
    """Read a real network's scores of one of `PHOTOGRAPHS`; `size` is its height and width."""
    with scores_file(name) as path:
        return read_scores(path, size, READING)


def scores_file(name: str) -> AbstractContextManager[Path]:
    """The file of the scores of one of `PHOTOGRAPHS`; read it with `READING`."""
    return as_file(files("crfrnn") / "demo" / "scores" / f"{name}_scores.npz")


def _refine(name: str, photo: np.ndarray, output: Path, options: RefineOptions) -> dict[str, Any]:
    """Refine the scores of one photograph, write its pictures, and return its record."""
    height, width = photo.shape[:2]
    scores = network_scores(name, (height, width))
    start = time.perf_counter()
    refined = refine_inputs(Inputs(photo, "logits", scores.values), options)
    seconds = time.perf_counter() - start
    before = scores.labels()
    record = {
        "photograph": name,
        "pixels": before.size,
        "relabeled": int((refined.labels != before).sum()),
        "seconds": round(seconds, 4),
        "preset": options.preset,
        "filter": options.filter,
        "engine": refined.engine,
    }
    outputs = {part: output / f"{name}_{part}.png" for part in ("figure", "network", "refined")}
    write_labels(outputs["network"], before, classes=len(scores.values))
    write_labels(outputs["refined"], refined.labels, classes=len(scores.values))
    write_image(outputs["figure"], _figure(photo, before, refined.labels, record))
    return {**record, "outputs": {part: str(path) for part, path in outputs.items()}}


def _figure(
    photo: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    record: dict[str, Any],
) -> Picture:
    share = record["relabeled"] / record["pixels"]
    return before_after(
        photo,
        [
            Column("Photograph"),
            Column("Network: 33 x 33 scores, upsampled", before),
            Column("After the dense CRF", after),
        ],
        box=Box(*PHOTOGRAPHS[record["photograph"]]),
        names=VOC_CLASSES,
        caption=f"crfrnn refine, preset {record['preset']}: {share:.1%} of the pixels relabeled "
        f"in {record['seconds']:.2f} s ({record['engine']} engine, {record['filter']})",
    )
