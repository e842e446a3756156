"""The constants of the original, with their numbers."""

from __future__ import annotations

from enum import IntEnum


class KernelType(IntEnum):
    """The learnable parameters of a kernel. Inference ignores them, as in the original.

    Example:
        >>> from crfrnn.pydensecrf.densecrf import DIAG_KERNEL, KernelType
        >>> KernelType(1) is DIAG_KERNEL  # the default
        True
    """

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """The normalization of a kernel by its sums.

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

#: The names of the schemes in the rest of this library.
SCHEMES = {
    NO_NORMALIZATION: "none",
    NORMALIZE_BEFORE: "before",
    NORMALIZE_AFTER: "after",
    NORMALIZE_SYMMETRIC: "symmetric",
}
