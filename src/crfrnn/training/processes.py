"""Processes that torchrun started."""

from __future__ import annotations

import os


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def require_alone() -> None:
    """Raise if torchrun started this process, perhaps with others beside it."""
    if is_launched():
        raise ValueError("this command runs in one process: start it without torchrun")
