"""LightFCN: a small network with the skips of FCN-8s, to train from scratch on a CPU."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from crfrnn import _checks

#: Convolutions at strides 1, 2, 4, 8, 16 and 32, and their channels relative to `width`.
_STAGES = ((1, 1), (1, 2), (2, 4), (2, 6), (2, 8), (2, 8))
_STRIDE = 8
_DEEPEST = 32


class LightFCN(nn.Module):
    """Six stages of convolutions with batch norm; scores at strides 32, 16 and 8 are added.

    The structure of FCN-8s (Long et al., CVPR 2015) with 0.4 million parameters. Each cell is
    centered on the pixels that it pools, so the final bilinear upsampling by 8 shifts nothing.

    Args:
        num_classes: C, the channels of the logits.
        width: channels of the first stage; the last has eight times as many.
        dropout: share of channels dropped before the coarsest scores while training.

    Example:
        >>> import torch
        >>> from crfrnn.models import LightFCN
        >>> network = LightFCN(11).eval()
        >>> network(torch.rand(1, 3, 45, 60) * 255).shape
        torch.Size([1, 11, 45, 60])
    """

    def __init__(self, num_classes: int, *, width: int = 12, dropout: float = 0.1) -> None:
        super().__init__()
        classes = _checks.count("num_classes", num_classes, least=1)
        _checks.count("width", width, least=1)
        self.stages = nn.ModuleList()
        channels = 3
        for count, factor in _STAGES:
            layers: list[nn.Module] = []
            for _ in range(count):
                conv = nn.Conv2d(channels, width * factor, 3, padding=1, bias=False)
                channels = width * factor
                layers += [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            self.stages.append(nn.Sequential(*layers))
        self.dropout = nn.Dropout2d(dropout)
        self.score32 = nn.Conv2d(channels, classes, 1)
        self.score16 = nn.Conv2d(width * _STAGES[4][1], classes, 1)
        self.score8 = nn.Conv2d(width * _STAGES[3][1], classes, 1)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C H W"]:
        """Score a batch of RGB images on 0..255."""
        height, width = image.shape[2:]
        x = (image - 128) / 64
        down, right = -height % _DEEPEST, -width % _DEEPEST
        # Sides divisible by 32 halve five times without rounding. A repeated border adds no edge.
        x = nn.functional.pad(x, (0, right, 0, down), mode="replicate")
        outputs = []
        for index, stage in enumerate(self.stages):
            x = stage(x if index == 0 else nn.functional.max_pool2d(x, 2))
            outputs.append(x)
        z = _upsample(self.score32(self.dropout(outputs[5]))) + self.score16(outputs[4])
        z = _upsample(z) + self.score8(outputs[3])
        z = nn.functional.interpolate(z, scale_factor=_STRIDE, mode="bilinear", align_corners=False)
        return z[:, :, :height, :width]


def _upsample(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
