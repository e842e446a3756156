"""DeepLabMobileNet: DeepLabv3 on MobileNetV2 without batch norm, with weights from a .npz file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crfrnn import _checks
from crfrnn.io.arrays import read_arrays

#: MobileNetV2 (Sandler et al., CVPR 2018, table 2): expansion, channels, repeats, stride of the
#: first block. The last two groups keep stride 16 and dilate instead of halving the resolution.
_GROUPS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1),
    (6, 320, 1, 1),
)  # fmt: skip
# Index of the block where the classifier halves the resolution again; later ones are dilated.
_DILATED = 13
_STRIDE = 16
_HEAD = 256


class DeepLabMobileNet(nn.Module):
    """DeepLabv3 (Chen et al., arXiv 1706.05587) on MobileNetV2 with image-level pooling.

    This is the mobile form, at stride 16 and without an atrous pyramid. Batch norm is folded into
    the convolutions, as in the files that `from_npz` reads, so the network is meant for
    fine-tuning rather than for training from scratch.

    Args:
        num_classes: C, the channels of the logits.
        width: factor on the channels of MobileNetV2.
        canvas: side to which smaller images are padded at right and bottom. A network that was
            trained at one size needs it, since the image-level pooling averages over the padding
            too. None pads to the next 16 n + 1 only.

    Example:
        >>> import torch
        >>> from crfrnn.models import DeepLabMobileNet
        >>> network = DeepLabMobileNet(21, width=0.5, canvas=None)
        >>> network(torch.rand(1, 3, 40, 70) * 255).shape
        torch.Size([1, 21, 40, 70])
    """

    def __init__(self, num_classes: int, *, width: float = 1.0, canvas: int | None = 513) -> None:
        super().__init__()
        classes = _checks.count("num_classes", num_classes, least=1)
        self.width = _checks.positive("width", width, "a factor on the channels")[0]
        self.canvas = None if canvas is None else _checks.count("canvas", canvas, least=1)
        channels = self._channels(32)
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        blocks: list[nn.Module] = []
        for expansion, full, repeats, first_stride in _GROUPS:
            for index in range(repeats):
                out = self._channels(full)
                stride = first_stride if index == 0 else 1
                dilation = 2 if len(blocks) > _DILATED else 1
                blocks.append(_Block(channels, out, expansion, stride, dilation))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.local = nn.Conv2d(channels, _HEAD, 1)
        self.pooled = nn.Conv2d(channels, _HEAD, 1)
        self.joined = nn.Conv2d(2 * _HEAD, _HEAD, 1)
        self.classify = nn.Conv2d(_HEAD, classes, 1)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C H W"]:
        """Score a batch of RGB images on 0..255."""
        # Sides of 16 n + 1 put the first and the last of n + 1 cells on the corner pixels, so that
        # upsampling with aligned corners returns each cell to its place.
        sides = [max(side + (1 - side) % _STRIDE, self.canvas or 1) for side in image.shape[2:]]
        sides = [side + (1 - side) % _STRIDE for side in sides]
        down, right = (padded - side for padded, side in zip(sides, image.shape[2:], strict=True))
        # Colors on -1..1; zero padding then shows mid-gray.
        x = nn.functional.pad(image / 127.5 - 1, (0, right, 0, down))
        x = nn.functional.relu6(self.stem(x))
        x = self.blocks(x)
        pooled = self.pooled(x.mean(dim=(2, 3), keepdim=True)).relu().expand(-1, -1, *x.shape[2:])
        x = self.joined(torch.cat([pooled, self.local(x).relu()], dim=1)).relu()
        z = nn.functional.interpolate(
            self.classify(x), size=sides, mode="bilinear", align_corners=True
        )
        return z[:, :, : image.shape[2], : image.shape[3]]

    @classmethod
    def from_npz(cls, path: str | Path, *, canvas: int | None = 513) -> DeepLabMobileNet:
        """Read a network from a .npz of convolutions and the graph that joins them.

        The file holds arrays `convNN.weight` (OIHW; depthwise weights have one input channel) and
        `convNN.bias`, and `graph`, a JSON list of the operations in order. Operations after the
        convolution that gives the logits are ignored. The shapes give width and classes.

        Raises:
            ValueError: the file lacks an array, or its graph is not that of this network.
        """
        path = Path(path)
        arrays = read_arrays(path)
        try:
            steps = [s for s in json.loads(str(arrays["graph"])) if s.get("conv") is not None]
            kernels = [torch.from_numpy(arrays[f"conv{s['conv']:02d}.weight"]) for s in steps]
            biases = [torch.from_numpy(arrays[f"conv{s['conv']:02d}.bias"]) for s in steps]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: expected arrays graph, convNN.weight and convNN.bias; got {error!r}"
            ) from error
        if len(kernels) < 2:
            raise ValueError(f"{path}: expected a network; its graph has {len(kernels)} layers")
        network = cls(len(kernels[-1]), width=len(kernels[0]) / 32, canvas=canvas)
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        expected = [_spell(layer) for layer in convolutions]
        given = [_spell_step(s, w) for s, w in zip(steps, kernels, strict=True)]
        if expected != given:
            at = next((i for i, pair in enumerate(zip(expected, given)) if pair[0] != pair[1]), -1)  # noqa: B905 - lengths may differ
            raise ValueError(
                f"{path}: not a DeepLabv3 on MobileNetV2: expected {len(expected)} convolutions, "
                f"got {len(given)}; the first that differs is number {at}: expected "
                f"{expected[at]}, got {given[at]}"
            )
        with torch.no_grad():
            for layer, weight, bias in zip(convolutions, kernels, biases, strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)  # type: ignore[union-attr]  # all have one
        return network

    def _channels(self, full: int) -> int:
        return max(1, round(full * self.width))


class _Block(nn.Module):
    """Inverted residual: expand, filter each channel, project; add the input if shapes agree."""

    def __init__(self, channels: int, out: int, expansion: int, stride: int, dilation: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = nn.Conv2d(channels, inner, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(
            inner, inner, 3, stride=stride, padding=dilation, dilation=dilation, groups=inner
        )
        self.project = nn.Conv2d(inner, out, 1)
        self.has_residual = stride == 1 and channels == out

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B d k l"]:
        y = x if self.expand is None else nn.functional.relu6(self.expand(x))
        y = self.project(nn.functional.relu6(self.depthwise(y)))
        z: Tensor = x + y if self.has_residual else y
        return z


def _spell(layer: nn.Conv2d) -> str:
    shape = tuple(layer.weight.shape)
    return f"{shape} stride {layer.stride[0]} dilation {layer.dilation[0]}"


def _spell_step(step: Mapping[str, Any], weight: Tensor) -> str:
    return f"{tuple(weight.shape)} stride {step['stride']} dilation {step['dilation']}"
