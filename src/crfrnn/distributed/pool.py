"""Workers on a Ray cluster; any of them may die or hang without loss.

Ray Data would restart a worker that died, but a file that kills every worker would end the job, and
one that hangs would stop it. So the pool keeps its own queue: it knows which pair each worker has,
ends a worker that takes too long, and gives up a pair after two workers died of it.
"""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crfrnn._extras import load
from crfrnn.io.files import describe
from crfrnn.io.paths import AnyPath
from crfrnn.jobs.pairs import Outputs, Pair
from crfrnn.jobs.resume import Origin, record_of
from crfrnn.jobs.work import Outcome
from crfrnn.offline.device import PROCESSORS

from .worker import Answer, Worker

#: Pairs given to a worker at once, so that the next one is always at hand.
_AHEAD = 2
#: After this many failed starts in a row, failed workers are no longer replaced. The job ends if
#: no worker is running.
_MOST_FAILED_STARTS = 3
#: Workers that may die of a pair before it fails.
_MOST_DEATHS = 2
#: Seconds between looks at the clock.
_BEAT = 0.5
#: Of a GPU.
_LEAST_SHARE = 0.01
#: Bytes for Ray's store of objects, which holds no pixels.
_STORE = 100 << 20


@dataclass(frozen=True)
class Cluster:
    """Where to work.

    Args:
        address: "host:port" of a Ray cluster, or "auto"; by default what RAY_ADDRESS names, the
            one that this process is connected to, or one on this machine alone.
        workers: how many; by default as many as the cluster has processors for.
        cpus: processors per worker, which are also the threads of its engine.
        time_limit: seconds for a photograph, including reading and writing; then it fails.
        gpus: of a worker: 1 to refine on a GPU of its own, or its share of one, such as 0.5; 0 to
            refine on processors.

    Example:
        >>> from crfrnn.distributed import Cluster
        >>> Cluster(workers=2).cpus
        1
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    time_limit: float = 600.0
    gpus: float = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("workers", 1), ("cpus", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}")
        if not self.time_limit > 0:
            raise ValueError(f"time_limit must be positive, in seconds; got {self.time_limit}")
        if self.gpus and not _LEAST_SHARE <= self.gpus <= 1:
            raise ValueError(
                f"gpus must be 0, or from {_LEAST_SHARE} to 1, as a worker uses one GPU or a share "
                f"of it; got {self.gpus}"
            )

    @property
    def device(self) -> str:
        """The device of a worker; Ray shows it only the GPU that it was given."""
        return "cuda" if self.gpus else PROCESSORS


@dataclass
class _Place:
    """A worker, the pairs it was given, and since when it has worked on the first of them."""

    actor: Any
    starting: Any
    queue: deque[tuple[Any, Pair]] = field(default_factory=deque)
    since: float | None = None


def refine_pairs(
    pairs: Sequence[Pair], origin: Origin, folders: Outputs, cluster: Cluster
) -> Generator[Outcome, None, None]:
    """Refine pairs on a cluster; yield each outcome as it comes.

    Raises:
        ImportError: ray is not installed.
        OSError: a disk is full, or the cluster cannot be reached.
        ValueError: the cluster is too small for a worker.
        RuntimeError: no worker can start.
    """
    if not pairs:
        return
    ray = load("ray", "ray", "--on ray")
    with _connected(ray, cluster):
        pool = _Pool(ray, pairs, origin, folders, cluster)
        try:
            yield from pool.outcomes()
        finally:
            pool.close()


class _Pool:
    def __init__(
        self, ray: Any, pairs: Sequence[Pair], origin: Origin, folders: Outputs, cluster: Cluster
    ) -> None:
        self.ray, self.cluster = ray, cluster
        self.waiting = deque(pairs)
        self.deaths: dict[str, int] = {}
        self.failed_starts = 0  # in a row
        count = min(_workers(ray, cluster), len(pairs))
        given = {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus, "max_restarts": 0}
        kind = ray.remote(Worker).options(**given)
        record = _absolute_path(record_of(origin, folders))
        self._make: Callable[[], Any] = lambda: kind.remote(origin, record, cluster.cpus)
        self.places = [self._place() for _ in range(count)]

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcome of every pair."""
        while self.waiting or any(place.queue for place in self.places):
            self._give()
            heads = {self._head(place): place for place in self.places if self._head(place)}
            ready, _ = self.ray.wait(list(heads), num_returns=1, timeout=_BEAT)
            for head in ready:
                outcome = self._take(heads[head], head)
                if outcome is not None:
                    yield outcome
            yield from self._overdue()

    def close(self) -> None:
        """End the workers. A file that one was writing is then whole, or not there."""
        for place in self.places:
            self.ray.kill(place.actor)

    def _place(self) -> _Place:
        actor = self._make()
        return _Place(actor, actor.ready.remote())

    @staticmethod
    def _head(place: _Place) -> Any:
        return place.starting if place.starting is not None else place.queue and place.queue[0][0]

    def _give(self) -> None:
        """Give pairs to the workers that have started, the idle ones first."""
        for depth in range(1, _AHEAD + 1):
            for place in self.places:
                if not self.waiting:
                    return
                if place.starting is None and len(place.queue) < depth:
                    pair = self.waiting.popleft()
                    answer = place.actor.work.remote(_absolute(pair), pair.stem in self.deaths)
                    place.queue.append((answer, pair))
                    place.since = place.since or time.monotonic()

    def _take(self, place: _Place, head: Any) -> Outcome | None:
        """Take the answer of a worker, or note its death."""
        try:
            answer = self.ray.get(head)
        except self.ray.exceptions.RayTaskError as error:
            if place.starting is None and isinstance(error.cause, OSError):
                raise OSError(str(error.cause)) from None  # a full disk
            return self._died(place, _last_line(error))
        except self.ray.exceptions.RayError as error:
            return self._died(place, _last_line(error))
        if place.starting is not None:
            place.starting, self.failed_starts = None, 0
            return None
        assert isinstance(answer, Answer)
        place.queue.popleft()
        place.since = time.monotonic() if place.queue else None
        for warning in answer.warnings:
            warnings.warn(warning, stacklevel=2)
        return answer.outcome

    def _overdue(self) -> Iterator[Outcome]:
        """End the workers whose pair takes too long, and yield these pairs as failed."""
        limit = self.cluster.time_limit
        for place in self.places:
            if place.since is not None and time.monotonic() - place.since > limit:
                if self.ray.wait([self._head(place)], timeout=0)[0]:
                    continue  # its answer waits for us
                pair = place.queue[0][1]
                self._replace(place)
                yield Outcome(pair.stem, "failed", error=f"took longer than {limit:g} s")

    def _died(self, place: _Place, why: str) -> Outcome | None:
        """Replace a worker that died; return a failure if its pair killed too many."""
        if place.starting is not None:
            self.failed_starts += 1
            if self.failed_starts >= _MOST_FAILED_STARTS:
                if all(other.starting is not None for other in self.places):
                    raise RuntimeError(
                        f"no worker can start on the cluster: {why}. Each of its machines needs "
                        "crfrnn and the packages of the store"
                    )
                self.ray.kill(place.actor)
                self.places = [other for other in self.places if other is not place]
                return None
            time.sleep(_BEAT)
        pair = place.queue[0][1] if place.queue else None
        self._replace(place)
        if pair is None:
            return None
        self.deaths[pair.stem] = self.deaths.get(pair.stem, 0) + 1
        if self.deaths[pair.stem] < _MOST_DEATHS:
            self.waiting.appendleft(pair)
            return None
        return Outcome(
            pair.stem,
            "failed",
            error=f"{_MOST_DEATHS} workers died of it; out of memory? ({why})",
        )

    def _replace(self, place: _Place) -> None:
        """End a worker, start another, and put its pairs behind the first back into the queue."""
        self.ray.kill(place.actor)
        for _, pair in list(place.queue)[:0:-1]:
            self.waiting.appendleft(pair)
        fresh = self._place()
        place.actor, place.starting, place.since = fresh.actor, fresh.starting, None
        place.queue.clear()


def _absolute(pair: Pair) -> Pair:
    """Return a pair with absolute paths: workers run in another folder."""
    outputs = {name: _absolute_path(path) for name, path in pair.outputs.paths().items()}
    return Pair(
        pair.stem,
        _absolute_path(pair.image),
        _absolute_path(pair.scores),
        Outputs(**outputs),
        None if pair.clamp is None else _absolute_path(pair.clamp),
    )


def _absolute_path(path: AnyPath) -> AnyPath:
    return path.absolute() if isinstance(path, Path) else path


def _workers(ray: Any, cluster: Cluster) -> int:
    """Return how many workers to start.

    Raises:
        ValueError: none fits a machine, so Ray would wait for another one forever.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = sum(_fitting(machine, cluster) for machine in machines)
    if fitting:
        return min(cluster.workers or fitting, fitting)
    gpus = int(sum(machine.get("GPU", 0) for machine in machines))
    if cluster.gpus and not gpus:
        raise ValueError(
            f"a worker with {cluster.gpus:g} GPUs does not fit the cluster, in which Ray finds "
            "none; leave the GPUs out to refine on processors"
        )
    most = int(max((machine.get("CPU", 0) for machine in machines), default=0))
    beside = f" beside {cluster.gpus:g} GPUs" if cluster.gpus else ""
    raise ValueError(
        f"a worker with {cluster.cpus} processors{beside} does not fit the cluster, whose machines "
        f"have {most} at most; give a smaller number of processors"
    )


def _fitting(machine: Mapping[str, float], cluster: Cluster) -> int:
    """Return how many workers fit a machine; a worker has no shares of two GPUs."""
    fitting = int(machine.get("CPU", 0)) // cluster.cpus
    if cluster.gpus:
        fitting = min(fitting, int(machine.get("GPU", 0)) * int(1 / cluster.gpus))
    return fitting


@contextmanager
def _connected(ray: Any, cluster: Cluster) -> Iterator[None]:
    """Connect to a cluster, or start one here, unless this process is connected already."""
    if ray.is_initialized():
        yield
        return
    _require_listening(cluster.address or os.environ.get("RAY_ADDRESS", ""))
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if cluster.address is None and not os.environ.get("RAY_ADDRESS"):
        options |= {"include_dashboard": False, "object_store_memory": _STORE}
        if cluster.workers is not None:
            options["num_cpus"] = cluster.workers * cluster.cpus
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's, of its own future
        try:
            ray.init(address=cluster.address, **options)
        except Exception as error:  # it raises several kinds
            raise ConnectionError(f"Ray does not start or connect ({_last_line(error)})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_listening(address: str) -> None:
    """Raise unless something listens at HOST:PORT: Ray would wait long, then end this process."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:  # "auto", "local", ray://...
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConnectionError(
            f"the Ray cluster at {address} cannot be reached ({describe(error)}); check the address"
        ) from error


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
