"""Filters of one photograph, kept from one inference to the next."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from crfrnn.core.inference import Filter

from .kernel import Kernel, Scene
from .recipe import Recipe


class KeptFilters:
    """Filters of one photograph, kept from one inference to the next.

    A filter depends on the photograph and on the bandwidths. So it can be used again when only
    weights, steps or scores change, which saves most of the time where a person tries values.

    Args:
        most: how many filters are kept; the one that was not used for longest is dropped first. On
            a lattice, each takes about 100 bytes a pixel.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._of: tuple[Any, ...] = ()
        self._filters: OrderedDict[Hashable, list[Filter]] = OrderedDict()

    def follow(self, *arrays: Any) -> None:
        """Forget all filters, unless these are the very arrays that they were built for.

        They are compared by identity: who changes a photograph in place needs a new `KeptFilters`.
        """
        same = len(arrays) == len(self._of) and all(
            a is b for a, b in zip(arrays, self._of, strict=True)
        )
        if not same:
            self._of = arrays
            self._filters.clear()

    def get(
        self,
        kernel: Kernel,
        recipe: Recipe,
        scene: Scene,
        mask: np.ndarray | None,
        build: Callable[[], list[Filter]],
    ) -> list[Filter]:
        """Return the filters of a kernel, one per image; build them if they are not kept."""
        key = (
            dataclasses.replace(kernel, weight=0),  # type: ignore[type-var]
            recipe.normalization,
            recipe.filter,
            scene.like.dtype.name,
            len(scene.like),
            scene.like.shape[2:],
            None if mask is None else mask.tobytes(),
        )
        if key in self._filters:
            self._filters.move_to_end(key)
        else:
            self._filters[key] = build()
            while len(self._filters) > self._most:
                self._filters.popitem(last=False)
        return self._filters[key]
