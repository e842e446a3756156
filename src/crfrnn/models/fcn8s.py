"""FCN8s: the paper's network, VGG-16 made fully convolutional, with skips at strides 16 and 8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crfrnn import _checks

from .constants import set_constant
from .loading import LoadReport, load_by_name

#: Convolutions in each of VGG-16's five blocks, and their channels relative to the first's.
_BLOCKS = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))

#: What was subtracted from the blue, green and red of VGG-16's training images.
_MEAN_BGR = (103.939, 116.779, 123.68)

#: Positions of its convolutions in torchvision's list of layers.
_VGG_POSITIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)

#: conv1_1 pads by 100 zeros, so that even a small image leaves at least 7 x 7 cells for fc6. The
#: padding shifts the coarse scores against each skip and against the image; these crops, in
#: pixels of the layer that is cropped, are those of the published network.
_PADDING = 100
_CROP_POOL4, _CROP_POOL3, _CROP_IMAGE = 5, 9, 31


class FCN8s(nn.Module):
    """FCN-8s of Long, Shelhamer & Darrell (CVPR 2015, arXiv 1411.4038) on VGG-16.

    Parameters are named as in the published networks (`conv1_1` .. `fc7`, `score_fr`,
    `score_pool4`, `score_pool3`, `upscore2`, `upscore_pool4`, `upscore8`), so that their weights
    load by name. Upsampling layers start as bilinear interpolation, scoring layers at zero.

    Args:
        num_classes: C, the channels of the logits.
        width: channels of the first block, 64 in VGG-16; the others follow.
        hidden: channels of fc6 and fc7, 4096 in VGG-16.
        dropout: share of channels dropped after fc6 and fc7 while training.

    Example:
        >>> import torch
        >>> from crfrnn.models import FCN8s
        >>> network = FCN8s(21, width=2, hidden=8)
        >>> network(torch.rand(1, 3, 30, 41) * 255).shape
        torch.Size([1, 21, 30, 41])
    """

    mean: Tensor

    def __init__(
        self, num_classes: int, *, width: int = 64, hidden: int = 4096, dropout: float = 0.5
    ) -> None:
        super().__init__()
        classes = _checks.count("num_classes", num_classes, least=1)
        _checks.count("width", width, least=1)
        _checks.count("hidden", hidden, least=1)
        channels = 3
        for block, (count, factor) in enumerate(_BLOCKS, start=1):
            for index in range(1, count + 1):
                padding = _PADDING if (block, index) == (1, 1) else 1
                conv = nn.Conv2d(channels, width * factor, 3, padding=padding)
                self.add_module(f"conv{block}_{index}", conv)
                channels = width * factor
        self.fc6 = nn.Conv2d(channels, hidden, 7)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.score_fr = nn.Conv2d(hidden, classes, 1)
        self.score_pool4 = nn.Conv2d(width * 8, classes, 1)
        self.score_pool3 = nn.Conv2d(width * 4, classes, 1)
        self.upscore2 = nn.ConvTranspose2d(classes, classes, 4, stride=2)
        self.upscore_pool4 = nn.ConvTranspose2d(classes, classes, 4, stride=2, bias=False)
        self.upscore8 = nn.ConvTranspose2d(classes, classes, 16, stride=8, bias=False)
        self.dropout = nn.Dropout2d(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the mean, the scoring and the upsampling layers to their initial values."""
        set_constant(self, "mean", torch.tensor(_MEAN_BGR).view(1, 3, 1, 1))
        for score in (self.score_fr, self.score_pool4, self.score_pool3):
            for parameter in score.parameters():
                nn.init.zeros_(parameter)
        for upscore in (self.upscore2, self.upscore_pool4, self.upscore8):
            with torch.no_grad():
                upscore.weight.copy_(_bilinear(upscore.weight))
            if upscore.bias is not None:
                nn.init.zeros_(upscore.bias)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C H W"]:
        """Score a batch of RGB images on 0..255."""
        x = image.flip(1) - self.mean.to(image.dtype)
        pooled = []
        for block, (count, _) in enumerate(_BLOCKS, start=1):
            for index in range(1, count + 1):
                x = self.get_submodule(f"conv{block}_{index}")(x).relu()
            x = nn.functional.max_pool2d(x, 2, stride=2, ceil_mode=True)
            pooled.append(x)
        x = self.dropout(self.fc6(x).relu())
        x = self.dropout(self.fc7(x).relu())
        x = self.upscore2(self.score_fr(x))
        x = x + _crop(self.score_pool4(pooled[3]), _CROP_POOL4, x)
        x = self.upscore_pool4(x)
        x = x + _crop(self.score_pool3(pooled[2]), _CROP_POOL3, x)
        return _crop(self.upscore8(x), _CROP_IMAGE, image).contiguous()

    def load_crfasrnn(
        self, weights: Mapping[str, Tensor] | str | Path, *, strict: bool = True
    ) -> LoadReport:
        """Load the network from the published weights of `sadeepj/crfasrnn_pytorch`.

        `CRFRNN.from_crfasrnn` loads the CRF from the same file.

        Args:
            weights: a state dict, or its file.
            strict: see `load_by_name`. For another number of classes pass False; the scoring
                layers then keep their initial values.
        """
        state = weights
        if not isinstance(state, Mapping):
            state = torch.load(Path(state), map_location="cpu", weights_only=True)
        network = {n: tensor for n, tensor in state.items() if not n.startswith("crfrnn.")}
        source = "state dict" if isinstance(weights, Mapping) else str(weights)
        return load_by_name(self, network, strict=strict, source=source)

    def load_vgg16(self, state: Mapping[str, Tensor]) -> LoadReport:
        """Start from an ImageNet classifier: a state dict in the layout of torchvision's VGG-16.

        Its first two fully connected layers become the convolutions fc6 and fc7. torchvision
        normalizes images differently (RGB on 0..1, divided by a deviation), so conv1_1 is rescaled.
        """
        names = [
            f"conv{block}_{index}"
            for block, (count, _) in enumerate(_BLOCKS, start=1)
            for index in range(1, count + 1)
        ]
        layers = [f"features.{position}" for position in _VGG_POSITIONS]
        layers += ["classifier.0", "classifier.3"]
        tensors: dict[str, Tensor] = {}
        for name, layer in zip([*names, "fc6", "fc7"], layers, strict=True):
            for part in ("weight", "bias"):
                if f"{layer}.{part}" not in state:
                    raise ValueError(
                        f"expected a VGG-16 of torchvision; the state dict has no {layer}.{part}"
                    )
                tensors[f"{name}.{part}"] = state[f"{layer}.{part}"]
        # torchvision flattens the last 7 x 7 cells channel by channel, the order of a convolution's
        # weights: a reshape is enough.
        for name, conv in (("fc6", self.fc6), ("fc7", self.fc7)):
            weight = tensors[f"{name}.weight"]
            if weight[0].numel() == conv.weight[0].numel():
                shape = (len(weight), *conv.weight.shape[1:])
                tensors[f"{name}.weight"] = weight.reshape(shape)
        # w · ((x / 255 - m) / s) = (w / (255 s)) · (x - 255 m). 255 m differs from the mean that
        # this network subtracts by at most 0.5, so only the weights change; `flip` makes RGB BGR.
        scale = 255 * torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
        tensors["conv1_1.weight"] = (tensors["conv1_1.weight"] / scale).flip(1)
        return load_by_name(self, tensors, strict=False, source="VGG-16 state dict")


def _crop(x: Tensor, offset: int, like: Tensor) -> Tensor:
    """Cut out the part of `x` that covers `like`."""
    height, width = like.shape[2:]
    return x[:, :, offset : offset + height, offset : offset + width]


def _bilinear(weight: Tensor) -> Tensor:
    """Weights of a transposed convolution that interpolates each channel bilinearly."""
    side = weight.shape[-1]
    # Stride s and side 2 s: the weight falls linearly from the center and is zero s cells away.
    ramp = 1 - (torch.arange(side) - (side - 1) / 2).abs() / (side / 2)
    return torch.eye(weight.shape[0])[:, :, None, None] * torch.outer(ramp, ramp)
