"""Segmentation networks of torchvision."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crfrnn.models.constants import set_constant

#: Mean and deviation of ImageNet on 0..1, with which torchvision's weights were trained.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class TorchvisionNetwork(nn.Module):
    """A segmentation network of torchvision that takes images on 0..255.

    Args:
        network: gives a mapping whose "out" holds logits (B, C, h, w), for images normalized
            with ImageNet's mean and deviation.

    Example:
        >>> import torch
        >>> from crfrnn.integrations.torchvision import TorchvisionNetwork
        >>> class Network(torch.nn.Module):
        ...     def forward(self, x):
        ...         return {"out": x[:, :2], "aux": None}
        >>> TorchvisionNetwork(Network())(torch.rand(1, 3, 4, 5) * 255).shape
        torch.Size([1, 2, 4, 5])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the mean and the deviation again, as after `to_empty`."""
        for name, values in (("mean", _MEAN), ("std", _STD)):
            # The constants are on 0..1, the images on 0..255.
            set_constant(self, name, torch.tensor(values).view(1, 3, 1, 1) * 255)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Score a batch of RGB images on 0..255."""
        output = self.network((image - self.mean) / self.std)
        logits: Tensor = output["out"]
        return logits


def torchvision_network(
    name: str, num_classes: int = 21, *, weights: str | None = None, **arguments: Any
) -> TorchvisionNetwork:
    """Make a segmentation network of torchvision by name, such as "fcn_resnet50".

    Args:
        name: a key of torchvision's model registry.
        num_classes: C.
        weights: None (default) for random weights, with nothing fetched, not even a backbone;
            "DEFAULT" or another of torchvision's names to let torchvision fetch them.
        arguments: further arguments of torchvision's function.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        from torchvision.models import get_model
    except ImportError as error:
        raise ImportError(
            "torchvision is needed for its networks; install the build that matches your torch"
        ) from error
    options = {
        "weights": weights,
        "weights_backbone": None,
        "num_classes": num_classes,
        **arguments,
    }
    return TorchvisionNetwork(get_model(name, **options))
