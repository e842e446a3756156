"""Checks of the tensors that users pass to the layer and the loss; errors name the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crfrnn import _checks
from crfrnn._door import admit_tensor
from crfrnn._guards import warn_of_scores
from crfrnn.io.score_grid import is_usual


def check_logits(owner: str, given: Any, num_classes: int | None, image: Any) -> Tensor:
    """Return logits as a plain tensor; recognize swapped arguments and a missing batch axis."""
    logits: Tensor = admit_tensor(f"{owner}: logits", given)
    _refuse_unbatched(owner, logits, num_classes, image)
    if not 3 <= logits.dim() <= 5 or 0 in logits.shape:
        raise ValueError(
            f"{owner}: logits must be (B, C, *S) and not empty, with S = (W,), (H, W) or (D, H, W);"
            f" got {_checks.shape_text(logits)}. "
            + ("Skip empty batches." if 0 in logits.shape else "Add the batch with logits[None].")
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
    warn_of_scores(f"{owner}: logits", "logits", logits)
    return logits


def _refuse_unbatched(owner: str, logits: Tensor, num_classes: int | None, image: Any) -> None:
    """Refuse (C, H, W), which has as many axes as a batch of signals (B, C, W)."""
    if num_classes in (None, logits.shape[1] if logits.dim() > 1 else 0):
        return
    bare = logits.dim() in (2, 3, 4) and logits.shape[0] == num_classes
    if bare and (not isinstance(image, Tensor) or image.dim() >= logits.dim()):
        both = isinstance(image, Tensor) and image.shape[1:] == logits.shape[1:]
        raise ValueError(
            f"{owner}: logits must be (B, C, *S); got {_checks.shape_text(logits)}, which looks "
            f"like one image (C, *S) of {num_classes} classes. Add the batch axis with "
            f"logits[None]{' and image[None]' if both else ''}."
        )


def check_map(
    owner: str, name: str, given: Any, logits: Tensor, *, any_size: bool = False
) -> Tensor:
    """Return an image or feature map (B, F, *S) whose batch and size are those of the logits.

    With `any_size`, another size of the same proportions, or a square, will do.
    """
    check_device(owner, name, given, logits)
    value: Tensor = admit_tensor(
        f"{owner}: {name}",
        given,
        " (B, F, *S) (a NumPy image (H, W, 3) is torch.from_numpy(x).permute(2, 0, 1)[None])",
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
        # Four causes look alike here, and each has another remedy: no batch axis, channels on the
        # last axis, logits at the network's stride, and a batch of another length.
        has_channels_last = tuple(value.shape[:-1]) == expected
        is_bare = name == "image" and value.dim() == 3 and value.shape[1:] == logits.shape[1:]
        remedy = (
            "For one image without a batch axis, give logits[None] and image[None]."
            if is_bare
            else f"Put the channels first: {name}.movedim(-1, 1)."
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
    if value.dtype == torch.bool:
        raise TypeError(f"{owner}: {name} must hold numbers, 8-bit or float; got {value.dtype}")
    if value.is_floating_point():
        _checks.finite(f"{owner}: {name}", value)
    return value


def _both_shapes(name: str, value: Tensor, logits: Tensor) -> str:
    # Only for an error: torch.compile of some versions cannot trace it.
    return f"logits {_checks.shape_text(logits)} and {name} {_checks.shape_text(value)}"


def check_network_image(owner: str, given: Any) -> None:
    """Refuse what is no image (B, F, *S), normalized for a network."""
    image: Tensor = admit_tensor(f"{owner}: image", given)
    if not 3 <= image.dim() <= 5 or 0 in image.shape:
        raise ValueError(
            f"{owner}: image must be (B, F, *S) and not empty, with S = (W,), (H, W) or (D, H, W); "
            f"got {_checks.shape_text(image)}"
        )
    if not image.is_floating_point():
        raise TypeError(
            f"{owner}: image must be floating point, normalized as the network expects it; got "
            f"{image.dtype}. Convert with image.float() / 255, minus mean, over std."
        )


def check_mask(
    owner: str, given: Any, logits: Tensor, name: str = "mask", meaning: str = "takes part"
) -> Tensor:
    """Return a mask that is bool (B, *S)."""
    check_device(owner, name, given, logits)
    mask: Tensor = admit_tensor(f"{owner}: {name}", given)
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
    return mask


def check_clamp(owner: str, clamp: Any, logits: Tensor) -> Tensor | None:
    """Return a clamp that is bool (B, *S), or None."""
    if clamp is None:
        return None
    return check_mask(owner, clamp, logits, "clamp", "keeps its logits")


def check_device(owner: str, name: str, value: Any, logits: Tensor) -> None:
    """Refuse a tensor on another device."""
    if isinstance(value, Tensor) and value.device != logits.device:
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


def give_back(owner: str, result: Tensor, given: Tensor, layer: nn.Module) -> Tensor:
    """The result in the type of the logits that were given; refuse one that overflowed."""
    result = result.to(given.dtype)
    _checks.finite_result(owner, result, logits=given, **dict(layer.named_parameters()))
    if type(given) in (Tensor, nn.Parameter):
        return result
    return result.to(given)  # a subclass takes over: MetaTensor with its metadata
