"""The maps of clamped pixels that `crfrnn refine --clamp` reads."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from crfrnn.io.arrays import read_arrays
from crfrnn.io.options import ReadOptions, Size
from crfrnn.io.scores import ARRAY_SUFFIXES, read_scores

_LABELS = ReadOptions(kind="labels")


def check_clamp(args: argparse.Namespace) -> None:
    """Raise unless the maps are a file for a file, or a folder for a folder."""
    if args.clamp is None:
        return
    if not args.clamp.exists():
        raise FileNotFoundError(f"--clamp {args.clamp}: no such file or folder")
    if args.clamp.is_dir() != args.image.is_dir():
        expected = "a folder" if args.image.is_dir() else "a file"
        raise ValueError(f"--clamp must be {expected}, like IMAGE; got {args.clamp}")


def read_clamp(path: Path, size: Size) -> np.ndarray:
    """Read a map (H, W): bool, or the classes of clamped pixels and `free_value`."""
    if path.suffix.lower() in ARRAY_SUFFIXES:
        arrays = list(read_arrays(path).values())
        if len(arrays) == 1 and arrays[0].dtype == np.bool_:
            if arrays[0].shape != size:
                raise ValueError(
                    f"{path}: a map must have the size of the image, {size}; got {arrays[0].shape}"
                )
            return arrays[0]
    return read_scores(path, size, _LABELS).labels()
