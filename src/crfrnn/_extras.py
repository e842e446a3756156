"""Optional packages, and the errors where one is missing."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any


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


def load(module: str, extra: str, what: object) -> Any:
    """Import a module of an optional package.

    Args:
        module: its full name, such as "nibabel" or "pycocotools.mask".
        extra: the extra of this package that installs it.
        what: who needs it, such as a file; the beginning of the message.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        if importlib.util.find_spec(name) is not None:  # installed, but it does not load
            raise ImportError(f"{what} needs {name}, which cannot be imported: {error}") from error
        raise ImportError(
            f'{what} needs {name}; install it with pip install "crfrnn[{extra}]"'
        ) from error
