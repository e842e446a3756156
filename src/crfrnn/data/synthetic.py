"""Generated shapes with noisy edges: a small segmentation problem that a CRF can improve."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Background, discs and bars.
CLASSES = 3


def shapes(
    count: int, size: int = 48, *, noise: float = 14.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Make images of discs and bars in random colors on a random ground.

    The colors carry no information about the class, only about where an object ends. Pixel noise
    hides the edges from small neighborhoods.

    Args:
        count: number of images.
        size: height and width in pixels.
        noise: standard deviation of the pixel noise, in color units of 0..255.
        generator: random state; default is torch's global one.

    Returns:
        Images (count, 3, size, size) float on 0..255, and labels (count, size, size) int64:
        0 ground, 1 disc, 2 bar.

    Example:
        >>> from crfrnn.data.synthetic import shapes
        >>> images, labels = shapes(2, 16)
        >>> images.shape, labels.shape
        (torch.Size([2, 3, 16, 16]), torch.Size([2, 16, 16]))
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    axis = torch.arange(size, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    images = uniform(60, 195, count, 3, 1, 1).expand(-1, -1, size, size).clone()
    labels = torch.zeros(count, size, size, dtype=torch.int64)
    for i in range(count):
        for shape in (1, 2, 1, 2):
            center_x, center_y, turn = uniform(0, 1, 3).mul(torch.tensor([size, size, math.pi]))
            # Coordinates in the frame of the shape: along its axis, and across it.
            along = (x - center_x) * turn.cos() + (y - center_y) * turn.sin()
            across = (y - center_y) * turn.cos() - (x - center_x) * turn.sin()
            if shape == 1:
                inside = along**2 + across**2 < float(uniform(0.1, 0.2, 1) * size) ** 2
            else:
                long, thick = (uniform(0.2, 0.35, 1) * size, uniform(0.04, 0.09, 1) * size)
                inside = (along.abs() < long) & (across.abs() < thick)
            images[i] = torch.where(inside, uniform(20, 235, 3, 1, 1), images[i])
            labels[i][inside] = shape
    images += noise * torch.randn(images.shape, generator=generator)
    return images.clamp(0, 255), labels
