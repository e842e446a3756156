"""Refining arrays on a device: they go there as tensors, and the result comes back as arrays."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from crfrnn._arrays import Array
from crfrnn._extras import require_torch
from crfrnn.core.names import EngineName
from crfrnn.io.files import describe

from .inputs import Inputs, to_container
from .options import RefineOptions
from .refine import refine_inputs
from .refined import Refined, brought_back

#: The device of arrays, which need no torch.
PROCESSORS = "cpu"
#: Threads read and write photographs at once, but a device refines one after the other: each may
#: need much of its memory, and it computes one at a time anyway.
_TURN = threading.Lock()


def refine_on(device: str, inputs: Inputs, options: RefineOptions) -> Refined[Any]:
    """Refine arrays on a device, such as "cuda:1"; the result is arrays too.

    Example:
        >>> import numpy as np
        >>> from crfrnn.offline.device import refine_on
        >>> from crfrnn.offline.inputs import Inputs
        >>> from crfrnn.offline.options import RefineOptions
        >>> inputs = Inputs(np.zeros((4, 6, 3), np.uint8), "probs", np.full((2, 4, 6), 0.5))
        >>> type(refine_on("cpu", inputs, RefineOptions()).probs)
        <class 'numpy.ndarray'>
    """
    if device == PROCESSORS:
        return refine_inputs(inputs, options)

    def move(name: str, value: Array) -> Array:
        return None if value is None else to_container(name, value, numpy=False).to(device)

    with _TURN:
        moved = replace(
            inputs,
            image=move("image", inputs.image),
            scores=move(inputs.name, inputs.scores),
            mask=move("mask", inputs.mask),
            clamp=move("clamp", inputs.clamp),
            features=[move("features", feature) for feature in inputs.features],
        )
        return brought_back(refine_inputs(moved, options))


def require_device(device: str, engine: EngineName | None) -> None:
    """Raise unless this machine has a device of torch, and the engine can run there.

    Args:
        device: "cpu", which needs nothing, or a name that torch understands.
        engine: the engine that was asked for.

    Raises:
        ImportError: torch is not installed, or Triton for a CUDA device.
        ValueError: the device is unknown, is not there, or does not suit the engine.
    """
    require_suited(device, engine)
    if device == PROCESSORS:
        return
    require_torch(f"the device {device}")
    import torch

    try:
        place = torch.device(device)
    except (RuntimeError, ValueError):
        raise ValueError(
            f"unknown device {device!r}; expected cpu, cuda, cuda:1 or another that torch has"
        ) from None
    if place.type == "cuda":
        _require_cuda(torch, place)
    try:
        torch.zeros(1, device=place).item()
    except Exception as error:  # torch raises several kinds
        raise ValueError(
            f"the device {device} cannot be used on this machine: {describe(error)}. Refine on "
            "processors, which is the default"
        ) from error
    if place.type == "cuda" and engine is None:
        from crfrnn import ops

        missing = ops.triton_missing()
        if missing:
            raise ImportError(
                f"the device {device} needs Triton: {missing}. The engine 'reference' does "
                "without, and is slow"
            )


def require_suited(device: str, engine: EngineName | None) -> None:
    """Raise ValueError if an engine cannot run on a device, which another machine may have."""
    if engine == "cpu" and device.partition(":")[0] != PROCESSORS:
        raise ValueError(
            f"the engine 'cpu' runs on processors, and not on the device {device}; leave out one "
            "of the two"
        )


def _require_cuda(torch: Any, place: Any) -> None:
    if not torch.cuda.is_available():
        build = torch.version.cuda or torch.version.hip
        raise ValueError(
            f"{place} is not available on this machine: torch {torch.__version__} "
            + (
                "finds no GPU; check its driver, and CUDA_VISIBLE_DEVICES"
                if build
                else "is a build for processors; install one for your GPU, see "
                "https://pytorch.org/get-started"
            )
            + ". Refining on processors is the default"
        )
    count = torch.cuda.device_count()
    if place.index is not None and place.index >= count:
        raise ValueError(
            f"{place} is not available on this machine, which has {count}; expected cuda:0"
            + (f" to cuda:{count - 1}" if count > 1 else "")
        )
