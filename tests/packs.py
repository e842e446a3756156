"""Scores of generated pictures, for what needs no network."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn import Bilateral, Gaussian
from crfrnn.training import DataConfig, ScoresConfig
from crfrnn.training.source import Source

KERNELS = (
    Bilateral(position=8, color=25, weight=2),
    Gaussian(position=1.5, weight=1),
)


def shapes(count: int = 8, size: int = 24, **more: Any) -> DataConfig:
    return DataConfig("shapes", options={"count": count, "size": size}, **more)


def write_pack(path: Path, names: list[str], logits: list[Any]) -> None:
    """Write logits (C, h, w), arrays or tensors, as 8-bit numbers."""
    stacked = np.stack([np.moveaxis(np.asarray(scores), 0, -1) for scores in logits])
    low = float(stacked.min())
    scale = max(float(stacked.max()) - low, 1e-6) / 255
    codes = ((stacked - low) / scale).round().astype(np.uint8)
    np.savez(path, ids=np.array(names), logits=codes, scale=scale, zero=-low / scale)


def write_scores(path: Path, data: DataConfig, split: str, sharpness: float = 3.0) -> None:
    """Write scores at a quarter of the resolution: the truth, blurred and noisy."""
    source = Source(data, split)
    read = source.read
    random = np.random.default_rng(list(split.encode()))
    logits, names = [], []
    for index in range(len(source)):
        sample, _ = read(index)
        hot = np.moveaxis(np.eye(3, dtype=np.float32)[np.asarray(sample.label)], -1, 0)
        height, width = hot.shape[1:]
        low = hot.reshape(3, height // 4, 4, width // 4, 4).mean(axis=(2, 4))
        logits.append(sharpness * (low + 0.1 * random.standard_normal(low.shape)))
        names.append(sample.name)
    write_pack(path, names, logits)


def with_scores(folder: Path, count: int = 12, size: int = 32, **more: Any) -> DataConfig:
    """Generated pictures with scores of both splits in a folder."""
    data = shapes(count, size)
    for split in ("train", "val"):
        write_scores(folder / f"{split}.npz", data, split)
    given = {"canvas": None, "align_corners": False, **more}
    return dataclasses.replace(
        data, scores=ScoresConfig(folder / "train.npz", folder / "val.npz", **given)
    )
