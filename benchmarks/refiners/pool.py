"""Worker processes, and how much of their work is left."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .journal import Journal, Key

#: One thread for each library that reads its number of threads when it is loaded.
_ONE = dict.fromkeys(
    (
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    ),
    "1",
)  # fmt: skip

#: Seconds between two lines of progress.
_EVERY = 60.0


class Pool:
    """Workers that answer requests, photograph by photograph.

    Args:
        jobs: number of processes, each with one thread.
        config: for the workers, see `worker.main`.
    """

    def __init__(self, jobs: int, config: Mapping[str, Any]) -> None:
        root = Path(__file__).parents[2]
        paths = [str(root), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, **_ONE, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        start = "from benchmarks.refiners.worker import main; main()"
        command = [sys.executable, "-c", start, json.dumps(config)]
        self._workers = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            for _ in range(jobs)
        ]

    def __enter__(self) -> Pool:
        """Return the pool."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the workers, at once if there was an error."""
        for worker in self._workers:
            assert worker.stdin is not None
            if error[0] is not None:
                worker.kill()
            worker.stdin.close()
            worker.wait()

    def ask(
        self,
        tasks: Sequence[Sequence[tuple[Key, dict[str, Any]]]],
        keep: Callable[[Key, dict[str, Any]], None],
    ) -> None:
        """Get answers to tasks, which are requests about one photograph each.

        Raises:
            RuntimeError: a worker died.
        """
        waiting: queue.SimpleQueue[Sequence[tuple[Key, dict[str, Any]]]] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(task)
        lock, failures = threading.Lock(), []

        def serve(worker: subprocess.Popen[str]) -> None:
            assert worker.stdin is not None
            assert worker.stdout is not None
            try:
                while not failures:
                    for key, request in waiting.get_nowait():
                        worker.stdin.write(json.dumps(request) + "\n")
                        worker.stdin.flush()
                        line = worker.stdout.readline()
                        if not line:
                            raise RuntimeError(f"a worker ended on {key}; its error is above")
                        with lock:
                            keep(key, json.loads(line))
            except queue.Empty:
                pass
            except Exception as error:
                failures.append(error)

        threads = [
            threading.Thread(target=serve, args=(one,), daemon=True) for one in self._workers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise RuntimeError(str(failures[0])) from failures[0]


class Estimate:
    """How long the rest will take, from what each method has taken so far.

    Args:
        jobs: number of workers.
        counts: calls of each method in the whole run.
        journal: the answers so far.
    """

    def __init__(self, jobs: int, counts: Mapping[str, int], journal: Journal) -> None:
        self.jobs, self.left = jobs, dict(counts)
        self._walls: dict[str, list[float]] = defaultdict(list)
        for key, answer in journal.answers.items():
            self.add(key, answer)
        self._said = 0.0

    def add(self, key: Key, answer: Mapping[str, Any]) -> None:
        """Count an answer."""
        if key.method in self.left:
            self.left[key.method] -= 1
            self._walls[key.method].append(answer["wall"])

    def hours(self) -> float | None:
        """Hours left; None before half of the methods have run. The others count as the mean."""
        means = {name: sum(walls) / len(walls) for name, walls in self._walls.items()}
        if 2 * len(means) < len(self.left):
            return None
        mean = sum(means.values()) / len(means)
        calls = {name: calls for name, calls in self.left.items() if calls > 0}
        seconds = sum(count * means.get(name, mean) for name, count in calls.items())
        return seconds / 3600 / self.jobs

    def say(self, what: str, say: Callable[[str], None]) -> None:
        """Write a line of progress, once a minute."""
        hours = self.hours()
        if hours is None or time.monotonic() - self._said < _EVERY:
            return
        self._said = time.monotonic()
        calls = sum(left for left in self.left.values() if left > 0)
        say(f"{what}: {calls} calls left, about {spell(hours)} with {self.jobs} workers")


def spell(hours: float) -> str:
    """Spell a time."""
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def grouped(
    items: Iterable[tuple[Key, dict[str, Any]]],
) -> list[list[tuple[Key, dict[str, Any]]]]:
    """Gather requests by photograph, in the order of their first."""
    groups: dict[str, list[tuple[Key, dict[str, Any]]]] = {}
    for key, request in items:
        groups.setdefault(key.photograph, []).append((key, request))
    return list(groups.values())
