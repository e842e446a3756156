"""The data sets by the names that configuration files and the command line use."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from crfrnn import _checks

from .camvid import open_camvid
from .folder import open_folder
from .masked_images import MaskedImages
from .voc import open_voc

DATASETS: dict[str, Callable[..., MaskedImages]] = {
    "camvid": open_camvid,
    "folder": open_folder,
    "voc": open_voc,
}


def open_dataset(kind: str, **arguments: Any) -> MaskedImages:
    """Open a data set by the name of its layout.

    Args:
        kind: a key of `DATASETS`.
        arguments: those of `open_voc`, `open_camvid` or `open_folder`.

    Raises:
        ValueError: the layout is unknown, or an argument is unknown or missing.
    """
    _checks.one_of("data set", kind, DATASETS)
    known = inspect.signature(DATASETS[kind]).parameters
    for argument in arguments:
        _checks.one_of(f"argument of data set {kind!r}", argument, known)
    missing = [n for n, p in known.items() if p.default is p.empty and n not in arguments]
    if missing:
        raise ValueError(f"data set {kind!r} needs {' and '.join(missing)}")
    return DATASETS[kind](**arguments)
