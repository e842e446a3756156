"""Scores of many images in one .npz: `ids`, and an array with a row per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import names_of, read_arrays
from .files import shorten

_SCORES = ("logits", "probs")


@dataclass(frozen=True)
class ScorePack:
    """The scores of many images, by name.

    Attributes:
        path: the file.
        kind: "logits" or "probs".
        names: names of the images.
    """

    path: Path
    kind: str
    names: tuple[str, ...]
    _values: np.ndarray = field(repr=False)
    _others: dict[str, Any] = field(repr=False)

    def arrays(self, name: str) -> dict[str, Any]:
        """Return the arrays that a file of this image alone would hold; see `scores`.

        Raises:
            ValueError: there is no such image.
        """
        if name not in self.names:
            raise ValueError(
                f"{self.path}: no scores of {name} among those of {len(self.names)} images"
            )
        return {self.kind: self._values[self.names.index(name)], **self._others}

    def require(self, names: Sequence[str]) -> None:
        """Raise unless all these images have scores."""
        missing = sorted(set(names) - set(self.names))
        if missing:
            raise ValueError(
                f"{self.path}: no scores of {len(missing)} of {len(names)} images: "
                f"{shorten(missing)}"
            )


def is_pack(path: Path) -> bool:
    """Whether a file holds the scores of many images: an .npz with an array `ids`."""
    return path.suffix.lower() == ".npz" and path.is_file() and "ids" in names_of(path)


def read_pack(path: str | Path) -> ScorePack:
    """Read a pack: `ids` (N,), and `logits` or `probs` (N, h, w, C) or (N, C, h, w).

    If `logits` are unsigned bytes, `scale` and `zero` give the scores: (logits - zero) * scale.

    Raises:
        ValueError: an array is missing, or the numbers of rows differ.
    """
    path = Path(path)
    arrays = read_arrays(path)
    kinds = [name for name in _SCORES if name in arrays]
    if "ids" not in arrays or len(kinds) != 1:
        raise ValueError(
            f"{path}: expected the arrays `ids` and either `logits` or `probs`; got "
            f"{', '.join(arrays) or 'none'}"
        )
    names = tuple(str(name) for name in arrays["ids"].tolist())
    values = arrays[kinds[0]]
    if values.ndim != 4 or len(values) != len(names):
        raise ValueError(
            f"{path}: expected `{kinds[0]}` with four axes and {len(names)} rows, as many as `ids` "
            f"has; got shape {values.shape}"
        )
    others: dict[str, Any] = {name: arrays[name] for name in ("scale", "zero") if name in arrays}
    return ScorePack(path, kinds[0], names, values, others)
