"""`refine`: the pairs of a manifest, of rows or of a data set of Ray, on a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crfrnn.io.locks import claimed
from crfrnn.io.options import DEFAULTS, ReadOptions
from crfrnn.io.paths import AnyPath, parse_path
from crfrnn.jobs.files import Refinement
from crfrnn.jobs.manifest import Manifest, check_outputs, make_manifest, read_manifest
from crfrnn.jobs.pairs import Matches, Outputs, as_arrays
from crfrnn.jobs.resume import Origin, make_folders, prepare, record_of
from crfrnn.jobs.settings import Settings
from crfrnn.jobs.survey import settle, survey
from crfrnn.jobs.work import Outcome, split_done
from crfrnn.offline.device import require_suited
from crfrnn.offline.options import RefineOptions

from .pool import Cluster, refine_pairs

#: What a refinement is by default.
_REFINING = RefineOptions()


@dataclass(frozen=True)
class Row:
    """The outcome for one photograph.

    Attributes:
        id: of its row.
        status: "refined", "skipped" (its result was there) or "failed".
        seconds: of the inference; None unless refined.
        relabeled: share of its pixels whose label changed, on 0..1; None unless refined.
        error: why it failed; "" if it did not.
    """

    id: str
    status: Literal["refined", "skipped", "failed"]
    seconds: float | None = None
    relabeled: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Report:
    """The outcome for all photographs of a job.

    Attributes:
        rows: one per photograph, sorted by id.
        seconds: of the whole job.
    """

    rows: tuple[Row, ...]
    seconds: float

    @property
    def failed(self) -> dict[str, str]:
        """The errors by id."""
        return {row.id: row.error for row in self.rows if row.status == "failed"}

    def count(self, status: str) -> int:
        """Return the number of rows with a status."""
        return sum(row.status == status for row in self.rows)


def refine(
    jobs: Any,
    output: str | Path,
    *,
    reading: ReadOptions = DEFAULTS,
    refining: RefineOptions = _REFINING,
    cluster: Cluster | None = None,
    probs: str | Path | None = None,
    storage_options: str = "",
    overwrite: bool = False,
    on_row: Callable[[Row], object] | None = None,
) -> Report:
    """Refine the photographs that a table names, on a Ray cluster.

    Workers read and write the files; only names and a few numbers travel. A photograph is done if
    its label map exists, is whole, and comes from the same files and parameters, so make the same
    call again after an interruption. A file that fails is reported and does not stop the rest.

    Args:
        jobs: a manifest, `.csv` or `.parquet`; or a `ray.data.Dataset`; or mappings. The columns
            are id, image, scores and, optionally, output and clamp. Paths may be URLs; relative
            ones are relative to the manifest, or to the current folder.
        output: folder or bucket for the results ID.png, and for the record of the parameters.
        reading: how to read photographs and scores.
        refining: how to refine.
        cluster: where; by default a cluster on this machine, or the one that RAY_ADDRESS names.
        probs: a folder for probabilities (C, H, W), ID.npy.
        storage_options: for fsspec, as a JSON object.
        overwrite: redo what is done, even with other parameters.
        on_row: called with each row that was refined or failed, as soon as it is known.

    Raises:
        ValueError: the table, the options or the files do not fit together.
        OSError: a disk is full.

    Example:
        >>> from crfrnn.distributed import refine
        >>> report = refine("jobs.parquet", "s3://bucket/labels")  # doctest: +SKIP
        >>> report.failed  # doctest: +SKIP
        {'img_0007': 's3://bucket/photos/img_0007.jpg: not a readable image ...'}
    """
    start = time.perf_counter()
    cluster = cluster or Cluster()
    require_suited(cluster.device, refining.engine)
    place = parse_path(str(probs), storage_options) if probs is not None else None
    folders = Outputs(parse_path(str(output), storage_options), place)
    manifest, source = _read(jobs, folders, storage_options)
    settings = Settings(reading, refining, device=cluster.device)
    matches = Matches(manifest.pairs)
    files = [(pair.image, pair.scores) for pair in matches.pairs]
    understood = survey(files, settings, here=False)
    masks = understood.kind == "masks"
    check_outputs(manifest, masks=masks)
    matches = as_arrays(matches) if masks else matches
    origin = Origin("refine", source, source, settle(settings, understood), by_row=True)
    make_folders(origin, folders)
    labels, rows = folders.labels, []
    # A store has no locks. Two jobs in one bucket do some work twice, and lose none.
    with claimed(labels, origin.command) if isinstance(labels, Path) else nullcontext():
        moved, looks = prepare(origin, matches.pairs, folders, overwrite=overwrite)
        done: list[Outcome] = []
        waiting = matches.pairs
        if not overwrite:
            record = record_of(origin, folders)
            done, waiting = split_done(waiting, origin, record, moved=moved, looks=looks)
        rows += [_row(outcome) for outcome in done]
        with closing(refine_pairs(waiting, origin, folders, cluster)) as coming:
            for outcome in coming:
                rows.append(_row(outcome))
                if on_row is not None:
                    on_row(rows[-1])
    rows.sort(key=lambda row: row.id)
    return Report(tuple(rows), round(time.perf_counter() - start, 3))


def _read(jobs: Any, folders: Outputs, options: str) -> tuple[Manifest, AnyPath]:
    """Return the pairs, and where they come from."""
    if isinstance(jobs, (str, Path)):
        path = parse_path(str(jobs), options)
        return read_manifest(path, folders, options), path
    rows: Iterable[Mapping[str, Any]] | None = None
    if hasattr(jobs, "iter_rows"):
        rows = jobs.iter_rows()
    elif isinstance(jobs, Iterable):
        rows = jobs
    if rows is None:
        raise TypeError(
            f"jobs must be a manifest, a ray.data.Dataset or mappings; got {type(jobs).__name__}"
        )
    here = Path()
    return make_manifest(rows, folders, base=here, name="jobs", options=options), here


def _row(outcome: Outcome) -> Row:
    result = outcome.result
    status: Any = outcome.status
    if not isinstance(result, Refinement):
        return Row(outcome.stem, status, error=outcome.error or "")
    share = result.relabeled / max(result.pixels, 1)
    return Row(outcome.stem, status, result.seconds, share)
