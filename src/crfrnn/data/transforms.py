"""Joint augmentations of an image and its label map: pure functions, random state passed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crfrnn._extras import require_torch

require_torch("crfrnn.data.transforms")

import torch  # noqa: E402
from jaxtyping import Float, Int64  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from crfrnn import _checks  # noqa: E402

from .masked_images import IGNORE  # noqa: E402

#: Weights of red, green and blue in brightness (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)

#: Mean color of ImageNet's photographs, used as padding.
MEAN_COLOR = (123.7, 116.3, 103.5)

Pair = tuple[Float[Tensor, "3 H W"], Int64[Tensor, "H W"]]


@dataclass(frozen=True)
class Augment:
    """Random scaling, cropping, flipping and recoloring, in this order.

    Attributes:
        scale: smallest and largest factor on height and width, drawn uniformly on a log scale.
        crop: height and width of the window, cut out at a random place. A smaller image is placed
            in it at random, padded with `color` and ignored labels. None keeps the size.
        flip: probability of a horizontal flip.
        brightness: colors are multiplied by 1 - b .. 1 + b.
        contrast: likewise for differences to the mean brightness.
        saturation: likewise for differences to gray.
        color: RGB of the padding, on 0..255.

    Example:
        >>> import torch
        >>> from crfrnn.data.transforms import Augment
        >>> image, label = torch.rand(3, 40, 50) * 255, torch.zeros(40, 50, dtype=torch.int64)
        >>> augment = Augment(scale=(0.5, 2.0), crop=(32, 32))
        >>> image, label = augment(image, label, torch.Generator().manual_seed(0))
        >>> image.shape, label.shape
        (torch.Size([3, 32, 32]), torch.Size([32, 32]))
    """

    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[int, int] | None = None
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    color: Sequence[float] = MEAN_COLOR

    def __post_init__(self) -> None:
        """Check the numbers."""
        low, high = _checks.positive("scale", self.scale, "two factors")
        if low > high:
            raise ValueError(f"scale must be (least, largest); got {self.scale}")
        for side in self.crop or ():
            _checks.count("crop", side, least=1)
        for name in ("flip", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1; got {getattr(self, name)}")

    def __call__(self, image: Tensor, label: Tensor, generator: torch.Generator) -> Pair:
        """Augment one sample: image (3, H, W) on 0..255 of any dtype, label (H, W)."""

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        image = image.float()
        # Uniform in the logarithm: halving is as likely as doubling. The draw comes first and
        # always, so that turning scaling off leaves the later draws as they are.
        low, high = (float(torch.tensor(s).log()) for s in self.scale)
        factor = float(torch.tensor(uniform(low, high)).exp())
        if self.scale != (1.0, 1.0):
            image, label = rescale(image, label, factor)
        if self.crop is not None:
            spare = [length - side for length, side in zip(label.shape, self.crop, strict=True)]
            # Negative spare room is padding: the window starts before the image.
            top, left = (round(uniform(min(0, s), max(0, s))) for s in spare)
            image, label = crop(image, label, (top, left), self.crop, color=self.color)
        if uniform(0, 1) < self.flip:
            image, label = image.flip(2), label.flip(1)
        factors = [uniform(1 - a, 1 + a) for a in (self.brightness, self.contrast, self.saturation)]
        return recolor(image, *factors), label


def rescale(image: Float[Tensor, "3 H W"], label: Int64[Tensor, "H W"], factor: float) -> Pair:
    """Scale by a factor: the image bilinearly with antialiasing, the labels to the nearest."""
    size = [max(1, round(side * factor)) for side in label.shape]
    return resize(image, label, (size[0], size[1]))


def resize(
    image: Float[Tensor, "3 H W"], label: Int64[Tensor, "H W"], size: tuple[int, int]
) -> Pair:
    """Resize to a height and width; image and labels stay aligned at pixel centers."""
    if tuple(label.shape) == tuple(size):
        return image, label
    image = nn.functional.interpolate(
        image[None], size=size, mode="bilinear", align_corners=False, antialias=True
    )[0]
    # Center i + 1/2 of the new grid lies at (i + 1/2) · old / new of the old one, the convention of
    # align_corners=False. torch's "nearest" reads at i · old / new and would shift the labels.
    rows, columns = (
        ((torch.arange(new) + 0.5) * old / new).long()
        for old, new in zip(label.shape, size, strict=True)
    )
    return image.clamp(0, 255), label[rows[:, None], columns]


def crop(
    image: Float[Tensor, "3 H W"],
    label: Int64[Tensor, "H W"],
    corner: tuple[int, int],
    size: tuple[int, int],
    *,
    color: Sequence[float] = MEAN_COLOR,
) -> Pair:
    """Cut out a window; pixels outside the image show `color` and are ignored.

    Args:
        image: on 0..255.
        label: class ids.
        corner: row and column of the window's first pixel; negative lies before the image.
        size: height and width of the window.
        color: RGB on 0..255.
    """
    window = torch.tensor(color, dtype=image.dtype)[:, None, None].expand(-1, *size).clone()
    ids = label.new_full(size, IGNORE)
    target, source = [], []
    for start, side, length in zip(corner, size, label.shape, strict=True):
        first, last = max(0, start), min(length, start + side)
        source.append(slice(first, last))
        target.append(slice(first - start, max(first, last) - start))
    window[:, target[0], target[1]] = image[:, source[0], source[1]]
    ids[target[0], target[1]] = label[source[0], source[1]]
    return window, ids


def recolor(
    image: Float[Tensor, "3 H W"], brightness: float, contrast: float, saturation: float
) -> Float[Tensor, "3 H W"]:
    """Multiply colors, differences to the mean brightness and differences to gray, then clip."""
    luma = torch.tensor(_LUMA)[:, None, None]
    image = image * brightness
    mean = (image * luma).sum(dim=0).mean()
    image = (image - mean) * contrast + mean
    gray = (image * luma).sum(dim=0, keepdim=True)
    return ((image - gray) * saturation + gray).clamp(0, 255)
