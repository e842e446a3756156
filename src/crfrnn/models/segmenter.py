"""Segmenter: any network that gives logits, followed by the layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from crfrnn import _checks
from crfrnn._guards import warn
from crfrnn.layer.crfrnn import CRFRNN
from crfrnn.layer.inputs import check_network_image

from .constants import set_constant

#: Names of the logits among a network's outputs: of torchvision, transformers, and others.
_NAMES = ("out", "logits")

_MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}


class Segmenter(nn.Module):
    """A segmentation network with a CRF on top, trained end to end or used as it is.

    Args:
        network: a module from image to logits (B, C, *s), at the size of the image or a lower one.
            They may be a tensor; the entry "out" or "logits" of a mapping (torchvision) or of an
            object (transformers, named tuples); or the first of a tuple or list of tensors, as of
            networks with auxiliary outputs. A function works too, but with a warning: the
            parameters of what it calls are neither trained nor saved.
        crf: the layer.
        mean: subtracted when the image was normalized for the network; per channel, or one number.
        std: divisor of that normalization, likewise.
        image_range: value of white before normalization: 1 (default, as in torchvision) or 255.

    With the default `mean` and `std`, and `image_range=255`, the CRF sees the image unchanged.

    Example:
        >>> import torch
        >>> from crfrnn import CRFRNN, Segmenter
        >>> network = torch.nn.Conv2d(3, 21, 3, stride=2, padding=1)
        >>> model = Segmenter(network, CRFRNN(21), mean=(0.485, 0.456, 0.406), std=0.225)
        >>> model(torch.randn(1, 3, 8, 10)).shape
        torch.Size([1, 21, 8, 10])
    """

    network: Callable[[Tensor], Any]
    crf: CRFRNN
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: Callable[[Tensor], Any],
        crf: CRFRNN,
        *,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        image_range: float = 1.0,
    ) -> None:
        super().__init__()
        if not callable(network):
            raise TypeError(f"network must be callable; got {type(network).__name__}")
        if not isinstance(crf, CRFRNN):
            raise TypeError(f"crf must be a CRFRNN; got {type(crf).__name__}")
        if not isinstance(network, nn.Module):
            warn(
                f"Segmenter: the network is a {type(network).__name__}, not a torch.nn.Module, so "
                "parameters(), state_dict() and to(device) do not reach its parameters. Give the "
                "module itself; if its output must be changed, do that in a module's forward."
            )
        self.network = network
        self.crf = crf
        self.image_range = _checks.positive("image_range", image_range, "the value of white")[0]
        _checks.finite_numbers("mean", mean)
        _checks.positive("std", std)
        self._scaling = {"mean": mean, "std": std}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set `mean` and `std` again; network and CRF have a `reset_parameters` of their own.

        Example:
            >>> import torch
            >>> from crfrnn import CRFRNN, Segmenter
            >>> with torch.device("meta"):
            ...     model = Segmenter(torch.nn.Conv2d(3, 5, 1), CRFRNN(5), mean=0.5, std=0.25)
            >>> for module in model.to_empty(device="cpu").modules():
            ...     module.reset_parameters()
            >>> model.mean, model.std
            (tensor(0.5000), tensor(0.2500))
        """
        for name, numbers in self._scaling.items():
            set_constant(self, name, torch.tensor(numbers, dtype=torch.float32))

    def forward(
        self,
        image: Float[Tensor, "B F *S"],
        guide: Shaped[Tensor, "B G *S"] | None = None,
        *,
        mask: Bool[Tensor, " B *S"] | None = None,
        features: Sequence[Tensor] = (),
    ) -> Float[Tensor, "B C *S"]:
        """Segment a batch.

        Args:
            image: (B, F, *S), normalized as the network expects it.
            guide: (B, G, *S) on 0..255, the image for the CRF; default is `undo(image)`.
            mask: bool; False leaves a pixel out of the CRF.
            features: maps (B, F, *s) of any resolution for `FeatureGaussian` kernels.

        Returns:
            Logits (B, C, *S) at the size of the image.

        Example:
            >>> import torch
            >>> from crfrnn import CRFRNN, Segmenter
            >>> coarse = torch.nn.Conv2d(3, 5, 4, stride=4)  # logits at a quarter of the size
            >>> model = Segmenter(coarse, CRFRNN(5), mean=0.5, std=0.25)
            >>> model(torch.randn(2, 3, 8, 12)).shape
            torch.Size([2, 5, 8, 12])
        """
        logits = self.unary(image)
        guide = self.undo(image) if guide is None else guide
        refined: Tensor = self.crf(logits, guide, mask=mask, features=features)
        return refined

    def unary(self, image: Float[Tensor, "B F *S"]) -> Float[Tensor, "B C *S"]:
        """Return the network's logits, without the CRF, upsampled to the image.

        Example:
            >>> import torch
            >>> from crfrnn import CRFRNN, Segmenter
            >>> model = Segmenter(torch.nn.Conv2d(3, 5, 4, stride=4), CRFRNN(5, iterations=0))
            >>> image = torch.rand(1, 3, 8, 12)
            >>> torch.equal(model.unary(image), model(image))  # no iterations, no change
            True
        """
        check_network_image("Segmenter", image)
        return network_logits(self.network, image)

    def undo(self, image: Float[Tensor, "B F *S"]) -> Float[Tensor, "B F *S"]:
        """Undo `mean` and `std`: return the image on 0..255.

        Example:
            >>> import torch
            >>> from crfrnn import CRFRNN, Segmenter
            >>> model = Segmenter(torch.nn.Conv2d(3, 5, 1), CRFRNN(5), mean=0.5, std=0.25)
            >>> model.undo(torch.full((1, 3, 1, 1), 2.0)).flatten()  # 2 · 0.25 + 0.5 is white
            tensor([255., 255., 255.])
        """
        channels = image.shape[1]
        column = (-1,) + (1,) * (image.dim() - 2)
        parts = {"mean": self.mean, "std": self.std}
        for name, value in parts.items():
            if value.numel() not in (1, channels):
                raise ValueError(
                    f"{name} has {value.numel()} numbers for an image of {channels} channels; pass "
                    f"one, or {channels}, or a separate guide image"
                )
            parts[name] = value.reshape(column)
        return (image * parts["std"] + parts["mean"]) * (255 / self.image_range)

    def parameter_groups(
        self, lr: float, *, weights: float = 10.0, compatibility: float = 1.0, others: float = 1.0
    ) -> list[dict[str, Any]]:
        """Return optimizer groups: the network at `lr`, the CRF as in `CRFRNN.parameter_groups`.

        Example:
            >>> import torch
            >>> from crfrnn import CRFRNN, Segmenter
            >>> model = Segmenter(torch.nn.Conv2d(3, 5, 1), CRFRNN(5))
            >>> groups = model.parameter_groups(1e-3)
            >>> {group["name"]: group["lr"] for group in groups}
            {'network': 0.001, 'crf.kernel_weights': 0.01, 'crf.compatibility': 0.001}
            >>> optimizer = torch.optim.AdamW(groups)
        """
        crf = self.crf.parameter_groups(
            lr, weights=weights, compatibility=compatibility, others=others
        )
        if not isinstance(self.network, nn.Module):
            return crf
        network = {"params": list(self.network.parameters()), "lr": lr, "name": "network"}
        return [network, *crf]


def network_logits(network: Callable[[Tensor], Any], image: Tensor) -> Tensor:
    """The logits (B, C, *S) of a network as `Segmenter` takes it, upsampled to the image."""
    logits = _logits_of(network(image))
    if logits.dim() != image.dim() or logits.dim() not in _MODES:
        raise ValueError(
            f"the network must give logits (B, C, *S) for an image (B, F, *S); got "
            f"{_checks.shape_text(logits)} for {_checks.shape_text(image)}"
        )
    size = image.shape[2:]
    if logits.shape[2:] == size:
        return logits
    return nn.functional.interpolate(
        logits, size=size, mode=_MODES[logits.dim()], align_corners=False
    )


def _logits_of(output: Any) -> Tensor:
    """The logits in any of the forms in which networks return them."""
    found = output
    for name in _NAMES:
        if isinstance(output, Mapping) and name in output:
            found = output[name]
        elif hasattr(output, name):
            found = getattr(output, name)
        else:
            continue
        break
    else:
        if isinstance(output, (tuple, list)) and output:
            found = output[0]
    if isinstance(found, Tensor) and (found is output or found.dim() > 2):
        return found
    got = type(output).__name__
    if isinstance(output, Mapping):
        got += f" with {', '.join(map(str, output)) or 'nothing'}"
    elif isinstance(output, (tuple, list)):
        got += f" of {', '.join(type(part).__name__ for part in output) or 'nothing'}"
    raise TypeError(
        f"the network must return logits (B, C, *S): a tensor, a mapping or an object with one of "
        f"{', '.join(_NAMES)}, or a tuple that begins with them; got {got}. Wrap the network in a "
        f"module whose forward returns them."
    )
