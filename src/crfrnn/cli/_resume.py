"""Resuming an interrupted folder, if its results come from the same inputs and parameters."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crfrnn._version import installed_version
from crfrnn.io.array_files import state_of
from crfrnn.io.files import (
    PART_SUFFIX,
    describe,
    make_folder,
    note_of,
    require_writable,
    write_text,
)
from crfrnn.io.options import ReadOptions
from crfrnn.io.trees import read_json
from crfrnn.offline.options import RefineOptions

from ._job import Outputs, fingerprint
from ._pairs import Pair
from ._settings import Settings

#: Writing a file takes far less time; an older partial file is of a process that was killed.
_STALE_SECONDS = 60


def manifest_name(command: str) -> str:
    """Name the manifest, the file that records how the results in a folder were computed."""
    return f"crfrnn-{command}.json"


@dataclass(frozen=True)
class Origin:
    """Everything that the results in a folder depend on; the manifest next to them records it.

    Attributes:
        command: "refine" or "segment".
        images: folder of photographs.
        source: folder of scores, or the model.
        settings: how to read and refine.
        clamp: folder of maps of clamped pixels, if there is one.
    """

    command: str
    images: Path
    source: Path
    settings: Settings
    clamp: Path | None = None

    def decisive(self) -> dict[str, Any]:
        """Return it by name, with the types that JSON gives back, to compare with a manifest."""
        tree: dict[str, Any] = json.loads(json.dumps(self.settings.parameters()))
        return {**self._places(), **tree, "ids": self._ids()}

    def _ids(self) -> list[int] | None:
        return None if self.settings.ids is None else list(self.settings.ids)

    def manifest(self) -> dict[str, Any]:
        """Return the content of the manifest: the origin, and the version for the reader."""
        return {
            "crfrnn": installed_version(),
            **self._places(),
            "ids": self._ids(),
            "parameters": self.settings.parameters(),
        }

    def _places(self) -> dict[str, str | None]:
        return {
            "images": str(self.images.resolve()),
            "scores": str(self.source.resolve()),
            "clamp": None if self.clamp is None else str(self.clamp.resolve()),
        }


def is_done(pair: Pair, origin: Origin, *, moved: bool) -> bool:
    """Whether all outputs exist, and come from the same inputs and parameters.

    They do if none is older than image, scores, clamp and manifest; or, where the inputs were moved
    or touched, if the label map carries the fingerprint of what they hold. An output that exists is
    complete: it is moved to its place once it is on disk.
    """
    paths = pair.outputs.paths().values()
    if not all(path.is_file() for path in paths):
        return False
    inputs = [pair.image, pair.scores, *([pair.clamp] if pair.clamp else [])]
    manifest = pair.outputs.labels.with_name(manifest_name(origin.command))
    oldest = min(path.stat().st_mtime_ns for path in paths)
    if not moved and oldest >= max(state_of(path)[1] for path in (*inputs, manifest)):
        return True
    return note_of(pair.outputs.labels) == fingerprint(origin.settings, *inputs)


def make_folders(origin: Origin, folders: Outputs) -> None:
    """Create the output folders; raise if one cannot be written, or holds inputs."""
    _require_apart(origin, folders)
    for folder in folders.paths().values():
        make_folder(folder)
    require_writable(folders.labels / manifest_name(origin.command))


def prepare(origin: Origin, pairs: Sequence[Pair], folders: Outputs, *, overwrite: bool) -> bool:
    """Write the manifest of the output folders; raise if they hold other results.

    Args:
        origin: what the results will depend on.
        pairs: the pairs to work on.
        folders: where the results go.
        overwrite: accept results of another origin. The manifest is then written again. All older
            results thus count as not done, also when this call is interrupted and resumed.

    Returns:
        Whether the inputs of older results were moved, so that only their content identifies them.
    """
    manifest = folders.labels / manifest_name(origin.command)
    existing = [pair for pair in pairs if any(p.exists() for p in pair.outputs.paths().values())]
    moved = False
    if not overwrite:
        moved = _require_same(manifest, origin, existing)
    _remove_stale_parts(folders)
    if overwrite or not manifest.exists():
        write_text(manifest, f"{json.dumps(origin.manifest(), indent=2)}\n")
    return moved


def _require_same(manifest: Path, origin: Origin, existing: Sequence[Pair]) -> bool:
    """Raise unless the existing results come from the same inputs and parameters.

    Returns:
        Whether the inputs lie in other folders than before, and hold the same.
    """
    remedy = "use another output folder, or add --overwrite"
    if not manifest.exists():
        if existing:
            paths = existing[0].outputs.paths().values()
            first = next(path for path in paths if path.exists())
            raise ValueError(
                f"{first} exists and is not a result of crfrnn {origin.command}; {remedy}"
            )
        return False
    try:
        old = _decisive(read_json(manifest.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(
            f"{manifest}: not a readable manifest ({describe(error)}); {remedy}"
        ) from error
    new = origin.decisive()
    # Before an option existed, crfrnn did what the default of the option does today.
    defaults = json.loads(json.dumps(Settings(ReadOptions(), RefineOptions()).parameters()))
    old = {**{name: defaults[name] for name in new if name in defaults}, **old}
    old.setdefault("ids", new["ids"])  # earlier versions did not note them
    # Inputs may have been moved; clamped pixels that come or go are another matter.
    places = [name for name in _PLACES if (old.get(name) is None) == (new[name] is None)]
    changed = [
        f"{name} was {old.get(name)}, is now {new.get(name, 'an unknown option')}"
        for name in {**new, **old}
        if name not in places and (name not in new or old.get(name) != new[name])
    ]
    if changed:
        raise ValueError(
            f"{manifest.parent} holds results made with other parameters "
            f"({'; '.join(changed)}); {remedy}"
        )
    moved = [name for name in places if old.get(name) != new[name]]
    for pair in existing if moved else ():
        if not is_done(pair, origin, moved=True):
            raise ValueError(
                f"{manifest.parent} holds results of other inputs ({moved[0]} were in "
                f"{old.get(moved[0])}, are now in {new[moved[0]]}, and {pair.stem} differs); "
                f"{remedy}"
            )
    return bool(moved)


#: Where the inputs lie; what they hold counts, wherever that is.
_PLACES = ("images", "scores", "clamp")


def _decisive(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what `Origin.decisive` returned when the manifest was written."""
    parameters = manifest["parameters"]
    # In earlier versions the key `kind` of a kernel was `kernel`.
    kernels = [
        {"kind" if name == "kernel" else name: value for name, value in kernel.items()}
        for kernel in parameters["kernels"]
    ]
    where = {name: manifest[name] for name in ("images", "scores")}
    where["clamp"] = manifest.get("clamp")  # None in earlier versions
    ids = {"ids": manifest["ids"]} if "ids" in manifest else {}
    return {**where, **ids, **parameters, "kernels": kernels}


def _require_apart(origin: Origin, folders: Outputs) -> None:
    taken = {
        origin.images.resolve(): "the folder of images",
        origin.source.resolve(): "the folder of scores",
    }
    if origin.clamp is not None:
        taken[origin.clamp.resolve()] = "the folder of clamped pixels"
    for name, folder in folders.paths().items():
        if folder.resolve() in taken:
            raise ValueError(f"{folder} is {taken[folder.resolve()]}; write the {name} elsewhere")
        taken[folder.resolve()] = f"the output folder for {name}"


def _remove_stale_parts(folders: Outputs) -> None:
    limit = time.time() - _STALE_SECONDS
    for folder in folders.paths().values():
        for part in folder.glob(f".*{PART_SUFFIX}"):
            try:
                stale = part.stat().st_mtime < limit
            except FileNotFoundError:  # another shard finished it in the meantime
                continue
            if stale:
                part.unlink(missing_ok=True)
