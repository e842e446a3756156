"""What an engine offers, and which one runs a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import util
from typing import Protocol, cast

import torch
from torch import Tensor

from . import reference
from .arrays import LatticeArrays, Term

#: Engine names that an `engine=` argument takes.
ENGINES = ("reference", "cpu")


def core_missing() -> str:
    """Why the C++ core cannot run, or "" when it can."""
    if util.find_spec("crfrnn._core") is None:
        return "the C++ core was not built: no working compiler was found at installation"
    try:
        from . import cpu  # noqa: F401 - only the core decides whether this loads
    except ImportError as error:
        return f"the C++ core does not load: {error}"
    return ""


def resolve_engine(engine: str | None, device: torch.device, dtype: torch.dtype) -> str:
    """Name the engine that runs tensors of this device and type; `engine` asks for one."""
    if engine is not None and engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; expected one of: {', '.join(ENGINES)}")
    if engine == "reference":
        return engine
    suits = device.type == "cpu" and dtype in (torch.float32, torch.float64)
    missing = core_missing()
    if engine == "cpu":
        if missing:
            raise ValueError(f"engine 'cpu' cannot run: {missing}. Use engine='reference'.")
        if not suits:
            raise ValueError(
                f"engine 'cpu' takes float32 or float64 CPU tensors; got {dtype} on {device}"
            )
    return "cpu" if suits and not missing else "reference"


class Engine(Protocol):
    """The operators that each engine's module defines; `reference` documents them."""

    def build(self, features: Tensor) -> LatticeArrays:
        """Build a lattice."""

    def filter(self, values: Tensor, lattice: LatticeArrays, reverse: bool) -> Tensor:
        """Splat, blur and slice."""

    def separable(self, values: Tensor, bands: Sequence[Tensor]) -> Tensor:
        """Multiply by a band matrix along each axis."""

    def exact(self, values: Tensor, features: Tensor, tolerance: float) -> Tensor:
        """Sum the Gaussian itself."""

    def mean_field(
        self,
        logits: Tensor,
        weights: Tensor,
        size: Sequence[int],
        terms: Sequence[Term],
        iterations: int,
        tolerance: float,
        save: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the recurrence."""

    def marginals(
        self,
        logits: Tensor,
        weights: Tensor,
        size: Sequence[int],
        terms: Sequence[Term],
        iterations: int,
        tolerance: float,
        kept: Sequence[int],
    ) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Run the recurrence on some or all classes for its marginals and labels."""

    def response(
        self, term: Term, shape: tuple[int, int], size: Sequence[int], power: float
    ) -> Tensor:
        """Filter ones."""

    def class_peaks(self, logits: Tensor) -> list[float]:
        """Bound each class's marginals from above."""

    def mean_field_backward(
        self,
        gradient: Tensor,
        saved: Tensor,
        weights: Tensor,
        size: Sequence[int],
        terms: Sequence[Term],
    ) -> tuple[Tensor, Tensor]:
        """Run its adjoint."""

    def saved_width(self, classes: int) -> int:
        """Values that the recurrence saves for each pixel and step."""


def implementation(engine: str) -> Engine:
    """The module that holds an engine's operators."""
    if engine == "cpu":
        from . import cpu  # late: it needs the compiled core

        return cast(Engine, cpu)
    return cast(Engine, reference)
