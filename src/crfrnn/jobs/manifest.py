"""Manifests: tables that name the files of a job, row by row, in place of listing folders."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from crfrnn._extras import load
from crfrnn.containers.volumes import VOLUME_SUFFIXES
from crfrnn.io.files import describe, shorten
from crfrnn.io.paths import AnyPath, join, read_bytes, require_store

from .pairs import Matches, Outputs, Pair, as_arrays, results

_NEEDED = ("id", "image", "scores")
_OPTIONAL = ("output", "clamp")
#: The columns that are read.
COLUMNS = (*_NEEDED, *_OPTIONAL)
_SUFFIXES = (".csv", ".parquet")
_LABELS = (".png", ".npy")


@dataclass(frozen=True)
class Manifest:
    """The rows of a manifest as pairs.

    Attributes:
        pairs: one per row, sorted by id, which is their stem.
        named: ids whose row names the output.
        unused: columns that were not read.
    """

    pairs: list[Pair]
    named: frozenset[str]
    unused: tuple[str, ...] = ()


def spell_columns() -> str:
    """Name the columns of a manifest, for a sentence.

    Example:
        >>> from crfrnn.jobs.manifest import spell_columns
        >>> spell_columns()
        'the columns id, image, scores and, if wanted, output, clamp'
    """
    return f"the columns {', '.join(_NEEDED)} and, if wanted, {', '.join(_OPTIONAL)}"


def read_manifest(path: AnyPath, folders: Outputs, options: str = "") -> Manifest:
    """Read a `.csv` or `.parquet` with the columns of `spell_columns`.

    Args:
        path: the file. Relative paths in it are relative to its folder.
        folders: where the results ID.png go if a row names no output.
        options: for the URLs in it, see `parse_path`.

    Raises:
        ImportError: a `.parquet` needs pyarrow.
        ValueError: a column is missing, a row lacks a value, or two rows have the same id or
            output. The message counts the rows from one, not counting the heading.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(f"{path}: a manifest must be a .csv or a .parquet file")
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: expected a manifest, but it is missing") from None
    try:
        rows, columns = (_read_csv if suffix == ".csv" else _read_parquet)(data, path)
    except ImportError:
        raise
    except Exception as error:  # a damaged file makes pyarrow raise almost anything
        raise ValueError(f"{path}: not a readable manifest ({describe(error)})") from error
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise ValueError(
            f"{path}: expected {spell_columns()}; {', '.join(missing)} missing, got "
            f"{', '.join(columns) or 'none'}"
        )
    unused = tuple(name for name in columns if name not in COLUMNS)
    manifest = make_manifest(
        _readable(rows, path), folders, base=path.parent, name=str(path), options=options
    )
    return Manifest(manifest.pairs, manifest.named, unused)


def make_manifest(
    rows: Iterable[Mapping[str, Any]],
    folders: Outputs,
    *,
    base: AnyPath,
    name: str,
    options: str = "",
) -> Manifest:
    """Make pairs from rows with the columns of a manifest.

    Args:
        rows: the values by column.
        folders: where the results ID.png go if a row names no output.
        base: relative paths are relative to this folder.
        name: of the table, for messages.
        options: for the URLs in it.

    Raises:
        ValueError: as `read_manifest`.
    """
    pairs: list[Pair] = []
    named, problems = set(), []
    ids: dict[str, int] = {}
    outputs: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        values = {column: _text(row.get(column)) for column in COLUMNS}
        key = values["id"]
        empty = [column for column in _NEEDED if not values[column]]
        if empty:
            problems.append(f"row {number} has no {' and no '.join(empty)}")
            continue
        if key in (".", "..") or key.startswith(".") or PurePath(key).name != key or "\\" in key:
            problems.append(f"row {number}: the id {key!r} cannot be the name of a file")
            continue
        if ids.setdefault(key, number) != number:
            problems.append(f"rows {ids[key]} and {number} have the same id {key!r}")
            continue
        if values["image"].lower().endswith(VOLUME_SUFFIXES):
            problems.append(
                f"row {number}: {values['image']} is a volume, which a manifest does not take; "
                "give crfrnn refine a folder of volumes and one of scores"
            )
            continue
        try:
            pair = _pair(values, folders, base, options)
        except ValueError as error:
            problems.append(f"row {number}: {error}")
            continue
        label = str(pair.outputs.labels.resolve())
        if outputs.setdefault(label, number) != number:
            problems.append(f"rows {outputs[label]} and {number} have the same output {label}")
            continue
        pairs.append(pair)
        if values["output"]:
            named.add(key)
    if problems:
        raise ValueError(
            f"{name}: {shorten(problems)}; each row needs its files, and its own id and output"
        )
    if not pairs:
        raise ValueError(f"{name}: expected at least one row; it has none")
    return Manifest(sorted(pairs, key=lambda pair: pair.stem), frozenset(named))


def _readable(rows: Iterable[Mapping[str, Any]], path: AnyPath) -> Iterator[Mapping[str, Any]]:
    try:
        yield from rows
    except Exception as error:  # damage that shows late
        raise ValueError(f"{path}: not a readable manifest ({describe(error)})") from error


def check_outputs(manifest: Manifest, *, masks: bool) -> None:
    """Raise ValueError if an output cannot hold the results of the job, or would replace an input.

    Args:
        manifest: the rows.
        masks: whether the results are arrays, as those of independent masks are.
    """
    suffix = ".npy" if masks else ".png"
    wrong = [
        str(pair.outputs.labels)
        for pair in manifest.pairs
        if pair.stem in manifest.named and pair.outputs.labels.suffix.lower() != suffix
    ]
    if wrong:
        what = "independent masks are arrays" if masks else "label maps are images"
        raise ValueError(f"output: {what}, so it must be a {suffix}; got {shorten(wrong)}")
    inputs = {path.resolve(): pair.stem for pair in manifest.pairs for path in pair.inputs()}
    for pair in as_arrays(Matches(manifest.pairs)).pairs if masks else manifest.pairs:
        for what, path in pair.outputs.paths().items():
            owner = inputs.get(path.resolve())
            if owner is not None:
                raise ValueError(
                    f"{path}: the {what} of id {pair.stem!r} would replace an input of id "
                    f"{owner!r}; write them elsewhere"
                )


def _pair(values: Mapping[str, str], folders: Outputs, base: AnyPath, options: str) -> Pair:
    places = {name: join(base, text, options) for name, text in values.items() if text}
    files = results(folders, values["id"])
    if values["output"]:
        labels = places["output"]
        if labels.suffix.lower() not in _LABELS:
            raise ValueError(f"output must be a .png, or a .npy for masks; got {labels}")
        require_store(labels)
        files = Outputs(labels, files.probs, files.overlay)
    return Pair(values["id"], places["image"], places["scores"], files, places.get("clamp"))


def _text(value: Any) -> str:
    """Spell a value as a path or a name; numbers may be ids, and an empty cell is ""."""
    missing = value is None or (isinstance(value, float) and value != value)
    return "" if missing else str(value).strip()


def _read_csv(data: bytes, _path: AnyPath) -> tuple[Iterable[Mapping[str, Any]], list[str]]:
    text = data.decode("utf-8-sig")  # with or without the mark that spreadsheets write
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    return reader, list(reader.fieldnames or ())


def _read_parquet(data: bytes, path: AnyPath) -> tuple[Iterable[Mapping[str, Any]], list[str]]:
    module = load("pyarrow.parquet", "parquet", path)
    file = module.ParquetFile(io.BytesIO(data))
    columns = list(file.schema_arrow.names)
    wanted = [name for name in COLUMNS if name in columns]

    def rows() -> Iterable[Mapping[str, Any]]:
        for batch in file.iter_batches(columns=wanted):
            yield from batch.to_pylist()

    return rows(), columns
