"""The queue of a job on a cluster, without Ray: a busy driver, and workers that do not start."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crfrnn.distributed import pool
from crfrnn.distributed.pool import Cluster
from crfrnn.distributed.worker import Answer
from crfrnn.io.options import ReadOptions
from crfrnn.jobs.pairs import Outputs, Pair
from crfrnn.jobs.resume import Origin
from crfrnn.jobs.settings import Settings
from crfrnn.jobs.work import Outcome
from crfrnn.offline.options import RefineOptions


class Died(Exception):
    """Stands for RayError."""


class Refused(Exception):
    """Stands for RayTaskError."""


class Ray:
    """Answers at once; a reference is the function that gives the answer.

    Args:
        starts: whether the n-th worker starts.
        works: whether the n-th worker survives its first pair.
    """

    exceptions = SimpleNamespace(RayError=Died, RayTaskError=Refused)

    def __init__(
        self, starts: Callable[[int], bool] = bool, works: Callable[[int], bool] = bool
    ) -> None:
        self.starts, self.works, self.count = starts, works, 0

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2}}]

    def remote(self, _worker: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._make))

    def _make(self, *_arguments: Any) -> Any:
        self.count += 1
        number = self.count
        assert number < 40, "workers are started for ever"

        def ready() -> int:
            if not self.starts(number):
                raise Died("no such device")
            return number

        def work(pair: Pair) -> Answer:
            if not self.works(number):
                raise Died("gone")
            return Answer(Outcome(pair.stem, "refined"), (), 1, number)

        return SimpleNamespace(
            ready=SimpleNamespace(remote=lambda: ready),
            work=SimpleNamespace(remote=lambda pair, _again: lambda: work(pair)),
        )

    def wait(
        self, references: list[Any], *, num_returns: int = 1, timeout: float
    ) -> tuple[list[Any], list[Any]]:
        return references[:num_returns], references[num_returns:]

    def get(self, reference: Callable[[], Any]) -> Any:
        return reference()

    def kill(self, _actor: Any) -> None:
        pass


def open_pool(ray: Ray, monkeypatch: pytest.MonkeyPatch, **options: Any) -> pool._Pool:
    monkeypatch.setattr(pool, "_BEAT", 0.001)
    here = Path()
    pairs = [Pair(stem, here / stem, here / stem, Outputs(here / stem)) for stem in "abcdef"]
    origin = Origin("refine", here, here, Settings(ReadOptions(), RefineOptions()))
    return pool._Pool(ray, pairs, origin, Outputs(here), Cluster(**options))


def test_a_busy_driver_does_not_count_as_a_slow_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = []
    for outcome in open_pool(Ray(), monkeypatch, time_limit=0.05).outcomes():
        statuses.append(outcome.status)
        time.sleep(0.1)  # as a function does that saves each row
    assert statuses == ["refined"] * 6


def test_workers_that_do_not_start_are_given_up_while_another_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = Ray(starts=lambda number: number == 1)
    outcomes = list(open_pool(ray, monkeypatch).outcomes())
    assert sorted(outcome.stem for outcome in outcomes) == list("abcdef")
    assert {outcome.status for outcome in outcomes} == {"refined"}


def test_a_job_ends_when_no_worker_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if one had started before."""
    ray = Ray(starts=lambda number: number == 1, works=lambda number: False)
    with pytest.raises(RuntimeError, match="no worker can start on the cluster: no such device"):
        list(open_pool(ray, monkeypatch).outcomes())
