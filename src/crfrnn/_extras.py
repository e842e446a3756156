"""Parts of the library that need more than a plain install, and the error that names the remedy."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

#: What each extra brings, as `pip` takes it; a test compares this with pyproject.toml.
EXTRAS = {
    "torch": ("torch>=2.6", "jaxtyping", "safetensors"),
    "completion": ("shtab",),
    "demo": ("scikit-image",),
    "app": ("gradio>=6.31", "scikit-image"),
    "tune": ("optuna>=4",),
    "distributed": ("lightning-fabric>=2.4",),
    "tensorboard": ("tensorboard",),
    "transformers": ("transformers>=4.50",),
    "gpu": ("triton",),
    "hub": ("huggingface_hub>=0.36",),
    "raster": ("rasterio>=1.4",),
    "volume": ("nibabel>=5",),
    "coco": ("pycocotools>=2.0.8",),
    "remote": ("fsspec",),
    "parquet": ("pyarrow",),
    "ray": ("ray>=2.40",),
    "hdf5": ("h5py",),
    "safetensors": ("safetensors",),
    "zarr": ("zarr>=3.0.8",),
}


def install(extra: str) -> str:
    """Return what brings the packages of an extra, without a release of crfrnn, and its name.

    Example:
        >>> from crfrnn._extras import install
        >>> install("tune")
        'pip install "optuna>=4" (the extra crfrnn[tune])'
    """
    packages = EXTRAS[extra]
    quoted = (f'"{package}"' if ">" in package else package for package in packages)
    return f"pip install {' '.join(quoted)} (the extra crfrnn[{extra}])"


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


def load(module: str, extra: str, what: object) -> Any:
    """Import a module of an optional package.

    Args:
        module: its full name, such as "nibabel" or "pycocotools.mask".
        extra: the extra that brings it, a key of `EXTRAS`.
        what: who needs it, such as a file; the beginning of the message.

    Raises:
        ImportError: it is not installed; the message says what to type.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        if importlib.util.find_spec(name) is not None:  # installed, but it does not load
            raise ImportError(f"{what} needs {name}, which cannot be imported: {error}") from error
        raise ImportError(f"{what} needs {name}; install it with {install(extra)}") from error
