"""What an engine offers, and which one runs a tensor."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from importlib import util
from typing import Protocol, cast

import torch
from torch import Tensor

from . import reference
from .arrays import LatticeArrays
from .model import Model, Options, Term

#: Engine names that an `engine=` argument takes.
ENGINES = ("reference", "cpu", "triton")

_FAST = (torch.float32, torch.float64)

# Looked for when imported: torch.compile of some versions cannot trace the search.
_CORE_BUILT = util.find_spec("crfrnn._core") is not None
_TRITON_INSTALLED = util.find_spec("triton") is not None


def core_missing() -> str:
    """Why the C++ core cannot run, or "" when it can."""
    if not _CORE_BUILT:
        return "the C++ core was not built: no working compiler was found at installation"
    try:
        from . import cpu  # noqa: F401 - only the core decides whether this loads
    except ImportError as error:
        return f"the C++ core does not load: {error}"
    return ""


def core_instructions() -> str:
    """The vector instructions that the C++ core runs on here, or "" when it cannot run."""
    if core_missing():
        return ""
    from .cpu import instruction_set  # late: it needs the compiled core

    return str(instruction_set())


def triton_missing() -> str:
    """Why kernels in Triton cannot run, whatever the device, or "" when they can."""
    if not _TRITON_INSTALLED:
        return "Triton is not installed; pip install 'crfrnn[gpu]' brings it, on Linux"
    try:
        from . import triton  # noqa: F401 - only Triton decides whether this loads
    except ImportError as error:
        return f"Triton does not load: {error}"
    return ""


def engine_for(device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """The fastest engine for tensors of this device and type, and why no faster one runs."""
    if dtype not in _FAST:
        return "reference", f"{dtype} runs in plain PyTorch"
    if device.type == "cpu":
        missing = core_missing()
        return ("reference", missing) if missing else ("cpu", "")
    if device.type == "cuda":  # ROCm too calls its devices so
        missing = triton_missing()
        return ("reference", missing) if missing else ("triton", "")
    return "reference", f"there is no faster engine for {device.type} devices"


def resolve_engine(engine: str | None, device: torch.device, dtype: torch.dtype) -> str:
    """Name the engine that runs tensors of this device and type; `engine` asks for one.

    Says so, once a device type, when a device has to make do with the reference engine.
    """
    if engine is not None and engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; expected one of: {', '.join(ENGINES)}")
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
        """From the gradient of `filter`'s result to that of the lattice's weights."""

    def separable(self, values: Tensor, bands: Sequence[Tensor]) -> Tensor:
        """Multiply by a band matrix along each axis."""

    def exact(self, values: Tensor, features: Tensor, tolerance: float) -> Tensor:
        """Sum the Gaussian itself."""

    def mean_field(
        self, logits: Tensor, model: Model, options: Options
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the recurrence."""

    def mean_field_backward(
        self, gradient: Tensor, saved: Tensor, model: Model
    ) -> tuple[Tensor, Tensor]:
        """Run its adjoint."""

    def marginals(
        self, logits: Tensor, model: Model, options: Options
    ) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Run the recurrence on some or all classes for its marginals and labels."""

    def worth_pruning(self, logits: Tensor) -> bool:
        """Whether leaving classes out can save more than the search for them costs."""

    def class_peaks(self, logits: Tensor) -> list[float]:
        """Find how near each class comes to the likeliest one."""

    def message_peaks(
        self, logits: Tensor, groups: Sequence[Sequence[int]], model: Model
    ) -> list[float]:
        """Bound the first message to groups of classes from above."""

    def response(
        self, term: Term, shape: tuple[int, int], size: Sequence[int], power: float
    ) -> Tensor | None:
        """Compute the response to ones, or None where the filters of this engine serve as well."""

    def needs_total(self, classes: int) -> bool:
        """Whether terms of the recurrence need their responses to ones."""

    def saved_width(self, classes: int) -> int:
        """Values that the recurrence saves for each pixel and step."""


def implementation(engine: str) -> Engine:
    """The module that holds an engine's operators."""
    if engine == "cpu":
        from . import cpu  # late: it needs the compiled core

        return cast(Engine, cpu)
    if engine == "triton":
        from . import triton  # late: it needs Triton, which takes a second to load

        return cast(Engine, triton)
    return cast(Engine, reference)


def worth_pruning(logits: Tensor, engine: str) -> bool:
    """Whether leaving classes out can save more than the search for them costs."""
    return implementation(engine).worth_pruning(logits)


def release_memory() -> None:
    """Give the blocks that the C++ core keeps for its next call back to the system."""
    if not core_missing():
        from .cpu import release_memory as release  # late: it needs the compiled core

        release()
