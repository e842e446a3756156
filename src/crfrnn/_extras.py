"""Parts of the library that need more than a plain install, and the error that names the remedy."""

from __future__ import annotations

import importlib.util

#: What each extra brings, as `pip` takes it; a test compares this with pyproject.toml.
EXTRAS = {
    "torch": ("torch>=2.6", "jaxtyping", "safetensors"),
    "completion": ("shtab",),
    "demo": ("scikit-image",),
    "tune": ("optuna>=4",),
    "distributed": ("lightning-fabric>=2.4",),
    "tensorboard": ("tensorboard",),
    "transformers": ("transformers>=4.50",),
    "gpu": ("triton",),
}


def install(extra: str) -> str:
    """Return the command that brings what an extra names; it needs no release of crfrnn.

    Example:
        >>> from crfrnn._extras import install
        >>> install("tune")
        'pip install "optuna>=4"'
    """
    packages = EXTRAS[extra]
    quoted = (f'"{package}"' if ">" in package else package for package in packages)
    return f"pip install {' '.join(quoted)}"


def has_torch() -> bool:
    """Whether torch is installed."""
    return importlib.util.find_spec("torch") is not None


def require_torch(what: str) -> None:
    """Raise ImportError with the remedy if torch is not installed; `what` names who needs it."""
    if not has_torch():
        raise ImportError(
            f"{what} needs torch; install it with {install('torch')}, or install a build of torch "
            "that suits your machine first"
        )
