"""Going on where an interrupted folder run stopped, and only if that is safe."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from crfrnn.io.files import PART_SUFFIX, describe, make_folder, require_writable, write_text

from ._job import Outputs
from ._pairs import Pair
from ._settings import Settings

#: A file is written in far less time than this; an older partial one was left by a killed run.
_STALE_SECONDS = 60


def manifest_name(command: str) -> str:
    """What the file is called that says how a folder's results were made."""
    return f"crfrnn-{command}.json"


def is_done(pair: Pair, command: str) -> bool:
    """Whether all outputs are there, newer than image, scores and manifest.

    A file that is there is whole, since it is only moved there when it is.
    """
    paths = pair.outputs.paths().values()
    if not all(path.is_file() for path in paths):
        return False
    sources = (pair.image, pair.scores, pair.outputs.labels.with_name(manifest_name(command)))
    oldest = min(path.stat().st_mtime_ns for path in paths)
    return oldest >= max(path.stat().st_mtime_ns for path in sources)


def prepare(
    images: Path,
    scores: Path,
    pairs: Sequence[Pair],
    folders: Outputs,
    settings: Settings,
    *,
    command: str,
    overwrite: bool,
) -> None:
    """Make the output folders and their manifest, or raise if they hold something else.

    Args:
        images: folder of photographs.
        scores: folder of scores, or the model.
        pairs: what is to be refined.
        folders: where to.
        settings: how.
        command: by which command.
        overwrite: accept results of other parameters. The manifest is then written anew, which
            makes them older than it and so not done, also for a later run that goes on.
    """
    _require_apart(images, scores, folders)
    for folder in folders.paths().values():
        make_folder(folder)
    manifest = folders.labels / manifest_name(command)
    require_writable(manifest)
    there = [path for pair in pairs for path in pair.outputs.paths().values() if path.exists()]
    wanted = _describe(images, scores, settings)
    if not overwrite:
        _require_same(manifest, wanted, there, command)
    _remove_stale_parts(folders)
    if overwrite or not manifest.exists():
        write_text(manifest, f"{json.dumps(wanted, indent=2)}\n")


def _describe(images: Path, scores: Path, settings: Settings) -> dict[str, Any]:
    try:
        own = version("crfrnn")
    except PackageNotFoundError:
        own = "not installed"
    where = {"images": str(images.resolve()), "scores": str(scores.resolve())}
    # Through JSON, so that it compares equal to what is read back.
    parameters = json.loads(json.dumps(settings.parameters()))
    return {"crfrnn": own, **where, "parameters": parameters}


def _require_same(
    manifest: Path, wanted: dict[str, Any], there: Sequence[Path], command: str
) -> None:
    """Raise unless what is there was made from the same folders with the same parameters."""
    remedy = "use another output folder, or --overwrite"
    if not manifest.exists():
        if there:
            raise ValueError(f"{there[0]} exists and is not from crfrnn {command}; {remedy}")
        return
    try:
        found = _flat(json.loads(manifest.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise ValueError(f"{manifest}: cannot read it ({describe(error)}); {remedy}") from error
    new = _flat(wanted)
    changed = [name for name in new if found.get(name) != new[name]]
    if changed:
        texts = [f"{name} was {found.get(name)}, now {new[name]}" for name in changed]
        raise ValueError(
            f"{manifest.parent} holds results made with other parameters "
            f"({'; '.join(texts)}); {remedy}"
        )


def _flat(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the results: all but the version."""
    where = {name: manifest[name] for name in ("images", "scores")}
    return {**where, **manifest["parameters"]}


def _require_apart(images: Path, scores: Path, folders: Outputs) -> None:
    taken = {images.resolve(): "the folder of images", scores.resolve(): "the folder of scores"}
    for name, folder in folders.paths().items():
        if folder.resolve() in taken:
            raise ValueError(f"{folder} is {taken[folder.resolve()]}; write {name} elsewhere")
        taken[folder.resolve()] = f"the output folder for {name}"


def _remove_stale_parts(folders: Outputs) -> None:
    limit = time.time() - _STALE_SECONDS
    for folder in folders.paths().values():
        for part in folder.glob(f".*{PART_SUFFIX}"):
            if part.stat().st_mtime < limit:
                part.unlink(missing_ok=True)
