"""crfrnn.info(): which engines are built, and which would run."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

from crfrnn._extras import install

from ._version import installed_version
from .core.native import core_instructions, core_missing
from .core.threads import threads

_NO_TORCH = f"it needs torch: {install('torch')}"


@dataclass(frozen=True)
class Info:
    """The facts that `info` returns; they print as a small table.

    Attributes:
        version: version of crfrnn.
        torch: version of torch; empty if it is not installed.
        python: version of Python.
        machine: processor architecture.
        threads: threads that the CPU engine uses. `torch.set_num_threads` changes it; without
            torch, OMP_NUM_THREADS does.
        instructions: vector instructions that the CPU engine uses; empty if it cannot run.
        engines: for each engine, "ready" or why it cannot run.
        runs: for each kind of array or tensor, the engine that would run it, or "none".
    """

    version: str
    torch: str
    python: str
    machine: str
    threads: int
    instructions: str
    engines: dict[str, str]
    runs: dict[str, str]

    def __str__(self) -> str:
        """Return one line per fact."""
        rows = [
            ("crfrnn", self.version),
            ("torch", self.torch or "not installed"),
            ("python", f"{self.python} on {self.machine}"),
            ("threads", str(self.threads)),
            ("instructions", self.instructions or "none"),
            *((f"engine {name}", state) for name, state in self.engines.items()),
            *((f"{kind} runs on", engine) for kind, engine in self.runs.items()),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def info() -> Info:
    """Report which engines are built, and which would run.

    Returns:
        The facts; print them for a table.

    Example:
        >>> import crfrnn
        >>> crfrnn.info().engines["reference"]
        'ready'
    """
    try:
        import torch
    except ModuleNotFoundError:
        version, engines, runs = "", *_without_torch()
    else:
        version, engines, runs = torch.__version__, *_with_torch(torch)
    return Info(
        version=installed_version(),
        torch=version,
        python=platform.python_version(),
        machine=platform.machine(),
        threads=threads(),
        instructions=core_instructions(),
        engines=engines,
        runs=runs,
    )


def _without_torch() -> tuple[dict[str, str], dict[str, str]]:
    """The states of the engines, and what runs on which."""
    missing = core_missing()
    engine = "none" if missing else "cpu"
    return (
        {"reference": _NO_TORCH, "cpu": missing or "ready", "triton": _NO_TORCH},
        {"CPU float32": engine, "CPU float64": engine},
    )


def _with_torch(torch: Any) -> tuple[dict[str, str], dict[str, str]]:
    from . import ops  # late: it needs torch

    kinds = {
        "CPU float32": (torch.device("cpu"), torch.float32),
        "CPU float64": (torch.device("cpu"), torch.float64),
        "CUDA float32": (torch.device("cuda"), torch.float32),
    }
    engines = {
        "reference": "ready",
        "cpu": core_missing() or "ready",
        "triton": ops.triton_missing() or "ready" + _device_text(torch),
    }
    return engines, {name: ops.engine_for(*kind)[0] for name, kind in kinds.items()}


def _device_text(torch: Any) -> str:
    """Name the CUDA or ROCm device that torch sees first, for a line of the table."""
    if not torch.cuda.is_available():
        return ", but torch sees no CUDA device"
    return f", on {torch.cuda.get_device_name()}"
