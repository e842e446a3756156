"""The version, for those who must not import torch to tell it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The version in the metadata of the installation."""
    try:
        return version("crfrnn")
    except PackageNotFoundError:  # a checkout on the path
        return "not installed"
