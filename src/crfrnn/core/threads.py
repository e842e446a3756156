"""The number of threads, and safety in forked processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

#: Images of at most this many pixels are computed several at a time.
SMALL_IMAGE = 1 << 16

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Ids of processes that may use more than one thread. A module imported in a worker of a pool starts
# with an empty set: torch may have started threads before the fork.
_SETTLED: set[int] = set()
if type(multiprocessing.current_process()).__name__ != "ForkProcess":
    _SETTLED.add(os.getpid())

#: Its attribute `number`, if set, is the limit of the calling thread.
_limit = threading.local()


def threads() -> int:
    """The number of threads that a call of the core uses.

    This is the limit of the calling thread, if it has one. Otherwise, if torch is loaded, it is
    torch's number. Otherwise it is OMP_NUM_THREADS, or the number of processors of this process.
    """
    limit: int | None = getattr(_limit, "number", None)
    if limit is not None:
        return limit
    torch = _torch()
    if torch is not None:
        return int(torch.get_num_threads())
    if not _is_settled():
        return 1
    given = os.environ.get("OMP_NUM_THREADS", "")  # a list holds the numbers of nested loops
    first = given.partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else _processors()


def share_out(images: int, pixels: int) -> tuple[int, int]:
    """How many images of a batch to compute at a time, and the threads that each of them gets.

    Small images get one thread each, because threads that share one mostly wait for each other.
    Large images are computed one by one, because each needs memory of its own.
    """
    total = threads()
    together = max(1, min(images, total)) if pixels <= SMALL_IMAGE else 1
    return together, total // together


def for_each_image(
    function: Callable[[_Item, int], _Result], items: Sequence[_Item], pixels: int
) -> list[_Result]:
    """Call `function(item, threads)` for each image of a batch, as many at a time as is best."""
    together, each = share_out(len(items), pixels)
    if together == 1:
        return [function(item, each) for item in items]
    with ThreadPoolExecutor(together) as pool:
        return list(pool.map(lambda item: function(item, each), items))


def limit_threads(number: int | None) -> None:
    """Limit the calls from this thread, and torch, to `number` threads; None removes the limit."""
    _limit.number = number
    torch = _torch()
    if torch is not None and number is not None:
        torch.set_num_threads(number)


@contextmanager
def limited_threads(number: int) -> Iterator[None]:
    """Limit the calls from this thread within a `with` block."""
    limit: int | None = getattr(_limit, "number", None)
    torch = _torch()
    before = None if torch is None else torch.get_num_threads()
    limit_threads(number)
    try:
        yield
    finally:
        _limit.number = limit
        if torch is not None:
            torch.set_num_threads(before)


def settle() -> None:
    """Limit torch to one thread, once, in a process that was forked from another.

    Multiprocessing pools are a common way to run dense CRFs. Threads do not survive a fork, and
    torch would wait forever for those that it had started. One thread suffices: a pool computes one
    image per process.
    """
    torch = _torch()
    if torch is not None and not _is_settled():
        _SETTLED.add(os.getpid())
        torch.set_num_threads(1)


def _is_settled() -> bool:
    return os.getpid() in _SETTLED


def _torch() -> Any:
    """The module torch if it is loaded, without loading it."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "set_num_threads") else None  # it may be half imported


def _processors() -> int:
    count = getattr(os, "process_cpu_count", None)  # from Python 3.13 on
    if count is not None:
        return int(count() or 1)
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
