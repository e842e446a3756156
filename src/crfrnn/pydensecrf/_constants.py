"""The constants of the original, with its numbers."""

from __future__ import annotations

from enum import IntEnum


class KernelType(IntEnum):
    """Which parameters of a kernel could be learned: no effect on inference, here or there.

    Example:
        >>> from crfrnn.pydensecrf.densecrf import DIAG_KERNEL, KernelType
        >>> KernelType(1) is DIAG_KERNEL  # the default
        True
    """

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """How a kernel is divided by its sums.

    Example:
        >>> from crfrnn.pydensecrf.densecrf import NORMALIZE_SYMMETRIC, NormalizationType
        >>> NormalizationType(3) is NORMALIZE_SYMMETRIC  # the default
        True
    """

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL = KernelType.CONST_KERNEL
DIAG_KERNEL = KernelType.DIAG_KERNEL
FULL_KERNEL = KernelType.FULL_KERNEL
NO_NORMALIZATION = NormalizationType.NO_NORMALIZATION
NORMALIZE_BEFORE = NormalizationType.NORMALIZE_BEFORE
NORMALIZE_AFTER = NormalizationType.NORMALIZE_AFTER
NORMALIZE_SYMMETRIC = NormalizationType.NORMALIZE_SYMMETRIC

#: The library's own names of the schemes.
SCHEMES = {
    NO_NORMALIZATION: "none",
    NORMALIZE_BEFORE: "before",
    NORMALIZE_AFTER: "after",
    NORMALIZE_SYMMETRIC: "symmetric",
}
