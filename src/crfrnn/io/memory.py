"""The memory of this machine, and what a header may ask of it."""

from __future__ import annotations

import os
from pathlib import Path


def require_memory(path: Path, needed: int, what: str = "its header asks for") -> None:
    """Raise ValueError if an array of `needed` bytes cannot fit the memory of this machine.

    A header takes a few bytes to ask for any number of them. The error comes before the allocation,
    which systems grant readily and take back by killing the process.
    """
    installed = physical_memory()
    if installed is not None and needed > installed:
        raise ValueError(
            f"{path}: {what} {spell_bytes(needed)}, more than the {spell_bytes(installed)} of "
            "memory of this machine; the file may be damaged"
        )


def physical_memory() -> int | None:
    """Return the memory of this machine in bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def spell_bytes(count: float) -> str:
    """Spell a number of bytes in the unit that suits it."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.4g} {unit}"
