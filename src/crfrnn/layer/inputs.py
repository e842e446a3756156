"""Checks of the tensors that users pass to the layer and the loss; errors name the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crfrnn import _checks
from crfrnn.io.score_grid import is_usual


def check_logits(owner: str, logits: Any, num_classes: int | None, image: Any) -> None:
    """Refuse logits of a wrong rank, class count or dtype; recognize swapped arguments."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"{owner}: logits must be a torch tensor; got {type(logits).__name__}")
    if not 3 <= logits.dim() <= 5 or 0 in logits.shape:
        raise ValueError(
            f"{owner}: logits must be (B, C, *S) and not empty, with S = (W,), (H, W) or (D, H, W);"
            f" got {_checks.shape_text(logits)}. Add the batch with logits[None]."
        )
    if num_classes is not None and logits.shape[1] != num_classes:
        got = f"got logits {_checks.shape_text(logits)}"
        if isinstance(image, Tensor) and image.dim() > 1 and image.shape[1] == num_classes:
            raise ValueError(
                f"{owner}: logits and image are in the wrong order: {got}, and an image "
                f"{_checks.shape_text(image)} that has the {num_classes} channels of the logits. "
                f"Call layer(logits, image)."
            )
        raise ValueError(
            f"{owner}: logits must have num_classes = {num_classes} channels; {got}. "
            f"Build the layer with num_classes={logits.shape[1]}, or the network with "
            f"{num_classes}."
        )
    _checks.floating(f"{owner}: logits", logits)


def check_map(owner: str, name: str, value: Any, logits: Tensor, *, any_size: bool = False) -> None:
    """Refuse an image or feature map (B, F, *S) whose batch or size is not that of the logits.

    With `any_size`, another size of the same proportions, or a square, will do.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{owner}: {name} must be a torch tensor (B, F, *S); got {type(value).__name__}. "
            f"Convert a NumPy image (H, W, 3) with torch.from_numpy(x).permute(2, 0, 1)[None]."
        )
    if value.dim() != logits.dim():
        raise ValueError(
            f"{owner}: logits and {name} must have as many axes, (B, C, *S) and (B, F, *S); "
            f"got {_both_shapes(name, value, logits)}"
        )
    expected = (logits.shape[0], *logits.shape[2:])
    cells = tuple(value.shape[2:])
    resized = any_size and value.shape[0] == logits.shape[0] and is_usual(cells, expected[1:])
    if (value.shape[0], *cells) != expected and not resized:
        # Three causes look alike here, and each has another remedy: channels on the last axis,
        # logits at the network's stride, and a batch of another length.
        has_channels_last = tuple(value.shape[:-1]) == expected
        remedy = (
            f"Put the channels first: {name}.movedim(-1, 1)."
            if has_channels_last
            else f"Resize {name} to the proportions of the logits."
            if any_size and value.shape[0] == logits.shape[0]
            else "Upsample the logits first, for example with torch.nn.functional.interpolate."
            if value.shape[0] == logits.shape[0]
            else f"Pass one {name} per item of the batch."
        )
        raise ValueError(
            f"{owner}: logits and {name} must have the same batch and size; "
            f"got {_both_shapes(name, value, logits)}. {remedy}"
        )
    if value.shape[1] == 0:
        raise ValueError(f"{owner}: {name} has no channels; got {_checks.shape_text(value)}")
    if value.dtype == torch.bool or value.is_complex():
        raise TypeError(f"{owner}: {name} must hold numbers, 8-bit or float; got {value.dtype}")
    check_device(owner, name, value, logits)
    if value.is_floating_point():
        _checks.finite(f"{owner}: {name}", value)


def _both_shapes(name: str, value: Tensor, logits: Tensor) -> str:
    # Only for an error: torch.compile of some versions cannot trace it.
    return f"logits {_checks.shape_text(logits)} and {name} {_checks.shape_text(value)}"


def check_mask(
    owner: str, mask: Any, logits: Tensor, name: str = "mask", meaning: str = "takes part"
) -> None:
    """Refuse a mask that is not bool (B, *S)."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"{owner}: {name} must be a torch tensor; got {type(mask).__name__}")
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(mask.shape) != expected:
        raise ValueError(
            f"{owner}: {name} must be (B, *S) = {expected}, without channels; "
            f"got {_checks.shape_text(mask)}"
        )
    if mask.dtype != torch.bool:
        raise TypeError(
            f"{owner}: {name} must be bool, True where a pixel {meaning}; got {mask.dtype}. "
            f"Convert with {name}.bool(), or labels != 255."
        )
    check_device(owner, name, mask, logits)


def check_clamp(owner: str, clamp: Any, logits: Tensor) -> None:
    """Refuse a clamp that is not bool (B, *S); None is fine."""
    if clamp is not None:
        check_mask(owner, clamp, logits, "clamp", "keeps its logits")


def check_device(owner: str, name: str, value: Tensor, logits: Tensor) -> None:
    """Refuse a tensor on another device."""
    if value.device != logits.device:
        raise ValueError(
            f"{owner}: logits are on {logits.device} but {name} on {value.device}; "
            f"move one of them with .to(...)"
        )


def check_gradients(owner: str, maps: Sequence[tuple[str, Tensor]], wanted: bool) -> None:
    """Refuse a map whose gradient would silently be dropped."""
    for name, value in maps:
        if value.requires_grad and torch.is_grad_enabled() and not wanted:
            raise ValueError(
                f"{owner}: {name} requires a gradient, which this layer does not compute. Build it "
                f"with feature_gradients=True (slower), or pass {name}.detach()."
            )


def check_parameters(owner: str, parameters: Sequence[tuple[str, Tensor]], logits: Tensor) -> None:
    """Refuse parameters that are not finite or lie on another device than the logits."""
    for name, value in parameters:
        if value.device != logits.device:
            raise ValueError(
                f"{owner}: parameters are on {value.device} but logits are on {logits.device}; "
                f"move the layer with layer.to({str(logits.device)!r})"
            )
        if not _checks.is_finite(value):
            raise ValueError(
                f"{owner}: parameter {name} is not finite: an earlier update overflowed or "
                f"contained NaN. Go back to the last checkpoint, and lower the learning rate of "
                f"the CRF (parameter_groups) or clip the gradients."
            )
