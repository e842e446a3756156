"""DenseCRF2D, and all other names of the original module."""

from __future__ import annotations

from typing import Any

import numpy as np

from crfrnn._guide import check_range

from ._arguments import Floats, bandwidths, read_image, whole
from ._constants import (
    CONST_KERNEL,
    DIAG_KERNEL,
    FULL_KERNEL,
    NO_NORMALIZATION,
    NORMALIZE_AFTER,
    NORMALIZE_BEFORE,
    NORMALIZE_SYMMETRIC,
    KernelType,
    NormalizationType,
)
from ._model import DenseCRF
from ._unary import ConstUnary, LogisticUnary, Unary

__all__ = [
    "CONST_KERNEL",
    "DIAG_KERNEL",
    "FULL_KERNEL",
    "NORMALIZE_AFTER",
    "NORMALIZE_BEFORE",
    "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION",
    "ConstUnary",
    "DenseCRF",
    "DenseCRF2D",
    "KernelType",
    "LogisticUnary",
    "NormalizationType",
    "Unary",
]


class DenseCRF2D(DenseCRF):
    """A fully connected CRF over the pixels of an image.

    Args:
        w: width. Pixels are numbered row by row: pixel (x, y) is column y * w + x of the energies.
        h: height.
        nlabels: number of labels C.

    Example:
        >>> import numpy as np
        >>> import crfrnn.pydensecrf.densecrf as dcrf
        >>> from crfrnn.pydensecrf.utils import unary_from_softmax
        >>> image = np.zeros((4, 6, 3), np.uint8); image[:, 3:] = 200
        >>> right = np.full((4, 6), 0.5); right[:, :2], right[:, 4:] = 0.1, 0.9
        >>> crf = dcrf.DenseCRF2D(6, 4, 2)
        >>> crf.setUnaryEnergy(unary_from_softmax(np.stack([1 - right, right])))
        >>> crf.addPairwiseGaussian(sxy=3, compat=3)
        >>> crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
        >>> np.argmax(crf.inference(5), axis=0).reshape(4, 6)[0].tolist()
        [0, 0, 0, 1, 1, 1]
    """

    def __init__(self, w: float, h: float, nlabels: float) -> None:
        """Make a model without unary and pairwise terms."""
        self._w, self._h = whole("w", w, least=1), whole("h", h, least=1)
        super().__init__(self._w * self._h, nlabels)
        self._size = (self._h, self._w)

    def addPairwiseGaussian(
        self,
        sxy: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the smoothness term: a Gaussian over position.

        Args:
            sxy: bandwidth in pixels; one number, or (x, y).
            compat: see `addPairwiseEnergy`.
            kernel: accepted and without effect, as in the original.
            normalization: one of the four constants.

        Example:
            >>> import numpy as np
            >>> from crfrnn.pydensecrf.densecrf import DenseCRF2D
            >>> energies = np.zeros((2, 5, 5), np.float32)
            >>> energies[1] = 2  # all pixels prefer label 0,
            >>> energies[:, 2, 2] = 2, 0  # except one
            >>> crf = DenseCRF2D(5, 5, 2)
            >>> crf.setUnaryEnergy(energies.reshape(2, -1))
            >>> crf.addPairwiseGaussian(sxy=3, compat=3)
            >>> int(crf.inference(5).argmax(axis=0).sum())  # it is smoothed away
            0
        """
        self._add(self._points(sxy, 0), compat, kernel, normalization)

    def addPairwiseBilateral(
        self,
        sxy: Any,
        srgb: Any,
        rgbim: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the appearance term: a Gaussian over position and color.

        Args:
            sxy: bandwidth in pixels; one number, or (x, y).
            srgb: bandwidth in units of the image; one number, or one for each channel.
            rgbim: (H, W, 3) image, usually uint8. Unlike the original this also takes (H, W), any
                number of channels, and any type of number.
            compat: see `addPairwiseEnergy`.
            kernel: accepted and without effect, as in the original.
            normalization: one of the four constants.

        Example:
            >>> import numpy as np
            >>> from crfrnn.pydensecrf.densecrf import DenseCRF2D
            >>> image = np.zeros((4, 6, 3), np.uint8)
            >>> image[:, 3:] = 200
            >>> energies = np.zeros((2, 4, 6), np.float32)
            >>> energies[1, :, :2], energies[0, :, 4:] = 2, 2  # certain on the outside only
            >>> crf = DenseCRF2D(6, 4, 2)
            >>> crf.setUnaryEnergy(energies.reshape(2, -1))
            >>> crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
            >>> crf.inference(5).argmax(axis=0).reshape(4, 6)[0].tolist()
            [0, 0, 0, 1, 1, 1]
        """
        image = read_image(rgbim, self._h, self._w)
        points = self._points(sxy, image.shape[2])
        spread = bandwidths("srgb", srgb, image.shape[2], "channel")
        check_range(image, min(spread), "rgbim")
        np.divide(image, np.array(spread, np.float32), out=points[..., 2:], casting="same_kind")
        self._add(points, compat, kernel, normalization)

    def _points(self, sxy: Any, channels: int) -> Floats:
        """Features (h, w, 2 + channels): x and y in bandwidths, then empty space for channels."""
        # x first, as in the original: the order of features decides how the lattice rounds.
        x, y = bandwidths("sxy", sxy, 2, "axis")
        points = np.empty((self._h, self._w, 2 + channels), np.float32)
        points[..., 0] = np.arange(self._w, dtype=np.float32) / np.float32(x)
        points[..., 1] = (np.arange(self._h, dtype=np.float32) / np.float32(y))[:, None]
        return points
