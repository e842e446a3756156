"""The compiled module: whether it is there, and what it uses of this machine."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

from crfrnn._extras import install

# The search runs at import, because some versions of torch.compile cannot trace it.
_BUILT = importlib.util.find_spec("crfrnn._core") is not None

_REMEDY = (
    "Install a wheel of crfrnn for this system, or a C++ compiler before installing crfrnn; or "
    f"install torch, {install('torch')}, with which the slower reference engine runs"
)


def core_missing() -> str:
    """The reason why the C++ core cannot run, or "" if it can."""
    if not _BUILT:
        return "the C++ core was not built: no working compiler was found at installation"
    try:
        from crfrnn import _core  # noqa: F401 - a statement, which torch.compile can trace
    except ImportError as error:
        return f"the C++ core does not load: {error}"
    return ""


@functools.cache
def core() -> Any:
    """Return the compiled module. Its functions take NumPy arrays and CPU tensors.

    Raises:
        ImportError: there is none; the message gives the remedies.
    """
    missing = core_missing()
    if missing:
        raise ImportError(f"{missing}. {_REMEDY}")
    from crfrnn import _core

    return _core


def core_instructions() -> str:
    """The vector instructions that the C++ core uses here, or "" if it cannot run."""
    return "" if core_missing() else str(core().instruction_set())


def release_memory() -> None:
    """Return to the system the memory that the C++ core keeps for its next call."""
    if not core_missing():
        core().release_memory()
