"""Scores of a volume: NIfTI, or arrays in the axis order of nnU-Net or of nibabel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crfrnn.io.arrays import read_arrays
from crfrnn.io.options import ClassAxis, Kind, ReadOptions
from crfrnn.io.scores import Scores, are_quantized, dequantize, interpret_scores

from .source import Source, Window, same_grid
from .volumes import Volume, is_volume

#: The axes of an array that become class, z, y and x.
_ORDERS = {
    "c,zyx": (0, 1, 2, 3),
    "c,xyz": (0, 3, 2, 1),
    "xyz,c": (3, 2, 1, 0),
    "zyx": (0, 1, 2),
    "xyz": (2, 1, 0),
}

#: nnU-Net's names of the array of probabilities, in its versions 1 and 2.
_NNUNET = ("softmax", "probabilities")
_NAMES = (*_NNUNET, "logits", "probs", "energy", "labels", "scores")


@dataclass(frozen=True)
class VolumeOptions:
    """How scores lie in a volume, where the files do not say.

    Attributes:
        axes: "zyx" or "xyz", the order of the axes of an array; None if its size tells.
        offset: voxel (x, y, z) of the image where the first voxel of the scores lies; None if they
            cover the image, or the box that nnU-Net's first version cuts out.
        voxels: whether bandwidths of positions are in voxels; else they are in millimeters.
    """

    axes: Literal["xyz", "zyx"] | None = None
    offset: tuple[int, int, int] | None = None
    voxels: bool = False


@dataclass(frozen=True)
class VolumeScores:
    """Scores of a volume, or of a box of it.

    Attributes:
        scores: values (C, Z, Y, X), or labels (Z, Y, X), of the box.
        box: the window of the volume that they cover.
    """

    scores: Scores
    box: Window


def read_volume_scores(
    path: Path, image: Source, reading: ReadOptions, options: VolumeOptions
) -> VolumeScores:
    """Read the scores of a volume.

    Arrays are (C, Z, Y, X), as nnU-Net writes them, or (C, X, Y, Z) or (X, Y, Z, C), as nibabel
    does, or labels without C; the size of the volume tells which. Arrays named `softmax` or
    `probabilities` are nnU-Net's. Its first version stores only the box around the voxels that are
    not 0 in some modality. That box is found again in `image`; the pickle beside the array, which
    says where it lies, is not read.

    Args:
        path: a NIfTI file, or arrays.
        image: all modalities.
        reading: how to read scores; what refers to two axes does not apply.
        options: what the files do not say.

    Raises:
        ValueError: the scores do not fit the image, or several orders of axes fit.
    """
    if reading.canvas is not None or reading.align_corners or reading.apply_exif:
        raise ValueError(
            f"canvas, align_corners and apply_exif are for photographs, and {image.path} is a "
            "volume; leave them out"
        )
    if is_volume(path):
        source = Volume(path)
        if options.offset is None:
            same_grid(image, source)
        values = source.read(source.everything())
        values, name = values if source.channels > 1 else values[0], "scores"
    else:
        name, values = _pick(read_arrays(path), path, reading.kind)
        values = _to_zyx(values, name, path, image, reading.class_axis, options)
    box = _find_box(values.shape[-3:], name, path, image, options.offset)
    return VolumeScores(_interpret(values, name, path, reading), box)


def _pick(arrays: Mapping[str, Any], path: Path, kind: Kind) -> tuple[str, np.ndarray]:
    if are_quantized(arrays, kind):
        return "logits", dequantize(arrays)
    names = [name for name in _NAMES if name in arrays] or list(arrays)
    if len(names) != 1:
        raise ValueError(
            f"{path}: expected a single array, or one called {', '.join(_NAMES)}; got "
            f"{', '.join(arrays) or 'none'}"
        )
    return names[0], arrays[names[0]]


def _to_zyx(
    values: np.ndarray,
    name: str,
    path: Path,
    image: Source,
    class_axis: ClassAxis,
    options: VolumeOptions,
) -> np.ndarray:
    """Bring an array to (C, Z, Y, X) or (Z, Y, X)."""
    if values.ndim not in (3, 4):
        raise ValueError(
            f"{path}: expected (C, Z, Y, X), (C, X, Y, Z), (X, Y, Z, C) or one of these without C; "
            f"got shape {values.shape}"
        )
    if name in _NNUNET:
        values = values if values.ndim == 4 else values[None]
        return np.transpose(values, _ORDERS[f"c,{options.axes or 'zyx'}"])
    orders = {order: axes for order, axes in _ORDERS.items() if len(axes) == values.ndim}
    if options.axes is not None:
        orders = {order: axes for order, axes in orders.items() if options.axes in order}
    if class_axis != "auto" and values.ndim == 4:
        first = class_axis == "first"
        orders = {order: axes for order, axes in orders.items() if order.startswith("c,") == first}
    sizes = {
        order: tuple(values.shape[axis] for axis in axes)[-3:] for order, axes in orders.items()
    }
    if options.offset is None:
        orders = {order: axes for order, axes in orders.items() if sizes[order] == image.size}
    elif len(orders) > 1:
        orders = {
            order: axes
            for order, axes in orders.items()
            if _fits(sizes[order], options.offset, image)
        }
    if not orders:
        relation, remedy = (
            (
                "have the size of",
                "Resample them; if they cover only a box of it, give --offset X,Y,Z",
            )
            if options.offset is None
            else (f"fit from voxel {options.offset} on into", "Check --offset")
        )
        raise ValueError(
            f"{path}: the scores {values.shape} do not {relation} {image.path}, "
            f"{image.size[::-1]} (x, y, z), in {options.axes or 'any'} order of axes. {remedy}"
        )
    if len(orders) > 1:
        remedies = {
            "--axes zyx (as SimpleITK and nnU-Net have them) or --axes xyz (as nibabel has them)": {
                "zyx" in order for order in orders
            },
            "--channels-first or --channels-last": {order.startswith("c,") for order in orders},
        }
        open_ones = [remedy for remedy, answers in remedies.items() if len(answers) > 1]
        raise ValueError(
            f"{path}: the axes of the scores {values.shape} may be {' or '.join(orders)}; give "
            f"{', and '.join(open_ones)}"
        )
    (axes,) = orders.values()
    arranged: np.ndarray = values.transpose(axes)
    return arranged


def _fits(size: tuple[int, ...], offset: tuple[int, int, int], image: Source) -> bool:
    ends = (start + length for start, length in zip(offset[::-1], size, strict=True))
    return all(end <= length for end, length in zip(ends, image.size, strict=True))


def _find_box(
    size: tuple[int, ...],
    name: str,
    path: Path,
    image: Source,
    offset: tuple[int, int, int] | None,
) -> Window:
    if offset is not None:
        start: tuple[int, ...] = offset[::-1]
    elif size == image.size:
        return image.everything()
    elif name in _NNUNET:
        start = _nonzero_start(size, path, image)
    else:
        raise ValueError(f"{path}: the scores {size} do not have the size {image.size}")
    box = tuple(slice(low, low + length) for low, length in zip(start, size, strict=True))
    if any(
        part.start < 0 or part.stop > length for part, length in zip(box, image.size, strict=True)
    ):
        raise ValueError(
            f"{path}: the scores {size[::-1]} (x, y, z) from voxel {tuple(start)[::-1]} on reach "
            f"beyond {image.path}, {image.size[::-1]}; check --offset"
        )
    return box


def _nonzero_start(size: tuple[int, ...], path: Path, image: Source) -> tuple[int, ...]:
    """Find where nnU-Net cropped: the box around the voxels that some modality has."""
    present = (image.read(image.everything()) != 0).any(axis=0)
    start, found = [], []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        line = np.flatnonzero(present.any(axis=others))
        start.append(int(line[0]) if line.size else 0)
        found.append(int(line[-1]) + 1 - start[-1] if line.size else 0)
    if tuple(found) != size:
        raise ValueError(
            f"{path}: the scores {size[::-1]} (x, y, z) have neither the size of {image.path}, "
            f"{image.size[::-1]}, nor that of the box of its nonzero voxels, {tuple(found)[::-1]}. "
            "Give all modalities that the network had, or the first voxel of the scores: --offset "
            "X,Y,Z (the pickle beside them, crop_bbox, has it as z, y, x)"
        )
    return tuple(start)


def _interpret(values: np.ndarray, name: str, path: Path, options: ReadOptions) -> Scores:
    """Tell logits, probabilities and labels apart, by the rules for photographs."""
    size = values.shape[-3:]
    flat = (size[0] * size[1], size[2])
    kind = "probs" if name in _NNUNET else name
    if options.kind == "masks":
        raise ValueError(f"{path}: independent masks of a volume are not read; give class scores")
    if values.ndim == 4:
        options = replace(options, class_axis="first")
    scores = interpret_scores(
        {kind: values.reshape(*values.shape[:-3], *flat)}, path, flat, options
    )
    return replace(scores, values=scores.values.reshape(*scores.values.shape[:-2], *size))
