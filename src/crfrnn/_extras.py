"""Parts of the library that need torch, and the error where torch is missing."""

from __future__ import annotations

import importlib.util


def has_torch() -> bool:
    """Whether torch is installed."""
    return importlib.util.find_spec("torch") is not None


def require_torch(what: str) -> None:
    """Raise ImportError with the remedy if torch is not installed; `what` names who needs it."""
    if not has_torch():
        raise ImportError(
            f'{what} needs torch; install it with pip install "crfrnn[torch]", or install a build '
            f"of torch that suits your machine first"
        )
