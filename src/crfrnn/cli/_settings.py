"""Settings, checked, from the options of a command line."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from crfrnn.io.arrays import read_arrays
from crfrnn.io.options import ReadOptions
from crfrnn.jobs.settings import Settings
from crfrnn.offline.options import RefineOptions
from crfrnn.presets import find_preset

Definition = TypeVar("Definition", ReadOptions, RefineOptions)


def make_settings(args: argparse.Namespace) -> Settings:
    """Turn the options into settings, and check them as far as that needs no scores.

    An option that a command lacks keeps its default, such as the canvas in `segment`.
    """
    kernels = [_override(kernel, args) for kernel in find_preset(args.preset).kernels]
    matrix = _read_compatibility(args.compatibility)
    return Settings(
        make_reading(args),
        _make(RefineOptions, args, kernels=kernels, compatibility=matrix),
    )


def make_reading(args: argparse.Namespace) -> ReadOptions:
    """Turn the options on how to read scores into checked ones."""
    return _make(ReadOptions, args)


def _make(definition: type[Definition], args: argparse.Namespace, **others: Any) -> Definition:
    """Make the options of a definition from those that a command declared, and from others."""
    names = {field.name for field in fields(definition) if field.init}
    given = {name: value for name, value in vars(args).items() if name in names}
    return definition(**{**given, **others})


def _override(kernel: Any, args: argparse.Namespace) -> Any:
    """Replace the numbers of a preset's kernel that were given as options."""
    prefix = type(kernel).__name__.lower()
    given = {field.name: getattr(args, f"{prefix}_{field.name}", None) for field in fields(kernel)}
    return replace(kernel, **{name: value for name, value in given.items() if value is not None})


def _read_compatibility(path: Path | None) -> tuple[tuple[float, ...], ...] | None:
    """Read a matrix of penalties, as nested tuples so that settings can be compared."""
    if path is None:
        return None
    arrays = list(read_arrays(path).values())
    matrix = arrays[0] if len(arrays) == 1 else np.empty(0)
    if matrix.ndim != 2 or matrix.dtype.kind not in "iuf":
        raise ValueError(
            f"{path}: compatibility must be a (C, C) array of numbers; got {matrix.dtype} of shape "
            f"{matrix.shape}"
        )
    return tuple(tuple(row) for row in matrix.astype(float).tolist())
