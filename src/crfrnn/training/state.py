"""The state of a training run in one file, complete enough to resume bit by bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from crfrnn.io.files import describe, replacing

_FORMAT = 1


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state, completely or not at all."""
    with replacing(path) as file:
        torch.save({"format": _FORMAT, **state}, file)


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, onto the CPU."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and zipfile raise almost anything for a broken file
        raise ValueError(
            f"{path}: not a readable training state ({describe(error)}); "
            "remove it, or start over with --restart"
        ) from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(
            f"{path}: not a training state of this version; remove it, or start over with --restart"
        )
    return cast(dict[str, Any], state)


def random_states() -> dict[str, Any]:
    """The state of every random generator of this process that a network may use."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - networks may use the global generator
    state = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        # As a tensor, and wider than uint32: `load_state` reads nothing that needs unpickling.
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_states(state: dict[str, Any]) -> None:
    """Set the generators to the result of `random_states`."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_all(*seeds: int) -> None:
    """Seed the generators of this process."""
    first, second, third = np.random.SeedSequence(seeds).generate_state(3)
    torch.manual_seed(int(first))
    random.seed(int(second))
    np.random.seed(int(third))  # noqa: NPY002


class Average:
    """Exponential moving average of a state dict; integer tensors are copied."""

    def __init__(self, decay: float, tensors: dict[str, Tensor]) -> None:
        """Start from `tensors`."""
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def update(self, tensors: dict[str, Tensor]) -> None:
        """Move toward `tensors` by `1 - decay` of the distance."""
        for name, tensor in tensors.items():
            average = self.tensors[name]
            if average.is_floating_point():
                average.lerp_(tensor, 1 - self.decay)
            else:
                average.copy_(tensor)
