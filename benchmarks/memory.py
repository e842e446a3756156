"""The peak memory of one call, as Linux counts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")


def can_measure() -> bool:
    """Whether a process can read its own peak memory on this system."""
    return _STATUS.exists()


def peak_megabytes(call: Callable[[], Any]) -> float:
    """Return the megabytes by which a call lets this process grow.

    Memory that an earlier call left to the allocator does not count, so make one call per process.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = _kilobytes("VmRSS")
    call()
    return (_kilobytes("VmHWM") - before) / 1000


def _kilobytes(field: str) -> int:
    line = next(x for x in _STATUS.read_text(encoding="ascii").splitlines() if x.startswith(field))
    return int(line.split()[1])
