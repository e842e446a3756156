"""The version, in a module that does not import torch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Read the version in the metadata of the installation."""
    try:
        return version("crfrnn")
    except PackageNotFoundError:  # a checkout on the path has no metadata
        return "not installed"
