"""The pairwise kernels, and the points they compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crfrnn import _checks, ops

Number = float | tuple[float, ...]


@dataclass(frozen=True)
class Gaussian:
    """Spatial (smoothness) kernel: exp(-½ |p_i - p_j|² / position²).

    Args:
        position: bandwidth θ_γ in pixels; one number, or one per axis in the order (x, y, z).
            Default 3 (Zheng et al., 2015).
        weight: kernel weight; one number, or one per class. Default 3 (Zheng et al., 2015).
        lattice: filter on a 2-D permutohedral lattice instead of a separable convolution: slower
            and 25 times less accurate, but what `pydensecrf` and published weights used.

    Example:
        >>> from crfrnn import Gaussian
        >>> Gaussian(position=(3, 5), weight=2)
        Gaussian(position=(3, 5), weight=2, lattice=False)
    """

    position: Number = 3.0
    weight: Number = 3.0
    lattice: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.positive("Gaussian position", self.position)
        _checks.finite_numbers("Gaussian weight", self.weight)


@dataclass(frozen=True)
class Bilateral:
    """Appearance kernel: exp(-½ |p_i - p_j|² / position² - ½ |I_i - I_j|² / color²).

    Args:
        position: bandwidth θ_α in pixels; one number, or one per axis in the order (x, y, z).
            Default 160 (Zheng et al., 2015).
        color: bandwidth θ_β in color units of the image, which is on 0..255; one number, or one
            per channel. Default 3 (Zheng et al., 2015).
        weight: kernel weight; one number, or one per class. Default 5 (Zheng et al., 2015).

    Example:
        >>> from crfrnn import Bilateral
        >>> Bilateral(position=67, color=3, weight=4)
        Bilateral(position=67, color=3, weight=4)
    """

    position: Number = 160.0
    color: Number = 3.0
    weight: Number = 5.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.positive("Bilateral position", self.position)
        _checks.positive("Bilateral color", self.color)
        _checks.finite_numbers("Bilateral weight", self.weight)


@dataclass(frozen=True)
class FeatureGaussian:
    """Gaussian over a feature map of your own: depth, deep features, spectral bands.

    Args:
        features: index of the map in the `features=` list given with the image.
        bandwidth: standard deviation in units of the map; one number, or one per channel.
        position: bandwidth in pixels to join the position to the features; None leaves it out.
        weight: kernel weight; one number, or one per class.

    Example:
        >>> from crfrnn import FeatureGaussian
        >>> FeatureGaussian(bandwidth=0.2, position=40, weight=4).features
        0
    """

    features: int = 0
    bandwidth: Number = 1.0
    position: Number | None = None
    weight: Number = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.count("FeatureGaussian features", self.features)
        _checks.positive("FeatureGaussian bandwidth", self.bandwidth)
        if self.position is not None:
            _checks.positive("FeatureGaussian position", self.position)
        _checks.finite_numbers("FeatureGaussian weight", self.weight)


Kernel = Gaussian | Bilateral | FeatureGaussian


def kernel_points(
    kernel: Kernel,
    logits: Tensor,
    image: Tensor | None,
    features: Sequence[Tensor],
    bandwidths: Tensor | None = None,
) -> Tensor:
    """Points (B, N, D) of a kernel, divided by its bandwidths, or by `bandwidths` (D,) if given."""
    size = logits.shape[2:]
    name = type(kernel).__name__
    guide: Tensor | None = None
    widths: tuple[float, ...] = ()
    if isinstance(kernel, Bilateral):
        if image is None:
            raise ValueError("a Bilateral kernel needs an image; got None")
        guide = image
        widths = spread(kernel.color, guide.shape[1], "Bilateral color", "image channels")
    elif isinstance(kernel, FeatureGaussian):
        if kernel.features >= len(features):
            raise ValueError(
                f"FeatureGaussian(features={kernel.features}) needs {kernel.features + 1} feature "
                f"maps; got {len(features)}. Pass features=[...] with the image."
            )
        guide = features[kernel.features]
        widths = spread(kernel.bandwidth, guide.shape[1], "FeatureGaussian bandwidth", "channels")
    if kernel.position is not None:
        widths = spread(kernel.position, len(size), f"{name} position", "axes") + widths
    axes = [] if kernel.position is None else coordinates(size, logits)
    guide = None if guide is None else guide.to(logits.dtype)
    if (
        bandwidths is None
        and logits.device.type == "cpu"
        and ops.direct(logits if guide is None else guide)
    ):
        return _divided([*axes, *([] if guide is None else guide.unbind(1))], widths, logits)
    parts = []
    if axes:
        grid = torch.stack([axis.expand(size) for axis in axes], dim=-1).flatten(0, -2)
        parts.append(grid.expand(logits.shape[0], -1, -1))
    if guide is not None:
        parts.append(guide.flatten(2).transpose(1, 2))
    return torch.cat(parts, dim=2) / (
        logits.new_tensor(widths) if bandwidths is None else bandwidths
    )


def _divided(maps: Sequence[Tensor], widths: Sequence[float], logits: Tensor) -> Tensor:
    """The same from one map (*S) or (B, *S) a dimension by NumPy; `_checks.plain` says why."""
    points = torch.empty((logits.shape[0], *logits.shape[2:], len(maps)), dtype=logits.dtype)
    divisors = np.asarray(widths, points.numpy().dtype)
    with np.errstate(all="ignore"):  # the filter refuses what is not finite
        for k, (one, divisor) in enumerate(zip(maps, divisors, strict=True)):
            np.divide(one.numpy(), divisor, out=points.numpy()[..., k])
    return points.flatten(1, -2)


def coordinates(size: Sequence[int], like: Tensor) -> list[Tensor]:
    """Pixel coordinates of a grid in the order (x, y, z), x along the last axis, to broadcast."""
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) for n in size]
    return [axis.view(-1, *[1] * k) for k, axis in enumerate(reversed(axes))]


def spread(value: Number, length: int, name: str, what: str) -> tuple[float, ...]:
    """One number for each of `length` axes or channels."""
    numbers = _checks.positive(name, value)
    if len(numbers) == 1:
        return numbers * length
    if len(numbers) != length:
        raise ValueError(
            f"{name} has {len(numbers)} numbers for {length} {what}; give one, or {length}"
        )
    return numbers


def weight_table(kernels: Sequence[Kernel], num_classes: int, like: Tensor) -> Tensor:
    """Kernel weights as (K, C)."""
    rows = []
    for kernel in kernels:
        numbers = kernel.weight if isinstance(kernel.weight, (tuple, list)) else (kernel.weight,)
        if len(numbers) not in (1, num_classes):
            raise ValueError(
                f"{type(kernel).__name__} weight has {len(numbers)} numbers for {num_classes} "
                f"classes; give one, or {num_classes}"
            )
        rows.append(like.new_tensor(numbers).expand(num_classes))
    return torch.stack(rows) if rows else like.new_zeros(0, num_classes)
