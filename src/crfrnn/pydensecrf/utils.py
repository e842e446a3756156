"""Unary energies from probabilities and labels, and features for general pairwise terms."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from logging import warning
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import Floats, as_array, numbers, refuse_nan, whole

#: Tolerance on 0..1 for probabilities after rounding and resizing.
_ROUNDING = 0.01

# With the three names that the original's `import *` brings beside its functions.
__all__ = [
    "Number",
    "compute_unary",
    "create_pairwise_bilateral",
    "create_pairwise_gaussian",
    "np",
    "softmax_to_unary",
    "unary_from_labels",
    "unary_from_softmax",
    "warning",
]


def unary_from_labels(
    labels: Any, n_labels: float, gt_prob: float, zero_unsure: bool = True
) -> Floats:
    """Make unary energies from a label map, each label correct with probability `gt_prob`.

    Args:
        labels: integers of any shape, N in all.
        n_labels: number of labels C, at least 2; 0 is not counted if `zero_unsure`.
        gt_prob: confidence in the labels, between 0 and 1.
        zero_unsure: whether 0 means "unknown" (the default, as in the original). Such pixels get
            the same energy for all labels, and label 1 becomes row 0. With False, 0 is a label
            like any other.

    Returns:
        Energies (C, N), float32.

    Example:
        >>> from crfrnn.pydensecrf.utils import unary_from_labels
        >>> unary_from_labels([0, 1, 2], n_labels=2, gt_prob=0.8).round(1).T.tolist()[0]
        [0.699999988079071, 0.699999988079071]
    """
    count = whole("n_labels", n_labels)
    if count < 2:
        raise ValueError(
            f"n_labels must be at least 2; got {count}. A binary mask has two labels: background "
            f"and foreground, with zero_unsure=False."
        )
    if not 0 < gt_prob < 1:
        raise ValueError(f"gt_prob must lie between 0 and 1, both excluded; got {gt_prob!r}")
    rows = _label_rows(labels, count, zero_unsure)
    # The other C - 1 labels share the remaining probability; an unsure pixel has 1 / C for each.
    energy = np.full((count, rows.size), -math.log((1 - gt_prob) / (count - 1)), np.float32)
    sure = rows >= 0
    energy[rows[sure], np.flatnonzero(sure)] = -math.log(gt_prob)
    energy[:, ~sure] = math.log(count)
    return energy


def compute_unary(labels: Any, M: float, GT_PROB: float = 0.5) -> Floats:
    """Call `unary_from_labels`; a deprecated name for it.

    Example:
        >>> from crfrnn.pydensecrf.utils import compute_unary
        >>> compute_unary([1, 2], 2, GT_PROB=0.8).shape
        (2, 2)
    """
    warning("compute_unary is deprecated, use unary_from_labels")
    return unary_from_labels(labels, M, GT_PROB)


def unary_from_softmax(sm: Any, scale: float | None = None, clip: float | None = 1e-5) -> Floats:
    """Make unary energies from probabilities: -log P, flattened.

    Args:
        sm: probabilities, the labels on the first axis: (C, H, W), (C, N) or the like.
        scale: confidence in the probabilities, above 0 and up to 1: their share in a mixture with
            the uniform distribution. None (the default) means 1.
        clip: smallest probability, 1e-5 by default, so that no energy is infinite. None sets no
            limit.

    Returns:
        Energies (C, N), float32.

    Example:
        >>> import numpy as np
        >>> from crfrnn.pydensecrf.utils import unary_from_softmax
        >>> unary_from_softmax(np.full((2, 4, 6), 0.5)).shape
        (2, 24)
    """
    probs = as_array("sm", sm)
    if probs.ndim == 0 or probs.size == 0:
        raise ValueError(f"sm must have the labels on its first axis; got shape {probs.shape}")
    if probs.dtype.kind != "f" or probs.dtype.itemsize < 4:
        probs = probs.astype(np.float64 if probs.dtype.kind != "f" else np.float32)
    low, high = float(probs.min()), float(probs.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        refuse_nan("sm", probs)
    if low < 0 and clip is None:
        raise ValueError(f"sm must hold probabilities, 0 to 1; got {low:.4g} to {high:.4g}")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        warnings.warn(
            f"sm should hold probabilities, but has values from {low:.4g} to {high:.4g}, which are "
            f"clipped. Apply softmax first if these are the logits of a network",
            UserWarning,
            stacklevel=2,
        )
    if scale is not None:
        if not 0 < scale <= 1:
            raise ValueError(f"scale must be greater than 0 and at most 1; got {scale!r}")
        probs = scale * probs + (1 - scale) / probs.shape[0]
    energies = np.array(probs, order="C") if clip is None else np.clip(probs, clip, 1.0, order="C")
    with np.errstate(divide="ignore"):  # log 0 is an impossible label, which setUnaryEnergy accepts
        np.negative(np.log(energies, out=energies), out=energies)
    return energies.reshape(len(energies), -1).astype(np.float32, copy=False)


def softmax_to_unary(sm: Any, GT_PROB: float = 1) -> Floats:
    """Call `unary_from_softmax` without clipping; a deprecated name for it.

    Example:
        >>> import numpy as np
        >>> from crfrnn.pydensecrf.utils import softmax_to_unary
        >>> softmax_to_unary(np.full((2, 3), 0.5)).shape
        (2, 3)
    """
    warning("softmax_to_unary is deprecated, use unary_from_softmax")
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: Any, shape: Sequence[float]) -> Floats:
    """Make the features of a smoothness term for a grid of any dimension.

    The result is for `DenseCRF.addPairwiseEnergy`. Axes keep their order, rows first. The methods
    of `DenseCRF2D` take x first, and the lattice rounds the two orders slightly differently.

    Args:
        sdims: bandwidth along each axis of the grid, in grid steps; one number serves for all.
        shape: size of the grid along each axis.

    Returns:
        Features (D, N), float32.

    Example:
        >>> from crfrnn.pydensecrf.utils import create_pairwise_gaussian
        >>> create_pairwise_gaussian(sdims=(2, 4), shape=(2, 3)).tolist()
        [[0.0, 0.0, 0.0, 0.5, 0.5, 0.5], [0.0, 0.25, 0.5, 0.0, 0.25, 0.5]]
    """
    mesh = _mesh(shape)
    _divide(mesh, "sdims", sdims, "axes", needs_all=True)
    return mesh.reshape(len(mesh), -1)


def create_pairwise_bilateral(sdims: Any, schan: Any, img: Any, chdim: int = -1) -> Floats:
    """Make the features of an appearance term for an image of any dimension and channel count.

    The result is for `DenseCRF.addPairwiseEnergy`.

    Args:
        sdims: bandwidth along each axis of the grid, in grid steps; one number serves for all. As
            in the original, a shorter sequence leaves the remaining axes undivided, but here with a
            warning.
        schan: bandwidth of the channels, likewise.
        img: the image.
        chdim: axis of the channels; -1 (the default) means that there is no such axis.

    Returns:
        Features (D + channels, N), float32: position, then channels.

    Example:
        >>> import numpy as np
        >>> from crfrnn.pydensecrf.utils import create_pairwise_bilateral
        >>> bands = np.zeros((7, 4, 6))
        >>> create_pairwise_bilateral(sdims=(30, 30), schan=0.1, img=bands, chdim=0).shape
        (9, 24)
    """
    image = as_array("img", img)
    if not -image.ndim <= chdim < image.ndim:
        raise ValueError(
            f"chdim must be an axis of img, or -1 without channels; got {chdim} for shape "
            f"{image.shape}"
        )
    # As in the original -1 is not the last axis, as it would be in NumPy, but "no channels".
    image = image[None] if chdim == -1 else np.moveaxis(image, chdim, 0)
    position, values = _mesh(image.shape[1:]), image.astype(np.float32)
    _divide(position, "sdims", sdims, "axes")
    _divide(values, "schan", schan, "channels")
    refuse_nan("img", values)
    features = np.concatenate([position, values])
    return features.reshape(len(features), -1)


def _label_rows(labels: Any, count: int, zero_unsure: bool) -> NDArray[np.int64]:
    """The row of the energies for each label, flattened; -1 where the label is unsure."""
    array = as_array("labels", labels).ravel()
    if array.size == 0:
        raise ValueError(f"labels must not be empty; got shape {np.shape(labels)}")
    rows: NDArray[np.int64] = array.astype(np.int64)
    if array.dtype.kind == "f" and not np.array_equal(rows, array):
        raise ValueError("labels must be whole numbers; pass probabilities to unary_from_softmax")
    low, high = int(rows.min()), int(rows.max())
    largest = count if zero_unsure else count - 1
    if low < 0 or high > largest:
        raise ValueError(
            f"labels must lie in 0..{largest} for n_labels={count} and zero_unsure={zero_unsure}; "
            f"got {low} to {high}. "
            + (
                "Count 0 in n_labels and pass zero_unsure=False if 0 is a label."
                if not zero_unsure or high > largest
                else "Map the value that means unknown to 0."
            )
        )
    return rows - 1 if zero_unsure else rows


def _mesh(shape: Sequence[float]) -> Floats:
    """The coordinates of a grid, one row per axis."""
    axes = [np.arange(whole("shape", size), dtype=np.float32) for size in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij")) if axes else np.zeros((0, 1), np.float32)


def _divide(array: Floats, name: str, scales: Any, what: str, *, needs_all: bool = False) -> None:
    """Divide each row in place by its scale; a single number serves for all."""
    count = len(array)
    given: Any = numbers(scales)
    if isinstance(given, Number):
        given = [given] * count
    try:
        divisors = np.array([float(value) for value in given], np.float32)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a number or a sequence of numbers; got {scales!r}"
        ) from None
    if len(divisors) > count or (needs_all and len(divisors) < count):
        raise ValueError(
            f"{name} must be one number or one for each of {count} {what}; got {scales!r}"
        )
    if not np.all(np.isfinite(divisors) & (divisors != 0)):
        raise ValueError(f"{name} must be finite and not zero; got {scales!r}")
    if len(divisors) < count:
        warnings.warn(
            f"{name} lists {len(divisors)} of {count} {what}; the others stay undivided, as in "
            f"pydensecrf. Give one number, or {count}",
            UserWarning,
            stacklevel=3,
        )
    array[: len(divisors)] /= divisors.reshape(-1, *[1] * (array.ndim - 1))
