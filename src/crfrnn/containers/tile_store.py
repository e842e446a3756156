"""The finished tiles of an image that is not finished: a folder beside the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn.io.files import describe, write_text
from crfrnn.io.trees import read_json_file

from .source import Window
from .tiling import Plan

_PLAN = "plan.json"


def tiles_folder(output: Path) -> Path:
    """Name the folder that holds the tiles of a result."""
    return output.with_name(f".{output.name}.tiles")


def prepare(folder: Path, plan: Plan, origin: dict[str, Any]) -> tuple[Plan, set[int]]:
    """Make the folder of tiles; return the plan of an interrupted run, and the tiles it finished.

    The plan may have come from the memory, so an earlier one is taken over if all else is the same,
    unless its tiles are larger: a run that was killed for its memory is given less.
    """
    earlier = finished(folder, plan, origin)
    if earlier is not None:
        return earlier
    remove(folder)
    folder.mkdir()
    text = json.dumps({"origin": origin, "counts": plan.counts, "overlap": plan.overlap})
    write_text(folder / _PLAN, text)
    return plan, set()


def finished(folder: Path, plan: Plan, origin: dict[str, Any]) -> tuple[Plan, set[int]] | None:
    """Return the plan of an interrupted run and the tiles that it finished; None to start anew."""
    try:
        stored = read_json_file(folder / _PLAN)
        if stored["origin"] == origin and stored["overlap"] == plan.overlap:
            old = replace(plan, counts=tuple(stored["counts"]))
            numbers = range(len(old))
            wanted = ("labels", "probs") if origin["probs"] else ("labels",)
            done = {
                n for n in numbers if all(tile_path(folder, n, what).is_file() for what in wanted)
            }
            if done and old.most_pixels() <= plan.most_pixels():
                return old, done
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def copy_tiles(
    plan: Plan, folder: Path, what: str, write: Callable[[Window, np.ndarray], None]
) -> None:
    """Write all tiles to a result; a damaged one is removed and named, so that it is done again."""
    for number, tile in enumerate(plan.tiles()):
        path = tile_path(folder, number, what)
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            for each in ("labels", "probs"):
                tile_path(folder, number, each).unlink(missing_ok=True)
            raise ValueError(
                f"{path}: this tile is damaged ({describe(error)}); give the same command again"
            ) from error
        write(tile.core, values if values.ndim == 3 else values[None])


def tile_path(folder: Path, number: int, what: str) -> Path:
    """Name the file of a tile's "labels" or "probs"; its labels are written last."""
    return folder / f"{number}.{what}.npy"


def remove(folder: Path) -> None:
    """Remove the folder and its tiles."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
