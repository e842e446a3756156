"""Safety in forked processes: multiprocessing pools are a common way to run dense CRFs."""

from __future__ import annotations

import multiprocessing
import os

import torch

# Ids of processes in which torch may keep its threads. A module imported in a worker of a pool
# starts with an empty set: torch may have started threads before the fork.
_SETTLED: set[int] = set()
if type(multiprocessing.current_process()).__name__ != "ForkProcess":
    _SETTLED.add(os.getpid())


def settle() -> None:
    """Limit torch to one thread, once, in a process that was forked from another.

    Threads do not survive a fork, and torch would wait forever for those that it had started. One
    thread suffices: a pool computes one image per process.
    """
    if os.getpid() not in _SETTLED:
        _SETTLED.add(os.getpid())
        torch.set_num_threads(1)
