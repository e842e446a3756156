"""Refining a volume from files to a file, with bandwidths in millimeters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn.crf.kernel import Kernel
from crfrnn.io.files import require_writable
from crfrnn.io.locks import claimed
from crfrnn.io.options import DEFAULTS, ReadOptions
from crfrnn.io.scores import Scores
from crfrnn.offline.guard import Guarded
from crfrnn.offline.inputs import Inputs
from crfrnn.offline.options import RefineOptions
from crfrnn.offline.refine import refine_inputs
from crfrnn.offline.refined import Refined
from crfrnn.offline.verdict import Changed

from .clamp_map import ClampMap
from .scaling import Range, find_scaling
from .source import Source, Stack, Window
from .volume_scores import VolumeOptions, VolumeScores, read_volume_scores
from .volumes import Volume


@dataclass(frozen=True)
class RefinedVolume:
    """What `refine_volume` returns.

    Attributes:
        probs: (C, Z, Y, X) approximate marginals of the box that the scores cover.
        labels: (Z, Y, X) of the box, as written.
        box: that box, as a window of the volume.
        kind: "logits", "probs" or "labels", what the scores were.
        changed: what the CRF changed.
        guarded: what the guard did; None without it.
        engine: the engine that was used.
        seconds: time taken, with reading and writing.
        kernels: the kernels, with bandwidths in voxels.
        notes: what was assumed, for the user to confirm.
    """

    probs: np.ndarray
    labels: np.ndarray
    box: Window
    kind: str
    changed: Changed
    guarded: Guarded | None
    engine: str
    seconds: float
    kernels: tuple[Kernel, ...]
    notes: tuple[str, ...]


def refine_volume(
    image: str | Path | Sequence[str | Path],
    scores: str | Path,
    output: str | Path,
    *,
    probs: str | Path | None = None,
    clamp: str | Path | None = None,
    refining: RefineOptions | None = None,
    reading: ReadOptions = DEFAULTS,
    options: VolumeOptions | None = None,
    ranges: Sequence[Range] = (),
) -> RefinedVolume:
    """Refine the scores of a volume, and write labels with the affine and header of the image.

    Args:
        image: a NIfTI file (X, Y, Z) or (X, Y, Z, channels), or several on the same grid, such as
            the modalities of a scan. Each modality is a channel.
        scores: probabilities, logits or labels: NIfTI, nnU-Net's `.npz`, or another array; see
            `read_volume_scores`.
        output: the `.nii` or `.nii.gz` to write. Outside of the box that the scores cover, it is 0.
        probs: also write the probabilities, as channels; None does not.
        clamp: a NIfTI label map on the grid of the image: the class of each clamped voxel, and 255
            (65535 from 256 classes on) for free ones.
        refining: how to refine; bandwidths of positions are in millimeters. Default: the preset
            "deeplab".
        reading: how to read scores.
        options: how scores lie in the volume, where the files do not say.
        ranges: the values of the image that become 0..255, one range or one per channel. Default:
            bytes as they are; otherwise the percentiles 1 and 99 of the voxels other than 0, per
            channel.

    Raises:
        ImportError: nibabel is not installed.
        ValueError: a file is damaged, the files do not fit, or another job is writing the same
            output.

    Example:
        >>> import tempfile, nibabel, numpy as np
        >>> from pathlib import Path
        >>> from crfrnn.containers.refine_volume import refine_volume
        >>> folder = Path(tempfile.mkdtemp())
        >>> scan = np.zeros((6, 5, 4), np.int16); scan[3:] = 500
        >>> nibabel.save(nibabel.Nifti1Image(scan, np.diag([1, 1, 3, 1])), folder / "t1.nii.gz")
        >>> certain = np.where(scan.T > 0, 0.9, 0.1)
        >>> np.savez(folder / "case.npz", probabilities=np.stack([1 - certain, certain]))
        >>> result = refine_volume(folder / "t1.nii.gz", folder / "case.npz", folder / "seg.nii.gz")
        >>> np.asarray(nibabel.load(folder / "seg.nii.gz").dataobj)[:, 0, 0].tolist()
        [0, 0, 0, 1, 1, 1]
    """
    start = time.perf_counter()
    job = open_volume(
        image,
        scores,
        clamp=clamp,
        refining=refining or RefineOptions(),
        reading=reading,
        options=options or VolumeOptions(),
        ranges=ranges,
    )
    for path in (output, probs):
        if path is not None:
            require_writable(Path(path))
    with claimed(Path(output), "refine"):
        refined = _refine(job)
        labels = refined.labels[0].astype(label_type(refined.probs.shape[1]))
        if probs is not None:
            count = refined.probs.shape[1]
            with job.source.create(Path(probs), count, np.dtype(np.float32)) as write:
                write(job.given.box, refined.probs[0])
        with job.source.create(Path(output), 1, labels.dtype) as write:
            write(job.given.box, labels[None])
    assert isinstance(refined.changed, list)  # of the batch
    return RefinedVolume(
        probs=refined.probs[0],
        labels=labels,
        box=job.given.box,
        kind=job.given.scores.kind,
        changed=refined.changed[0],
        guarded=refined.guarded[0] if isinstance(refined.guarded, list) else None,
        engine=refined.engine,
        seconds=round(time.perf_counter() - start, 3),
        kernels=job.refining.numbers.kernels,
        notes=job.notes,
    )


@dataclass(frozen=True)
class VolumeJob:
    """What `refine_volume` is about to do.

    Attributes:
        source: the image, all modalities.
        given: its scores, read.
        guide: (channels, Z, Y, X) of the box of the scores, on 0..255.
        mask: (Z, Y, X) bool, where the guide has data; None if everywhere.
        clamp: (Z, Y, X) classes of clamped voxels, in the box; None without a map.
        refining: how to refine, with bandwidths in voxels.
        classes: number of classes.
        notes: what was assumed, for the user to confirm.
    """

    source: Source
    given: VolumeScores
    guide: np.ndarray
    mask: np.ndarray | None
    clamp: np.ndarray | None
    refining: RefineOptions
    classes: int
    notes: tuple[str, ...]


def open_volume(
    image: str | Path | Sequence[str | Path],
    scores: str | Path,
    *,
    clamp: str | Path | None,
    refining: RefineOptions,
    reading: ReadOptions,
    options: VolumeOptions,
    ranges: Sequence[Range],
) -> VolumeJob:
    """Read the files, and settle how to refine them. The arguments are those of `refine_volume`.

    Raises:
        ImportError: nibabel is not installed.
        ValueError: a file is damaged, or the files do not fit.
    """
    paths = [image] if isinstance(image, (str, Path)) else list(image)
    volumes = [Volume(Path(path)) for path in paths]
    source: Source = volumes[0] if len(volumes) == 1 else Stack(volumes)
    given = read_volume_scores(Path(scores), source, reading, options)
    guide, mask, how = _guide(source, given, ranges)
    kernels = refining.numbers.kernels
    if not options.voxels:
        kernels = tuple(in_grid_units(kernel, source.spacing) for kernel in kernels)
    classes = _count_classes(given.scores, refining)
    held = None
    if clamp is not None:
        held = ClampMap(Path(clamp), source, classes).read(given.box)
    notes = (
        *(str(note) for note in given.scores.notes),
        f"image {how}",
        _spell_spacing(source, options),
    )
    refining = replace(refining, kernels=kernels)
    return VolumeJob(source, given, guide, mask, held, refining, classes, notes)


def _count_classes(given: Scores, refining: RefineOptions) -> int:
    if given.kind != "labels":
        return max(2, len(given.values))
    if refining.num_classes is not None:
        return refining.num_classes
    known = given.values[given.values != refining.ignore_index]
    return max(2, int(known.max(initial=0)) + 1)


def _refine(job: VolumeJob) -> Refined[np.ndarray]:
    """Refine a batch of one: without it, four channels of slices look like a batch of images."""
    mask, clamp = (None if part is None else part[None] for part in (job.mask, job.clamp))
    given = job.given.scores
    inputs = Inputs(
        job.guide[None], given.kind, given.values[None], mask, clamp, channels_last=False
    )
    return refine_inputs(inputs, job.refining)


def in_grid_units(kernel: Any, spacing: tuple[float, ...]) -> Any:
    """Return a kernel whose bandwidth of the position is divided by the spacing of the grid.

    Args:
        kernel: its `position` is one number, or one per axis in the order (x, y, z).
        spacing: per axis of the grid, so in the order (z, y, x).
    """
    position = kernel.bandwidths().get("position")
    if position is None:
        return kernel
    steps = spacing[::-1]
    numbers = position if isinstance(position, (tuple, list)) else (position,) * len(steps)
    if len(numbers) != len(steps):
        raise ValueError(
            f"{type(kernel).__name__} position must be one number, or one for each of "
            f"{len(steps)} axes (x, y, z); got {position}"
        )
    divided = tuple(number / step for number, step in zip(numbers, steps, strict=True))
    return replace(kernel, position=divided)


def label_type(classes: int) -> np.dtype:
    """Return the smallest unsigned type that holds every label."""
    return np.dtype(np.uint8 if classes <= 256 else np.uint16)


def _guide(
    source: Source, given: VolumeScores, ranges: Sequence[Range]
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Return the guide of the box on 0..255, where it has data, and what became of its range."""
    values = source.read(given.box)
    mask = source.valid(given.box)
    flat = values.reshape(len(values), -1)
    sample = [row[(row != 0) & np.isfinite(row)] for row in flat]
    sample = [chosen if chosen.size else np.zeros(1) for chosen in sample]
    scaling = find_scaling(sample, values.dtype, ranges, "voxels other than 0")
    guide = scaling(values)
    if mask is not None:
        guide = np.where(mask, guide, 0)
    return guide, mask, str(scaling)


def _spell_spacing(source: Source, options: VolumeOptions) -> str:
    if options.voxels:
        return "bandwidths taken in voxels"
    steps = " x ".join(f"{step:.4g}" for step in source.spacing[::-1])
    return f"bandwidths taken in millimeters; voxels are {steps} mm (x, y, z)"
