"""The bilateral filter with the arguments of the original: flat arrays, the result in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from crfrnn import _checks
from crfrnn._arrays import to_numpy
from crfrnn._door import admit
from crfrnn._guide import check_range, finest_color
from crfrnn.crf.kernel import Scene
from crfrnn.crf.kernels import Bilateral
from crfrnn.crf.lattice import gaussian_filter


def bilateralfilter(
    image: Any, _in: Any, out: np.ndarray, H: int, W: int, sigmargb: float, sigmaxy: float
) -> None:
    """Filter the maps of one photograph on a permutohedral lattice, without normalization.

    `out_i = Σ_j exp(-½ |p_i - p_j|² / sigmaxy² - ½ |I_i - I_j|² / sigmargb²) in_j`, including
    j = i, approximately: with the gain of the lattice, as the original.

    Args:
        image: 3 H W numbers on 0..255, channels first, of any shape.
        _in: K H W numbers, K maps.
        out: K H W float32 in a C-contiguous array; filled.
        H: rows.
        W: columns.
        sigmargb: bandwidth of the color, in units of the image.
        sigmaxy: bandwidth of the position, in pixels.

    Raises:
        TypeError: `out` cannot be filled.
        ValueError: the sizes do not fit, or numbers are not finite.

    Example:
        >>> import numpy as np
        >>> from crfrnn.bilateralfilter import bilateralfilter
        >>> image, maps = np.zeros(3 * 4 * 5, np.float32), np.ones(2 * 4 * 5, np.float32)
        >>> out = np.zeros_like(maps)
        >>> bilateralfilter(image, maps, out, 4, 5, 15.0, 100.0)
        >>> bool((out > 1).all())
        True
    """
    pixels = _pixels("bilateralfilter", H, W)
    count = np.size(to_numpy(admit("bilateralfilter: in", _in)))
    _fill("bilateralfilter", image, _in, out, (1, max(1, count // pixels), H, W), sigmargb, sigmaxy)


def bilateralfilter_batch(
    images: Any,
    ins: Any,
    outs: np.ndarray,
    N: int,
    K: int,
    H: int,
    W: int,
    sigmargb: float,
    sigmaxy: float,
) -> None:
    """Filter the maps of N photographs, each as `bilateralfilter` does, with its errors.

    `images` holds N 3 H W numbers for N photographs, `ins` N K H W for the K maps of each, and
    `outs`, which is filled, as many as `ins`. All else is as in `bilateralfilter`.

    Example:
        >>> import numpy as np
        >>> from crfrnn.bilateralfilter import bilateralfilter_batch
        >>> images = np.random.default_rng(0).random((2, 3, 4, 5), np.float32) * 255
        >>> S = np.full((2, 21, 4, 5), 1 / 21, np.float32)
        >>> AS = np.zeros(S.size, np.float32)
        >>> bilateralfilter_batch(images.flatten(), S.flatten(), AS, 2, 21, 4, 5, 15.0, 50.0)
        >>> energy = -np.dot(S.flatten(), AS)
        >>> bool(energy < 0)
        True
    """
    _pixels("bilateralfilter_batch", H, W)
    for name, number in (("N", N), ("K", K)):
        _checks.count(f"bilateralfilter_batch: {name}", number, least=1)
    _fill("bilateralfilter_batch", images, ins, outs, (N, K, H, W), sigmargb, sigmaxy)


def _pixels(owner: str, height: int, width: int) -> int:
    sides = (("H", height), ("W", width))
    rows, columns = (_checks.count(f"{owner}: {name}", side, least=1) for name, side in sides)
    return rows * columns


def _fill(
    owner: str,
    images: Any,
    ins: Any,
    outs: Any,
    size: tuple[int, int, int, int],
    sigmargb: float,
    sigmaxy: float,
) -> None:
    batch, maps, height, width = size
    writable = isinstance(outs, np.ndarray) and outs.flags.c_contiguous and outs.flags.writeable
    if not writable or outs.dtype != np.float32:
        got = f"{outs.dtype} array" if isinstance(outs, np.ndarray) else type(outs).__name__
        raise TypeError(
            f"{owner}: out must be a C-contiguous float32 NumPy array, which is filled; got a {got}"
            f". Make one with numpy.zeros(size, numpy.float32)."
        )
    photographs = _shaped(f"{owner}: image", images, (batch, 3, height, width))
    values = _shaped(f"{owner}: in", ins, size)
    if outs.size != values.size:
        raise ValueError(f"{owner}: out has {outs.size} numbers for {values.size} of the input")
    kernel = Bilateral(position=sigmaxy, color=sigmargb)
    check_range(photographs, finest_color([kernel]))
    points = kernel.points(Scene(values, photographs))
    columns = np.moveaxis(values.reshape(batch, maps, height * width), 1, 2)
    filtered = gaussian_filter(columns, points)
    outs.reshape(columns.shape[0], maps, -1)[...] = np.moveaxis(filtered, 2, 1)


def _shaped(name: str, given: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of any shape and type as a float32 array of a certain shape."""
    array = to_numpy(admit(name, given)).astype(np.float32, copy=False)
    if array.size != np.prod(shape):
        raise ValueError(
            f"{name} has {array.size} numbers; {' x '.join(map(str, shape))} were expected, "
            f"channels first"
        )
    _checks.finite(name, array)
    return np.ascontiguousarray(array).reshape(shape)
