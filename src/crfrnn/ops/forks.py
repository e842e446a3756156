"""Pools of forked processes, which people run dense CRFs in."""

from __future__ import annotations

import multiprocessing
import os

import torch

# Processes in which torch may keep its threads. Empty if this very process is a fork of a pool.
_SETTLED: set[int] = set()
if type(multiprocessing.current_process()).__name__ != "ForkProcess":
    _SETTLED.add(os.getpid())


def settle() -> None:
    """Give torch one thread, once, in a process that was forked from another.

    Threads do not survive a fork, and torch would wait for its own for ever. A pool computes one
    image a process anyway.
    """
    if os.getpid() not in _SETTLED:
        _SETTLED.add(os.getpid())
        torch.set_num_threads(1)
