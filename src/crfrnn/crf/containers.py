"""NumPy arrays or tensors: which of them an engine takes, and the operators for both."""

from __future__ import annotations

from crfrnn import _checks
from crfrnn._arrays import Array, is_tensor, to_torch
from crfrnn._extras import has_torch, require_torch
from crfrnn.core import lattice
from crfrnn.core.names import ENGINES, EngineName
from crfrnn.core.native import core, core_missing


def suits_core(engine: EngineName | None) -> bool:
    """Whether NumPy arrays go to the compiled core, rather than as tensors to another engine.

    Raises:
        ValueError: `engine` is not known, or it is "cpu" and the core is missing.
        ImportError: neither the core nor torch is there, or torch is missing for `engine`.
    """
    missing = core_missing()
    if engine is None:
        if missing and not has_torch():
            core()  # raises with the remedies
        return not missing
    _checks.one_of("engine", engine, ENGINES)
    if engine == "cpu":
        if missing:
            raise ValueError(f"engine 'cpu' cannot run: {missing}. Use engine='reference'.")
        return True
    require_torch(f"engine={engine!r}")
    return False


def for_engine(array: Array, engine: EngineName | None) -> tuple[Array, EngineName]:
    """Return the array in the container that the engine takes, and the name of the engine."""
    if not is_tensor(array):
        if suits_core(engine):
            return array, "cpu"
        array = to_torch(array)
    from crfrnn import ops  # late: it needs torch

    return array, ops.resolve_engine(engine, array.device, array.dtype)


def build(features: Array, engine: str) -> lattice.LatticeArrays:
    """Build the permutohedral lattice around `features` (B N D)."""
    if not is_tensor(features):
        return lattice.build(features)
    from crfrnn import ops

    return ops.build(features, engine)


def filter(values: Array, arrays: lattice.LatticeArrays, reverse: bool, engine: str) -> Array:
    """Splat, blur and slice `values` (B N C); `reverse` blurs backwards: the adjoint."""
    if not is_tensor(values):
        return lattice.filter(values, arrays, reverse)
    from crfrnn import ops

    return ops.filter(values, arrays, reverse, engine)


def exact(values: Array, features: Array, targets: Array, engine: str) -> Array:
    """Sum the Gaussian around `features` (B N D), for `values` (B N C), at `targets` (B M D)."""
    if not is_tensor(values):
        return lattice.exact(values, features, targets)
    from crfrnn import ops

    return ops.exact(values, features, ops.exact_tolerance(values.dtype), engine, targets)
