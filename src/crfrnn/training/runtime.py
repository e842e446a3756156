"""Runtime: device and processes of a training run; several go through Lightning Fabric."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from crfrnn._extras import install

from .processes import is_launched, require_alone

PRECISIONS = {"bf16": torch.bfloat16, "16": torch.float16}


class Runtime(Protocol):
    """One process of a training run: its device, and its rank among `world` processes."""

    device: torch.device
    rank: int
    world: int

    def setup(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
        """Prepare for a stage; the trained parameters must stay the same until the next call."""

    def forward(self, module: nn.Module, *tensors: Tensor | None) -> Tensor:
        """Call the module, in mixed precision if configured."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the loss."""

    def step(self, module: nn.Module, optimizer: Any, clip: float | None) -> Tensor:
        """Clip, update, and return the norm of the gradient before clipping.

        A gradient that is not finite updates nothing.
        """

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""

    def gather(self, value: Any) -> list[Any]:
        """The objects of all processes, in the order of their ranks."""

    def scaler(self) -> Any:
        """The gradient scaler of half precision, or None."""

    def meet(self) -> None:
        """Wait for all processes, so that none exits while another still communicates with it."""


def make_runtime(device: str | None, precision: str) -> Runtime:
    """Make the runtime of this process: Fabric under torchrun, plain torch otherwise."""
    chosen = torch.device(device or _first_device())
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device: {chosen} was requested, but torch finds no CUDA device; use device: cpu"
        )
    if precision == "auto":
        # bfloat16 has the range of float32 and needs no scaled loss, unlike float16.
        has_bf16 = chosen.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if has_bf16 else "32"
    if precision != "32" and chosen.type != "cuda":
        raise ValueError(f"precision: {precision!r} needs a CUDA device; {chosen} computes in 32")
    if is_launched():
        return _Fabric(chosen, precision)
    return _Single(chosen, precision)


def device_alone(device: str | None) -> torch.device:
    """The device of a command that runs in one process."""
    require_alone()
    return make_runtime(device, "32").device


class _Single:
    """One process, one device, plain torch."""

    rank, world = 0, 1

    def __init__(self, device: torch.device, precision: str) -> None:
        self.device = device
        self.dtype = PRECISIONS.get(precision)
        self.grad_scaler = torch.amp.GradScaler(device.type) if precision == "16" else None

    def setup(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
        return module, optimizer

    def forward(self, module: nn.Module, *tensors: Tensor | None) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            loss: Tensor = module(*tensors)
        return loss

    def backward(self, loss: Tensor) -> None:
        scaled: Any = loss if self.grad_scaler is None else self.grad_scaler.scale(loss)
        scaled.backward()

    def step(self, module: nn.Module, optimizer: Any, clip: float | None) -> Tensor:
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(optimizer)
        norm = _clip(module.parameters(), clip)
        # The scaler skips an update that is not finite by itself, and lowers its scale.
        if self.grad_scaler is not None:
            self.grad_scaler.step(optimizer)
            self.grad_scaler.update()
        elif bool(norm.isfinite()):
            optimizer.step()
        return norm

    def total(self, value: Tensor) -> Tensor:
        return value

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def scaler(self) -> Any:
        return self.grad_scaler

    def meet(self) -> None:
        pass


class _Fabric:
    """One of several processes under torchrun, each with its share of every batch."""

    def __init__(self, device: torch.device, precision: str) -> None:
        try:
            from lightning_fabric import Fabric
        except ImportError as error:
            raise ImportError(
                f"several processes need Lightning Fabric; install it with {install('distributed')}"
            ) from error
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        self.fabric = Fabric(
            accelerator=device.type,
            devices=local,
            num_nodes=world // local,
            strategy="ddp",
            precision={"bf16": "bf16-mixed", "16": "16-mixed"}.get(precision, "32-true"),  # type: ignore[arg-type]
        )
        self.fabric.launch()
        self.device = self.fabric.device
        self.rank, self.world = self.fabric.global_rank, self.fabric.world_size

    def setup(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
        return self.fabric.setup_module(module), self.fabric.setup_optimizers(optimizer)

    def forward(self, module: nn.Module, *tensors: Tensor | None) -> Tensor:
        loss: Tensor = module(*tensors)
        return loss

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    def step(self, module: nn.Module, optimizer: Any, clip: float | None) -> Tensor:
        scaler = self.scaler()
        if scaler is not None:
            scaler.unscale_(optimizer.optimizer)
        norm = _clip(module.parameters(), clip)
        if scaler is not None or bool(norm.isfinite()):
            optimizer.step()
        return norm

    def total(self, value: Tensor) -> Tensor:
        reduced = self.fabric.all_reduce(value, reduce_op="sum")
        assert isinstance(reduced, Tensor)
        return reduced

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def scaler(self) -> Any:
        return getattr(self.fabric.strategy.precision, "scaler", None)

    def meet(self) -> None:
        self.fabric.barrier()


def _clip(parameters: Iterable[nn.Parameter], clip: float | None) -> Tensor:
    # Without a limit the norm is computed all the same: the log shows it, and it detects NaN.
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    return nn.utils.clip_grad_norm_(trained, float("inf") if clip is None else clip)


def _first_device() -> str:
    # Not mps, which has no float64: spatial kernels need it.
    return "cuda" if torch.cuda.is_available() else "cpu"
