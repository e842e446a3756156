"""measure(): time and peak memory of a call."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crfrnn.core.native import release_memory

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """Time and memory of a call.

    Attributes:
        seconds: wall time, the median of several.
        megabytes: peak memory minus the memory in use before. Buffers that libraries keep for
            their next call do not count as in use. None where the system does not report it.
    """

    seconds: float
    megabytes: float | None


def measure(work: Callable[[], Any], device: torch.device, *, repeats: int = 3) -> Cost:
    """Call `work` once to warm up, once for its memory, and `repeats` times for its time."""
    work()
    before = _reset(device)
    work()
    _finish(device)
    peak = _peak(device)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        _finish(device)
        times.append(time.perf_counter() - start)
    used = None if before is None or peak is None else max(0.0, peak - before) / 2**20
    return Cost(sorted(times)[len(times) // 2], used)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset(device: torch.device) -> float | None:
    """Reset the peak, and return the bytes in use now."""
    _finish(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    if not _CLEAR.exists():
        return None
    # Freed memory that is kept for the next call is still resident; a call that reuses it would
    # seem to need none.
    gc.collect()
    release_memory()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is not None:
        trim(0)
    try:
        _CLEAR.write_text("5")  # Linux: resets the peak to the resident memory
    except OSError:
        return None
    return _status("VmRSS")


def _peak(device: torch.device) -> float | None:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return _status("VmHWM")


def _status(name: str) -> float | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return float(kilobytes[0]) * 1024 if kilobytes else None
