"""upsample(): a coarse grid of values + image -> values at every pixel."""

from __future__ import annotations

from crfrnn import _checks
from crfrnn._arrays import Array, Container, cast, namespace, place, to_float
from crfrnn._door import admit
from crfrnn._guide import check_range
from crfrnn.crf.upsampling import COLOR, POSITION, check_grids, joint_bilateral
from crfrnn.io.score_grid import is_usual, same_shape


def upsample(
    values: Container,
    image: Container,
    *,
    position: float = POSITION,
    color: float = COLOR,
    align_corners: bool = False,
    channels_last: bool | None = None,
) -> Container:
    """Bring values of a coarse grid to the size of an image, along the edges in the image.

    Joint bilateral upsampling (Kopf, Cohen, Lischinski & Uyttendaele, SIGGRAPH 2007): each pixel
    gets a weighted mean of the cells around it. The weights are Gaussian in the distance to the
    cell's center and in the difference from its color, which is the mean color of the image over
    the cell. Sums are exact. The window ends at 2.5 bandwidths of the position, rounded up to
    whole cells.

    A color weight never falls below 0.01. If no cell in the window has the pixel's color, the
    result is therefore the mean weighted by position alone. So there are no NaNs and no holes, and
    an image without edges gives smooth interpolation.

    Beyond the result, it needs about 100 MB of memory and float copies of image and values, for any
    number of channels. If tensors need gradients, it keeps the weights of all pixels and cells
    too: several times H W (2 ceil(2.5 position) + 1)² numbers.

    Args:
        values: (C, h, w) or (B, C, h, w) floating point: scores, probabilities, depth, features;
            any C. NumPy arrays or torch tensors.
        image: (H, W, 3), (3, H, W) or (H, W), any number of channels, 8-bit or float **on 0..255**,
            in the same container; a batch has a leading axis. Feature maps are images of many
            channels: give `channels_last` and a `color` in their units. H >= h and W >= w, not
            necessarily multiples.
        position: bandwidth in cells of the coarse grid. Default 0.5, chosen with `color` on
            training photographs of VOC with scores at 1/16 of their size. On a flat image, a ramp
            is then off by at most 0.023 cells. Smaller bandwidths show the cells (0.08 at 0.4);
            larger ones blur, and the time grows with the square.
        color: bandwidth in units of the image, 0..255. Default 45: the colors of cells are means,
            so pixels of an object differ from them by more than neighbors differ.
        align_corners: how the grids lie. A pixel's center is at i + 1/2. By default, both grids
            cover the same extent, so the center of cell j is at (j + 1/2) H / h. If True, the
            centers of the corner cells and of the corner pixels coincide, as in networks that
            were trained with this setting.
        channels_last: whether the channels of the image come last. By default, they are on the
            axis with at most four entries, or on the last axis if both qualify.

    Returns:
        (C, H, W) or (B, C, H, W), of the type of `values`. Tensors are differentiable with respect
        to values and image.

    Raises:
        ValueError: shapes do not fit, or only with the channels of `values` last; values are not
            finite, a bandwidth is not positive.
        TypeError: values are not floating point, or image and values differ in their container.

    Example:
        >>> import numpy as np
        >>> from crfrnn import upsample
        >>> image = np.zeros((8, 8, 3), np.uint8); image[:, 4:] = 200
        >>> coarse = np.array([[[0.0, 1.0], [0.0, 1.0]]])
        >>> upsample(coarse, image)[0, 0].round(1)
        array([0., 0., 0., 0., 1., 1., 1., 1.])
    """
    (position,) = _checks.positive("position", position)
    (color,) = _checks.positive("color", color)
    values, image = admit("values", values), admit("image", image)
    wide, guide = _arranged(values, image, color, channels_last)
    fine = joint_bilateral(wide, guide, position, color, align_corners)
    out: Container = cast(fine if values.ndim == 4 else fine[0], values.dtype)
    _checks.finite_result("upsample", out, values=values)
    return out


def _arranged(
    values: Array, image: Array, color: float, channels_last: bool | None
) -> tuple[Array, Array]:
    """Check the arrays; return values (B C h w) and image (B F H W) in the same float type."""
    if values.ndim not in (3, 4) or 0 in values.shape:
        raise ValueError(
            "values must be (C, h, w) or (B, C, h, w) and not empty; got "
            f"{_checks.shape_text(values)}{'. Give one map as values[None]' * (values.ndim == 2)}"
        )
    _checks.floating("values", values)
    if place(values) != place(image):
        raise TypeError(
            f"values are on {place(values)} but the image on {place(image)}; move one of them"
        )
    batched = values.ndim == 4
    guide = _guide(image, batched, color, channels_last)
    wide = to_float(values if batched else values[None])
    guide = cast(guide if batched else guide[None], wide.dtype)
    check_grids("image", guide.shape, wide.shape)
    size, rows = tuple(guide.shape[-2:]), tuple(wide.shape[-3:-1])
    if not is_usual(tuple(wide.shape[-2:]), size) and same_shape(rows, size):
        raise ValueError(
            f"values {tuple(values.shape)} have the proportions of the image {size} with channels "
            f"last. Put the channels first: {namespace(values).__name__}.moveaxis(values, -1, "
            f"{int(batched)})"
        )
    _checks.finite("values", values)
    _checks.finite("image", guide)
    return wide, guide


def _guide(image: Array, batched: bool, color: float, channels_last: bool | None) -> Array:
    """The image with its channels before height and width."""
    shape = tuple(image.shape[batched:])
    if image.ndim - batched not in (2, 3) or 0 in image.shape:
        batch = ", with the batch axis first" * batched
        raise ValueError(
            f"image must be (H, W, 3), (3, H, W) or (H, W){batch}, and not empty; "
            f"got {_checks.shape_text(image)}"
        )
    if len(shape) == 2:
        return image[:, None] if batched else image[None]
    if channels_last is None:
        if min(shape[0], shape[2]) > 4:
            raise ValueError(
                f"cannot tell which axis of the image {tuple(image.shape)} holds the channels; "
                "give channels_last=True or False"
            )
        channels_last = shape[2] <= 4
        check_range(image, color)
    return namespace(image).moveaxis(image, -1, int(batched)) if channels_last else image
