"""Logits computed before: one `.npz` of 8-bit logits for many images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from crfrnn.files import read_arrays, replacing


class ScorePack:
    """Low-resolution logits of many images, brought to the size of each when asked for.

    Args:
        path: an `.npz` with `ids` (N,), `logits` (N, h, w, C) of unsigned bytes, `scale` and
            `zero`: real logits are (logits - zero) * scale.
        canvas: side of the square that the network saw, the image at its top left; None if the
            logits span the image.
        align_corners: whether corner cells lie on corner pixels.

    Attributes:
        names: the ids, in order.
        num_classes: C.

    Raises:
        FileNotFoundError: no such file.
        ValueError: arrays are missing, or do not fit each other.
    """

    def __init__(self, path: Path, *, canvas: int | None = 513, align_corners: bool = True) -> None:
        arrays = read_arrays(path)
        missing = [name for name in ("ids", "logits", "scale", "zero") if name not in arrays]
        if missing:
            raise ValueError(
                f"{path}: expected arrays ids, logits, scale and zero; {', '.join(missing)} missing"
            )
        logits = arrays["logits"]
        if logits.ndim != 4 or logits.dtype != np.uint8 or len(logits) != len(arrays["ids"]):
            raise ValueError(
                f"{path}: logits must be unsigned bytes (N, h, w, C) for {len(arrays['ids'])} ids; "
                f"got {logits.dtype} of shape {logits.shape}"
            )
        self.path = path
        self.names = [str(name) for name in arrays["ids"]]
        self.num_classes = logits.shape[3]
        self.canvas = canvas
        self.align_corners = align_corners
        self._logits = logits
        self._scale, self._zero = float(arrays["scale"]), float(arrays["zero"])
        self._index = {name: index for index, name in enumerate(self.names)}

    def logits(self, name: str, size: tuple[int, int]) -> Tensor:
        """The logits (C, H, W) of one image, at its height and width."""
        if name not in self._index:
            raise ValueError(f"{self.path}: no scores for image {name!r}")
        if self.canvas is not None and max(size) > self.canvas:
            raise ValueError(
                f"{self.path}: image {name!r} of {size[1]}x{size[0]} does not fit the canvas of "
                f"{self.canvas}; is canvas right?"
            )
        low = torch.from_numpy(self._logits[self._index[name]]).permute(2, 0, 1)[None]
        low = (low.float() - self._zero) * self._scale
        full = size if self.canvas is None else (self.canvas, self.canvas)
        high = nn.functional.interpolate(
            low, size=full, mode="bilinear", align_corners=self.align_corners
        )
        return high[0, :, : size[0], : size[1]]


def write_score_pack(path: Path, names: Sequence[str], logits: Sequence[Tensor]) -> None:
    """Write logits (C, h, w) of one size as 8-bit numbers, for `ScorePack`.

    Example:
        >>> import pathlib, tempfile, torch
        >>> from crfrnn.data.score_pack import ScorePack, write_score_pack
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "scores.npz"
        >>> write_score_pack(path, ["a"], [torch.randn(3, 4, 5)])
        >>> ScorePack(path, canvas=None).logits("a", (16, 20)).shape
        torch.Size([3, 16, 20])
    """
    stacked = torch.stack(list(logits)).float().permute(0, 2, 3, 1)
    low, high = float(stacked.min()), float(stacked.max())
    scale = max(high - low, 1e-6) / 255
    codes = ((stacked - low) / scale).round().clamp(0, 255).to(torch.uint8).numpy()
    with replacing(path) as file:
        np.savez_compressed(
            file, ids=np.array(list(names)), logits=codes, scale=scale, zero=-low / scale
        )
