"""The options of `crfrnn refine`, checked and resolved against the preset."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn import _checks
from crfrnn.crf.kernels import Kernel
from crfrnn.io.files import read_arrays
from crfrnn.io.score_grid import ClassAxis, Size
from crfrnn.io.score_kinds import Kind
from crfrnn.presets import find_preset


@dataclass(frozen=True)
class Settings:
    """How to read the scores and how to refine them; the fields are those of the options."""

    kind: Kind
    class_axis: ClassAxis
    canvas: Size | None
    align_corners: bool
    apply_exif: bool
    preset: str
    kernels: tuple[Kernel, ...]
    iterations: int
    normalization: str
    filter: str
    tol: float | None
    precision: str
    engine: str | None
    compatibility: tuple[tuple[float, ...], ...] | None
    confidence: float
    num_classes: int | None
    ignore_index: int

    def parameters(self) -> dict[str, Any]:
        """Return the settings as JSON spells them."""
        kernels = [{"kernel": type(kernel).__name__, **asdict(kernel)} for kernel in self.kernels]
        return {**asdict(self), "kernels": kernels}


def make_settings(args: argparse.Namespace) -> Settings:
    """Turn the options into settings, checking those that need no file of scores."""
    preset = find_preset(args.preset)
    steps = preset.iterations if args.iterations is None else args.iterations
    return Settings(
        kind=args.kind,
        class_axis=args.class_axis,
        canvas=args.canvas,
        align_corners=args.align_corners,
        apply_exif=args.apply_exif,
        preset=args.preset,
        kernels=tuple(_override(kernel, args) for kernel in preset.kernels),
        iterations=_checks.count("iterations", steps),
        normalization=args.normalization or preset.normalization,
        filter=args.filter,
        tol=None if args.tol is None else _checks.positive("tol", args.tol, "a mean change")[0],
        precision=args.precision,
        engine=args.engine,
        compatibility=_compatibility(args.compatibility),
        confidence=args.confidence,
        num_classes=args.num_classes,
        ignore_index=args.ignore_index,
    )


def _override(kernel: Any, args: argparse.Namespace) -> Any:
    """Replace the numbers of a preset's kernel that were given as options."""
    prefix = type(kernel).__name__.lower()
    given = {field.name: getattr(args, f"{prefix}_{field.name}", None) for field in fields(kernel)}
    return replace(kernel, **{name: value for name, value in given.items() if value is not None})


def _compatibility(path: Path | None) -> tuple[tuple[float, ...], ...] | None:
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
