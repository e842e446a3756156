"""Working on the pairs of a job, many at once; a bad file does not stop the others."""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from crfrnn.core.threads import limit_threads, limited_threads, threads
from crfrnn.io.files import describe
from crfrnn.io.paths import Remote

from .files import Result, spell
from .pairs import Outputs, Pair
from .resume import Looks, Origin, is_done

#: More files at a time would need much memory and gain little.
_MOST_WORKERS = 8
#: Looking up results in a bucket is mostly waiting.
_LOOKUPS = 32

#: Errors after which no other file can be written either: a full disk, a quota, a read-only disk.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Outcome:
    """The outcome for one pair.

    Attributes:
        stem: the stem of the pair's files; with a manifest, the id.
        status: "refined" or "segmented", "skipped", or "failed".
        result: what the work returned, if the pair was finished.
        error: why the pair failed.
        outputs: the existing files, if the pair was skipped.
    """

    stem: str
    status: str
    result: Result | None = None
    error: str | None = None
    outputs: Outputs | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        record: dict[str, Any] = {"stem": self.stem, "status": self.status}
        if self.result is not None:
            record |= spell(self.result)
        if self.error is not None:
            record["error"] = self.error
        if self.outputs is not None:
            record["outputs"] = self.outputs.to_json()
        return record


def split_done(
    pairs: Sequence[Pair], origin: Origin, record: Any, *, moved: bool, looks: Looks
) -> tuple[list[Outcome], list[Pair]]:
    """Split pairs into the outcomes of those that are done already, and those that are not."""
    remote = any(isinstance(path, Remote) for pair in pairs[:1] for path in _files(pair))

    def done(pair: Pair) -> bool:
        try:
            return is_done(pair, origin, record, moved=moved, looks=looks)
        except OSError:  # which the attempt to refine it will report
            return False

    with ThreadPoolExecutor(_LOOKUPS if remote else 1) as pool:
        flags = list(pool.map(done, pairs) if remote else map(done, pairs))
    finished = [
        Outcome(pair.stem, "skipped", outputs=pair.outputs)
        for pair, flag in zip(pairs, flags, strict=True)
        if flag
    ]
    return finished, [pair for pair, flag in zip(pairs, flags, strict=True) if not flag]


def _files(pair: Pair) -> tuple[Any, ...]:
    return (*pair.inputs(), *pair.outputs.paths().values())


def work_in_threads(
    pairs: Sequence[Pair], attempt: Callable[[Pair], Outcome], workers: int | None
) -> Generator[Outcome, None, None]:
    """Work on pairs in threads; reading, the engine and writing all release the GIL.

    The workers divide the threads among themselves, so together they use no more than a single
    call would. Four files on one thread each finish sooner than one after another on four threads.
    """
    if not pairs:
        return
    budget = threads()
    workers = min(workers or min(budget, _MOST_WORKERS), len(pairs))
    share = max(1, budget // workers)
    stopped = False

    def work(pair: Pair) -> Outcome | None:
        nonlocal stopped
        try:
            return None if stopped else attempt(pair)
        except OSError:
            stopped = True
            raise

    with limited_threads(share):
        # The limit is that of the calling thread, so every worker sets its share.
        pool = ThreadPoolExecutor(workers, initializer=limit_threads, initargs=(share,))
        try:
            for future in as_completed([pool.submit(work, pair) for pair in pairs]):
                outcome = future.result()
                if outcome is not None:
                    yield outcome
        finally:
            # Only the main thread sees Ctrl-C. Workers finish the files they have begun, so that
            # none is half written. `stopped` holds back a pair that a worker takes before
            # `cancel_futures` removes it.
            stopped = True
            pool.shutdown(wait=True, cancel_futures=True)


def attempt(pair: Pair, work: Callable[[Pair], Result], status: str) -> Outcome:
    """Work on a pair; an error becomes a failed outcome.

    Raises:
        OSError: no other file can be written either, because the disk is full.
    """
    try:
        return Outcome(pair.stem, status, work(pair))
    except Exception as error:  # no other failure may stop the other files
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise OSError(
                f"{error.filename or pair.outputs.labels}: {describe(error)}. The job stops here; "
                "free some space and give the same command again to continue"
            ) from error
        return Outcome(pair.stem, "failed", error=describe(error))
