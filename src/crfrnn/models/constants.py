"""Constants of a module, such as the mean of its images: buffers that no state dict holds."""

from __future__ import annotations

from torch import Tensor, nn


def set_constant(module: nn.Module, name: str, value: Tensor) -> None:
    """Register a constant as a buffer that is not saved; if it exists, fill it again.

    A module that calls this from `reset_parameters`, and that from `__init__`, can be made on the
    device "meta" and filled after `to_empty`.
    """
    buffer = getattr(module, name, None)
    if buffer is None:
        module.register_buffer(name, value, persistent=False)
    else:
        buffer.copy_(value)
