"""Resuming an interrupted folder, if its results come from the same inputs and parameters."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crfrnn._version import installed_version
from crfrnn.io.array_files import split_member
from crfrnn.io.copies import Copies
from crfrnn.io.files import (
    PART_SUFFIX,
    describe,
    make_folder,
    note_of,
    require_writable,
    write_text,
)
from crfrnn.io.locks import count_jobs
from crfrnn.io.options import ReadOptions
from crfrnn.io.paths import (
    AnyPath,
    Entry,
    Remote,
    entries,
    read_bytes,
    read_end,
    require_store,
    stat,
    write_remote,
)
from crfrnn.io.trees import read_json
from crfrnn.offline.options import RefineOptions

from .files import fingerprint, fingerprint_names, fingerprint_states, state
from .pairs import Outputs, Pair, require_apart
from .settings import Settings

#: An older partial file is left from a killed process, unless another shard works on it.
_STALE_SECONDS = 60


def manifest_name(command: str) -> str:
    """Name the manifest, the file that records how the results in a folder were computed."""
    return f"crfrnn-{command}.json"


@dataclass(frozen=True)
class Origin:
    """Everything that the results in a folder depend on; the manifest next to them records it.

    Attributes:
        command: "refine" or "segment".
        images: folder of photographs, or the manifest.
        source: folder of scores, the model, or the manifest.
        settings: how to read and refine.
        clamp: folder of maps of clamped pixels, if there is one.
        by_row: whether the rows of a manifest say which inputs belong to a result, and not stems.
    """

    command: str
    images: AnyPath
    source: AnyPath
    settings: Settings
    clamp: AnyPath | None = None
    by_row: bool = False

    def decisive(self) -> dict[str, Any]:
        """Return it by name, with the types that JSON gives back, to compare with a manifest."""
        tree: dict[str, Any] = json.loads(json.dumps(self.settings.parameters()))
        return {**self._places(), **tree, "ids": self._ids()}

    def settings_hash(self) -> str:
        """Hash everything but the paths of the inputs; shards of one folder must agree in it."""
        parts = {name: part for name, part in self.decisive().items() if name not in _PLACES}
        parts["clamped"] = self.clamp is not None
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

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


#: The end of a whole PNG.
_END = b"\0\0\0\0IEND\xaeB`\x82"
#: From this many inputs of a job in a folder on, listing it is cheaper than looking up each.
_LIST_FROM = 50


@dataclass
class Looks:
    """Sizes and times of the files of a job, from a listing where a folder holds many of them."""

    _listed: dict[AnyPath, dict[str, Entry]] = field(default_factory=dict)

    @classmethod
    def at(cls, paths: Iterable[AnyPath], least: int) -> Looks:
        """List the remote folders with at least `least` of `paths`; later changes are not seen."""
        counts = Counter(path.parent for path in paths if isinstance(path, Remote))
        folders = [folder for folder, count in counts.items() if count >= least]
        return cls({folder: _list(folder) for folder in folders})

    def of(self, path: AnyPath) -> Entry | None:
        """Return size and time of a file; None if there is none."""
        listing = self._listed.get(path.parent) if self._listed else None
        return stat(path) if listing is None else listing.get(path.name)


def _list(folder: AnyPath) -> dict[str, Entry]:
    try:
        return entries(folder)
    except FileNotFoundError:
        return {}


def is_done(pair: Pair, origin: Origin, record: AnyPath, *, moved: bool, looks: Looks) -> bool:
    """Whether all outputs exist, are whole, and come from the same inputs and parameters.

    They do if none is older than image, scores, clamp and record, and the label map notes the
    sizes and times that local inputs have. Where the inputs were moved, touched or replaced, the
    fingerprint in the label map must be that of their content.

    Args:
        pair: the files.
        origin: what the results should come from.
        record: the manifest of the output folder, see `record_of`.
        moved: whether the inputs were moved, so that times mean nothing.
        looks: sizes and times of files.
    """
    outputs = [looks.of(path) for path in pair.outputs.paths().values()]
    if any(entry is None or entry.size == 0 for entry in outputs):
        return False
    inputs = [_input(path, looks) for path in pair.inputs()]
    if None in inputs or not _is_whole(pair.outputs.labels):
        return False
    made = [entry.changed for entry in outputs if entry is not None]
    changed = [entry.changed for entry in (*inputs, looks.of(record)) if entry is not None]
    if not moved and None not in (*made, *changed):
        times = [time for time in made if time is not None]
        newer = min(times) >= max(time for time in changed if time is not None)
        if newer and _is_noted(pair, inputs, by_row=origin.by_row):
            return True
    with Copies() as copies:
        labels, *files = (copies.fetch(path) for path in (pair.outputs.labels, *pair.inputs()))
        return _note(labels)[:1] == [fingerprint(origin.settings, *files)]


def _input(path: AnyPath, looks: Looks) -> Entry | None:
    """Look up an input, which may be FILE:NAME, or a folder of arrays on this machine."""
    if isinstance(path, Path):
        found = state(path)
        return None if found is None else Entry(*found)
    return looks.of(path.with_name(split_member(Path(path.name))[0].name))


def _is_noted(pair: Pair, inputs: Sequence[Entry | None], *, by_row: bool) -> bool:
    """Whether the state that a label map records fits its inputs; with `by_row`, also the names.

    An older file may have replaced an input, or a row may name other files. Only PNGs carry this
    record. A store sets file times itself, so a file there never looks older than it is.
    """
    local = [isinstance(path, Path) for path in pair.inputs()]
    if pair.outputs.labels.suffix.lower() != ".png" or not (by_row or any(local)):
        return True
    with Copies() as copies:
        note = _note(copies.fetch(pair.outputs.labels))
    states = [
        (entry.size, entry.changed) if here and entry else None
        for here, entry in zip(local, inputs, strict=True)
    ]
    names = [fingerprint_names(pair.inputs())] if by_row else note[1:2]
    return note[1:] == [*names, fingerprint_states(states)]


def _note(labels: Path) -> list[str]:
    """Return the fingerprints of content, names and states that a label map carries."""
    return note_of(labels).split()


def _is_whole(labels: AnyPath) -> bool:
    """Whether a label map has its end: it was written whole, but a copy may have been cut short."""
    return labels.suffix.lower() != ".png" or read_end(labels, len(_END)) == _END


def record_of(origin: Origin, folders: Outputs) -> AnyPath:
    """Return the manifest of the output folders."""
    return folders.labels / manifest_name(origin.command)


def make_folders(origin: Origin, folders: Outputs) -> None:
    """Create the output folders; raise if one cannot be written, or holds inputs."""
    inputs: dict[str, list[AnyPath | None]] = {
        "the folder of images": [origin.images],
        "the folder of scores": [origin.source],
        "the folder of clamped pixels": [origin.clamp],
    }
    require_apart(folders, inputs)
    for folder in folders.paths().values():
        require_store(folder)
        if isinstance(folder, Path):
            make_folder(folder)
    record = record_of(origin, folders)
    if isinstance(record, Path):
        require_writable(record)


def prepare(
    origin: Origin, pairs: Sequence[Pair], folders: Outputs, *, overwrite: bool
) -> tuple[bool, Looks]:
    """Write the manifest of the output folders; raise if they hold other results.

    Args:
        origin: what the results will depend on.
        pairs: the pairs to work on.
        folders: where the results go.
        overwrite: accept results of another origin. The manifest is then written again. All older
            results thus count as not done, even when this call is interrupted and resumed.

    Returns:
        Whether the inputs of older results were moved, so that only their content identifies them;
        and where to look up the files of the pairs.
    """
    record = record_of(origin, folders)
    exists = stat(record) is not None
    looks, moved = Looks(), False
    if not overwrite:
        looks = Looks.at((path for pair in pairs for path in pair.outputs.paths().values()), 1)
        existing = [pair for pair in pairs if any(map(looks.of, pair.outputs.paths().values()))]
        if existing:
            inputs = Looks.at((p for pair in existing for p in pair.inputs()), _LIST_FROM)
            looks = Looks({**inputs._listed, **looks._listed})
        moved = _require_same(record, origin, existing, looks, exists=exists)
    labels = folders.labels
    alone = isinstance(labels, Remote) or count_jobs(labels, origin.command) < 2
    for folder in folders.paths().values() if alone else ():
        _remove_stale_parts(folder)
    if overwrite or not exists:
        text = f"{json.dumps(origin.manifest(), indent=2)}\n"
        if isinstance(record, Remote):
            write_remote(record, text.encode())
        else:
            write_text(record, text)
    return moved, looks


def _require_same(
    record: AnyPath, origin: Origin, existing: Sequence[Pair], looks: Looks, *, exists: bool
) -> bool:
    """Raise unless the existing results come from the same inputs and parameters.

    Returns:
        Whether the inputs were moved to other folders, with the same content.
    """
    remedy = "use another output folder, or add --overwrite"
    if not exists:
        if existing:
            paths = existing[0].outputs.paths().values()
            first = next(path for path in paths if looks.of(path))
            raise ValueError(
                f"{first} exists and is not a result of crfrnn {origin.command}; {remedy}"
            )
        return False
    try:
        old = _decisive(read_json(read_bytes(record).decode()))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(
            f"{record}: not a readable manifest ({describe(error)}); {remedy}"
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
            f"{record.parent} holds results made with other parameters "
            f"({'; '.join(changed)}); {remedy}"
        )
    moved = [name for name in places if old.get(name) != new[name]]
    for pair in existing if moved else ():
        if not is_done(pair, origin, record, moved=True, looks=looks):
            where = f"{moved[0]} were in {old.get(moved[0])}, are now in {new[moved[0]]}"
            if pair.outputs.labels.suffix.lower() != ".png":
                raise ValueError(
                    f"{record.parent} holds results of inputs elsewhere ({where}). Only PNGs carry "
                    f"a fingerprint of their inputs, so {pair.outputs.labels.name} cannot be "
                    f"matched with them. Move them back, {remedy}"
                )
            raise ValueError(
                f"{record.parent} holds results of other inputs ({where}, and {pair.stem} "
                f"differs); {remedy}"
            )
    return bool(moved)


#: Where the inputs lie. They may be moved, as only their content counts.
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


def _remove_stale_parts(folder: AnyPath) -> None:
    if isinstance(folder, Remote):  # a store has no partial objects
        return
    limit = time.time() - _STALE_SECONDS
    for part in folder.glob(f".*{PART_SUFFIX}"):
        try:
            stale = part.stat().st_mtime < limit
        except FileNotFoundError:  # another shard finished it in the meantime
            continue
        if stale:
            part.unlink(missing_ok=True)
