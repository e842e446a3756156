"""Going on where an interrupted folder run stopped, and only if that is safe."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from crfrnn.io.files import PART_SUFFIX, describe, make_folder, require_writable, write_text
from crfrnn.io.options import ReadOptions
from crfrnn.offline.options import RefineOptions

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


@dataclass(frozen=True)
class Origin:
    """What decides the results in a folder; the manifest beside them holds it.

    Attributes:
        command: "refine" or "segment".
        images: folder of photographs.
        source: folder of scores, or the model.
        settings: how.
    """

    command: str
    images: Path
    source: Path
    settings: Settings

    def decisive(self) -> dict[str, Any]:
        """All of it by name, as JSON gives it back."""
        tree: dict[str, Any] = json.loads(json.dumps(self.settings.parameters()))
        return {**self._places(), **tree}

    def manifest(self) -> dict[str, Any]:
        """What to write, the version included."""
        try:
            installed = version("crfrnn")
        except PackageNotFoundError:
            installed = "not installed"
        return {
            "crfrnn": installed,
            **self._places(),
            "parameters": self.settings.parameters(),
        }

    def _places(self) -> dict[str, str]:
        return {"images": str(self.images.resolve()), "scores": str(self.source.resolve())}


def prepare(origin: Origin, pairs: Sequence[Pair], folders: Outputs, *, overwrite: bool) -> None:
    """Make the output folders and their manifest, or raise if they hold something else.

    Args:
        origin: what will decide the results.
        pairs: what is to be refined.
        folders: where to.
        overwrite: accept results of another origin. The manifest is then written anew, which makes
            them older than it and so not done, also for a later run that goes on.
    """
    _require_apart(origin, folders)
    for folder in folders.paths().values():
        make_folder(folder)
    manifest = folders.labels / manifest_name(origin.command)
    require_writable(manifest)
    there = [path for pair in pairs for path in pair.outputs.paths().values() if path.exists()]
    if not overwrite:
        _require_same(manifest, origin, there)
    _remove_stale_parts(folders)
    if overwrite or not manifest.exists():
        write_text(manifest, f"{json.dumps(origin.manifest(), indent=2)}\n")


def _require_same(manifest: Path, origin: Origin, there: Sequence[Path]) -> None:
    """Raise unless what is there was made from the same folders with the same parameters."""
    remedy = "use another output folder, or --overwrite"
    if not manifest.exists():
        if there:
            raise ValueError(f"{there[0]} exists and is not from crfrnn {origin.command}; {remedy}")
        return
    try:
        old = _decisive(json.loads(manifest.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{manifest}: cannot read it ({describe(error)}); {remedy}") from error
    new = origin.decisive()
    # A version that does not have an option does what its default does.
    defaults = Settings(ReadOptions(), RefineOptions()).parameters()
    old = {**{name: defaults[name] for name in new if name in defaults}, **old}
    changed = [
        f"{name} was {old.get(name)}, now {new.get(name, 'an unknown option')}"
        for name in {**new, **old}
        if name not in new or old.get(name) != new[name]
    ]
    if changed:
        raise ValueError(
            f"{manifest.parent} holds results made with other parameters "
            f"({'; '.join(changed)}); {remedy}"
        )


def _decisive(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what decided the results, as `Origin.decisive` does."""
    parameters = manifest["parameters"]
    # Earlier versions spelled the `kind` of a kernel `kernel`.
    kernels = [
        {"kind" if name == "kernel" else name: value for name, value in kernel.items()}
        for kernel in parameters["kernels"]
    ]
    where = {name: manifest[name] for name in ("images", "scores")}
    return {**where, **parameters, "kernels": kernels}


def _require_apart(origin: Origin, folders: Outputs) -> None:
    taken = {
        origin.images.resolve(): "the folder of images",
        origin.source.resolve(): "the folder of scores",
    }
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
