"""What runs on the cluster: a process that refines one pair of files after the other."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

from crfrnn.core.threads import limited_threads, threads
from crfrnn.io.paths import AnyPath
from crfrnn.jobs.files import Refinement, refine_file
from crfrnn.jobs.pairs import Pair
from crfrnn.jobs.resume import Looks, Origin, is_done
from crfrnn.jobs.work import Outcome, attempt
from crfrnn.offline.device import require_device


@dataclass(frozen=True)
class Answer:
    """What a worker sends back: some hundred bytes, no pixels.

    Attributes:
        outcome: of the pair.
        warnings: of the library, for the driver to show.
        threads: that the engine used.
        process: id of the worker's process.
    """

    outcome: Outcome
    warnings: tuple[Warning, ...]
    threads: int
    process: int


class Worker:
    """An actor. It keeps the settings and the connections to stores, and reads and writes itself.

    Args:
        origin: what the results depend on.
        record: the manifest of the output folder.
        cpus: that Ray gave to this actor; the engine uses as many threads.
    """

    def __init__(self, origin: Origin, record: AnyPath, cpus: int) -> None:
        self.origin, self.record, self.cpus = origin, record, cpus

    def ready(self) -> int:
        """Return the id of the process, once it has started and found its device.

        Raises:
            ImportError: a package for the device is missing.
            ValueError: the device is not there.
        """
        settings = self.origin.settings
        require_device(settings.device, settings.refining.engine)
        return os.getpid()

    def work(self, pair: Pair, again: bool) -> Answer:
        """Refine a pair; `again` if a worker that died may have finished it.

        Raises:
            OSError: no other file can be written either, because the disk is full.
        """
        settings = self.origin.settings

        def refine(pair: Pair) -> Refinement:
            return refine_file(pair.image, pair.scores, pair.outputs, settings, pair.clamp)

        with limited_threads(self.cpus), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            if again and self._is_done(pair):
                outcome = Outcome(pair.stem, "skipped", outputs=pair.outputs)
            else:
                outcome = attempt(pair, refine, "refined")
            shown = tuple(w.message for w in caught if isinstance(w.message, Warning))
            return Answer(outcome, shown, threads(), os.getpid())

    def _is_done(self, pair: Pair) -> bool:
        try:
            return is_done(pair, self.origin, self.record, moved=False, looks=Looks())
        except (OSError, ValueError):  # which its attempt will report
            return False
