"""Generated shapes with noisy edges: a small segmentation problem that a CRF can improve."""

from __future__ import annotations

import math

import numpy as np

from crfrnn._arrays import Array
from crfrnn._extras import require_torch

#: Background, discs and bars.
CLASSES = 3


def shapes(
    count: int, size: int = 48, *, noise: float = 14.0, generator: Array = None
) -> tuple[Array, Array]:
    """Make tensors with images of discs and bars; see `draw_shapes`.

    Args:
        count: number of images.
        size: height and width in pixels.
        noise: standard deviation of the pixel noise, in color units of 0..255.
        generator: random state, a `torch.Generator`; default is torch's global one.

    Returns:
        Images (count, 3, size, size) float on 0..255, and labels (count, size, size) int64:
        0 ground, 1 disc, 2 bar.

    Example:
        >>> from crfrnn.data.synthetic import shapes
        >>> images, labels = shapes(2, 16)
        >>> images.shape, labels.shape
        (torch.Size([2, 3, 16, 16]), torch.Size([2, 16, 16]))
    """
    require_torch("shapes() (without torch, use draw_shapes)")
    import torch

    seed = int(torch.randint(2**62, (), generator=generator))
    images, labels = draw_shapes(count, size, noise=noise, random_state=seed)
    return torch.from_numpy(images), torch.from_numpy(labels)


def draw_shapes(
    count: int, size: int = 48, *, noise: float = 14.0, random_state: object = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of discs and bars in random colors on a random ground.

    The colors carry no information about the class, only about where an object ends. Pixel noise
    hides the edges from small neighborhoods.

    Args:
        count: number of images.
        size: height and width in pixels.
        noise: standard deviation of the pixel noise, in color units of 0..255.
        random_state: a seed or a generator, as `numpy.random.default_rng` takes it.

    Returns:
        Images (count, 3, size, size) float32 on 0..255, and labels (count, size, size) int64:
        0 ground, 1 disc, 2 bar.

    Example:
        >>> from crfrnn.data.synthetic import draw_shapes
        >>> images, labels = draw_shapes(2, 16, random_state=0)
        >>> images.shape, labels.shape
        ((2, 3, 16, 16), (2, 16, 16))
    """
    random = np.random.default_rng(random_state)  # type: ignore[arg-type]
    y, x = np.mgrid[:size, :size]
    images = np.empty((count, 3, size, size), np.float32)
    images[:] = random.uniform(60, 195, (count, 3, 1, 1))
    labels = np.zeros((count, size, size), np.int64)
    for image, label in zip(images, labels, strict=True):
        for shape in (1, 2, 1, 2):
            center_x, center_y, turn = random.uniform(0, 1, 3) * (size, size, math.pi)
            # Coordinates in the frame of the shape: along its axis, and across it.
            along = (x - center_x) * math.cos(turn) + (y - center_y) * math.sin(turn)
            across = (y - center_y) * math.cos(turn) - (x - center_x) * math.sin(turn)
            if shape == 1:
                inside = along**2 + across**2 < (random.uniform(0.1, 0.2) * size) ** 2
            else:
                long, thick = random.uniform(0.2, 0.35) * size, random.uniform(0.04, 0.09) * size
                inside = (np.abs(along) < long) & (np.abs(across) < thick)
            image[:, inside] = random.uniform(20, 235, (3, 1))
            label[inside] = shape
    images += noise * random.standard_normal(images.shape, np.float32)
    return images.clip(0, 255), labels
