"""Upsample: joint bilateral upsampling as a module."""

from __future__ import annotations

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from crfrnn import _checks
from crfrnn._arrays import to_float
from crfrnn._door import admit_tensor
from crfrnn.crf.upsampling import COLOR, POSITION, check_grids, joint_bilateral


class Upsample(nn.Module):
    """Joint bilateral upsampling as a module, for the end of a network; see `crfrnn.upsample`.

    It has no parameters, and is differentiable with respect to values and image.

    Args:
        position: bandwidth in cells of the coarse grid; default 0.5.
        color: bandwidth in units of the image; default 45, for images on 0..255.
        align_corners: whether the centers of corner cells and corner pixels coincide; by default,
            both grids cover the same extent.

    Example:
        >>> import torch
        >>> from crfrnn import Upsample
        >>> Upsample()(torch.zeros(1, 21, 4, 5), torch.zeros(1, 3, 64, 80)).shape
        torch.Size([1, 21, 64, 80])
    """

    def __init__(
        self, *, position: float = POSITION, color: float = COLOR, align_corners: bool = False
    ) -> None:
        super().__init__()
        self.position = _checks.positive("position", position)[0]
        self.color = _checks.positive("color", color)[0]
        self.align_corners = align_corners

    def forward(
        self, values: Float[Tensor, "B C h w"], image: Shaped[Tensor, "B F H W"]
    ) -> Float[Tensor, "B C H W"]:
        """Upsample values to the size of an image.

        Args:
            values: (B, C, h, w), any C.
            image: (B, F, H, W) on 0..255, not smaller than the grid of the values; any F.

        Returns:
            (B, C, H, W), of the type of `values`.

        Example:
            >>> import torch
            >>> from crfrnn import Upsample
            >>> upsample = Upsample(color=1.0)  # a guide of 32 feature maps
            >>> upsample(torch.ones(1, 2, 3, 4), torch.rand(1, 32, 9, 12)).mean()
            tensor(1.)
        """
        values = admit_tensor("Upsample: values", values)
        image = admit_tensor("Upsample: image", image)
        for name, tensor in (("values", values), ("image", image)):
            if tensor.ndim != 4 or 0 in tensor.shape:
                axes = "(B, C, h, w)" if name == "values" else "(B, F, H, W)"
                raise ValueError(
                    f"Upsample: {name} must be {axes} and not empty; got "
                    f"{_checks.shape_text(tensor)}"
                )
        _checks.floating("values", values)
        check_grids("image", image.shape, values.shape)
        _checks.finite("Upsample: image", image)
        wide = to_float(values)
        out: Tensor = joint_bilateral(
            wide, image.to(wide.dtype), self.position, self.color, self.align_corners
        )
        out = out.to(values.dtype)
        _checks.finite_result("Upsample", out, values=values)
        return out

    def extra_repr(self) -> str:
        """The arguments, for print."""
        return f"position={self.position}, color={self.color}, align_corners={self.align_corners}"
