"""The pairwise kernels of the library, and lists of kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crfrnn import _checks
from crfrnn._arrays import Array

from .kernel import Kernel, Number, Scene


@dataclass(frozen=True)
class Gaussian(Kernel):
    """Spatial (smoothness) kernel: exp(-½ |p_i - p_j|² / position²).

    Args:
        position: bandwidth θ_γ in pixels; one number, or one per axis in the order (x, y, z).
            Default 3 (Zheng et al., 2015).
        weight: kernel weight; one number, or one per class. Default 3 (Zheng et al., 2015).
        lattice: filter on a 2-D permutohedral lattice instead of a separable convolution. This is
            slower and 25 times less accurate, but `pydensecrf` and published weights used it.

    Example:
        >>> from crfrnn import Gaussian
        >>> Gaussian(position=(3, 5), weight=2)
        Gaussian(position=(3, 5), weight=2, lattice=False)
    """

    position: Number = 3.0
    weight: Number = 3.0
    lattice: bool = False

    def bandwidths(self) -> dict[str, Number]:
        """The bandwidth of the position."""
        return {"position": self.position}

    def maps(self, scene: Scene) -> dict[str, Sequence[Array]]:
        """The position."""
        return {"position": scene.positions()}

    def is_separable(self) -> bool:
        """Whether the kernel runs as a convolution, and not on a lattice."""
        return not self.lattice


@dataclass(frozen=True)
class Bilateral(Kernel):
    """Appearance kernel: exp(-½ |p_i - p_j|² / position² - ½ |I_i - I_j|² / color²).

    Args:
        position: bandwidth θ_α in pixels; one number, or one per axis in the order (x, y, z).
            Default 160 (Zheng et al., 2015).
        color: bandwidth θ_β in units of an image on 0..255; one number, or one per channel.
            Default 3 (Zheng et al., 2015).
        weight: kernel weight; one number, or one per class. Default 5 (Zheng et al., 2015).

    Example:
        >>> from crfrnn import Bilateral
        >>> Bilateral(position=67, color=3, weight=4)
        Bilateral(position=67, color=3, weight=4)
    """

    position: Number = 160.0
    color: Number = 3.0
    weight: Number = 5.0

    def bandwidths(self) -> dict[str, Number]:
        """The bandwidths of position and color."""
        return {"position": self.position, "color": self.color}

    def maps(self, scene: Scene) -> dict[str, Sequence[Array]]:
        """The position, and the channels of the image."""
        return {"position": scene.positions(), "color": scene.image_channels(self)}


@dataclass(frozen=True)
class FeatureGaussian(Kernel):
    """Gaussian over a feature map of your own: depth, elevation, deep features, spectral bands.

    The map may have another resolution than the scores, as the features of a network do. It is then
    interpolated linearly; a finer one is averaged.

    Args:
        features: index of the map in the `features=` list given with the image.
        bandwidth: standard deviation in units of the map; one number, or one per channel.
        position: bandwidth in pixels of the position, which joins the features; None leaves it out.
        weight: kernel weight; one number, or one per class.
        components: project the map of each image onto this many principal components of its own.
            The bandwidth then applies to the components, which keep the map's unit. None keeps all
            channels. Time and memory of a lattice grow with the square of the number of channels,
            so maps of more than about 8 channels need this, or `filter="exact"`.

    Example:
        >>> from crfrnn import FeatureGaussian
        >>> FeatureGaussian(bandwidth=0.2, position=40, weight=4).features
        0
    """

    features: int = 0
    bandwidth: Number = 1.0
    position: Number | None = None
    weight: Number = 1.0
    components: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.count("FeatureGaussian features", self.features)
        if self.components is not None:
            _checks.count("FeatureGaussian components", self.components, least=1)
        super().__post_init__()

    def bandwidths(self) -> dict[str, Number]:
        """The bandwidths of the position, if it takes part, and of the features."""
        position = {} if self.position is None else {"position": self.position}
        return {**position, "bandwidth": self.bandwidth}

    def maps(self, scene: Scene) -> dict[str, Sequence[Array]]:
        """The position, if it takes part, and the channels of the map."""
        channels = scene.feature_channels(self, self.features, self.components)
        position = {} if self.position is None else {"position": scene.positions()}
        return {**position, "bandwidth": channels}


def checked_kernels(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """The kernels as a tuple; raises TypeError for anything else."""
    is_one = isinstance(kernels, (str, Mapping)) or not isinstance(kernels, Iterable)
    listed: tuple[Any, ...] = (kernels,) if is_one else tuple(kernels)
    for kernel in listed:
        if not isinstance(kernel, Kernel):
            raise TypeError(
                "kernels must be a list of Gaussian, Bilateral and FeatureGaussian; "
                f"got {kernel!r}{_remedy(kernel)}"
            )
    return listed


def _remedy(given: object) -> str:
    """What to type in place of what was given for a kernel; nothing where that is not known."""
    if isinstance(given, str):
        return '. The kernels of a preset are crfrnn.presets.PRESETS["deeplab"].kernels'
    if isinstance(given, type) and issubclass(given, Kernel):
        return f". Make one: {given.__name__}()"
    if isinstance(given, Mapping):
        return ". Make one of a dictionary with Kernel.from_dict"
    return ""


def weight_table(kernels: Sequence[Kernel], num_classes: int) -> np.ndarray:
    """Kernel weights as (K, C), in float64."""
    table = np.zeros((len(kernels), num_classes))
    for row, kernel in zip(table, kernels, strict=True):
        numbers = kernel.weight if isinstance(kernel.weight, (tuple, list)) else (kernel.weight,)
        if len(numbers) not in (1, num_classes):
            raise ValueError(
                f"{type(kernel).__name__} weight has {len(numbers)} numbers for {num_classes} "
                f"classes; give one, or {num_classes}"
            )
        row[:] = numbers
    return table
