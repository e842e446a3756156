"""The interface of an engine, and the choice of the engine for a tensor."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from importlib import util
from typing import Protocol, cast

import torch
from torch import Tensor

from crfrnn import _checks
from crfrnn._extras import install
from crfrnn.core.inference import Options
from crfrnn.core.names import ENGINES, EngineName
from crfrnn.core.native import core_missing

from . import reference
from .arrays import LatticeArrays
from .model import Model, Term

_FAST = (torch.float32, torch.float64)

# Looked for when imported: torch.compile of some versions cannot trace the search.
_TRITON_INSTALLED = util.find_spec("triton") is not None


def triton_missing() -> str:
    """The reason why Triton kernels cannot run on any device, or "" if they can."""
    if not _TRITON_INSTALLED:
        return f"Triton is not installed; {install('gpu')} brings it, on Linux"
    try:
        from . import triton  # noqa: F401 - fails to load without Triton
    except ImportError as error:
        return f"Triton does not load: {error}"
    return ""


def engine_for(device: torch.device, dtype: torch.dtype) -> tuple[EngineName, str]:
    """The fastest engine for this device and type, and the reason if it is only the reference."""
    if dtype not in _FAST:
        return "reference", f"{dtype} runs in plain PyTorch"
    if device.type == "cpu":
        missing = core_missing()
        return ("reference", missing) if missing else ("cpu", "")
    if device.type == "cuda":  # the device type of ROCm as well
        missing = triton_missing()
        return ("reference", missing) if missing else ("triton", "")
    return "reference", f"there is no faster engine for {device.type} devices"


def resolve_engine(
    engine: EngineName | None, device: torch.device, dtype: torch.dtype
) -> EngineName:
    """Name the engine for tensors of this device and type; `engine`, if given, must suit them.

    Warns once per device type if only the reference engine can run there.
    """
    if engine is not None:
        _checks.one_of("engine", engine, ENGINES)
    if engine == "reference":
        return engine
    if engine is None:
        chosen, reason = engine_for(device, dtype)
        if chosen == "reference" and device.type not in ("cpu", "meta") and dtype in _FAST:
            _say_once(device.type, reason)
        return chosen
    missing = core_missing() if engine == "cpu" else triton_missing()
    if missing:
        raise ValueError(f"engine {engine!r} cannot run: {missing}. Use engine='reference'.")
    if engine == "cpu":
        suits, where = device.type == "cpu", "CPU tensors"
    else:
        suits, where = _runs_triton(device), "tensors on a CUDA or ROCm device"
    if not suits or dtype not in _FAST:
        raise ValueError(
            f"engine {engine!r} takes float32 or float64 {where}; got {dtype} on {device}"
        )
    return engine


def _runs_triton(device: torch.device) -> bool:
    if device.type == "cuda":
        return True
    from . import triton

    return device.type == "cpu" and triton.INTERPRETED  # for tests


@functools.cache
def _say_once(device: str, reason: str) -> None:
    warnings.warn(
        f"crfrnn runs on {device} in plain PyTorch, which is slow: {reason}",
        UserWarning,
        stacklevel=2,
    )


class Engine(Protocol):
    """The operators that each engine's module defines; `reference` documents them."""

    def build(self, features: Tensor) -> LatticeArrays:
        """Build a lattice."""

    def filter(self, values: Tensor, lattice: LatticeArrays, reverse: bool) -> Tensor:
        """Splat, blur and slice."""

    def filter_to_weight(
        self, values: Tensor, gradient: Tensor, lattice: LatticeArrays, reverse: bool
    ) -> Tensor:
        """The gradient of the lattice's weights, from that of the result of `filter`."""

    def separable(self, values: Tensor, bands: Sequence[Tensor]) -> Tensor:
        """Multiply by a band matrix along each axis."""

    def exact(
        self, values: Tensor, features: Tensor, tolerance: float, targets: Tensor | None = None
    ) -> Tensor:
        """Compute the exact Gaussian sum, at the features or at `targets`."""

    def mean_field(
        self, logits: Tensor, model: Model, options: Options
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the recurrence."""

    def mean_field_backward(
        self, gradient: Tensor, saved: Tensor, model: Model
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the adjoint of the recurrence."""

    def response(
        self, term: Term, shape: tuple[int, int], size: Sequence[int], power: float
    ) -> Tensor | None:
        """A power of the response to ones; None if the engine has no faster way than `filter`."""

    def needs_total(self, classes: int) -> bool:
        """Whether terms of the recurrence need their responses to ones."""

    def saved_width(self, classes: int, needs_all: bool = False) -> int:
        """Number of values that the recurrence saves per pixel and step; see `Update`."""


class TensorEngine(Engine, Protocol):
    """What engines on tensors define besides; inference in the core takes NumPy arrays."""

    def marginals(
        self, logits: Tensor, model: Model, options: Options
    ) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Run the recurrence on some or all classes; return marginals and labels."""

    def worth_pruning(self, logits: Tensor) -> bool:
        """Whether leaving classes out can save more than the search for them costs."""

    def class_peaks(self, logits: Tensor) -> list[float]:
        """The largest ratio of each class's marginal to the likeliest one's."""

    def message_peaks(
        self, logits: Tensor, groups: Sequence[Sequence[int]], model: Model
    ) -> list[float]:
        """Upper bounds of the first message to groups of classes."""


def implementation(engine: str) -> Engine:
    """The module with an engine's operators."""
    if engine == "cpu":
        from . import cpu  # late: it needs the compiled core

        return cast(Engine, cpu)
    if engine == "triton":
        from . import triton  # late: it needs Triton, which takes a second to load

        return cast(Engine, triton)
    return cast(Engine, reference)


def tensor_engine(engine: str) -> TensorEngine:
    """The module of an engine other than the core's."""
    return cast(TensorEngine, implementation(engine))


def worth_pruning(logits: Tensor, engine: str) -> bool:
    """Whether leaving classes out can save more than the search for them costs."""
    return tensor_engine(engine).worth_pruning(logits)
