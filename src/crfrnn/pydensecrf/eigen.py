"""The matrix types of the original; here they are NumPy arrays."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ._arguments import Floats, as_floats


class _ArrayType(type):
    """Metaclass of names for the float32 NumPy arrays with a number of axes."""

    axes: ClassVar[int]

    # Arrays stand in for the original's Eigen objects. The two names can still be called and used
    # with isinstance.
    def __call__(cls) -> Floats:
        return np.empty((0,) * cls.axes, np.float32)

    def __instancecheck__(cls, instance: object) -> bool:
        return (
            isinstance(instance, np.ndarray)
            and instance.ndim == cls.axes
            and instance.dtype == np.float32
        )


class MatrixXf(metaclass=_ArrayType):
    """The type of float32 NumPy arrays with two axes; a call returns an empty array.

    Example:
        >>> import numpy as np
        >>> from crfrnn.pydensecrf.eigen import MatrixXf
        >>> MatrixXf().shape
        (0, 0)
        >>> isinstance(np.zeros((3, 4), np.float32), MatrixXf)
        True
    """

    axes = 2


class VectorXf(metaclass=_ArrayType):
    """The type of float32 NumPy arrays with one axis; a call returns an empty array.

    Example:
        >>> from crfrnn.pydensecrf.eigen import VectorXf
        >>> VectorXf().shape
        (0,)
    """

    axes = 1


def matrixXf(arr: Any) -> Floats:
    """Copy a two-dimensional array to float32.

    Example:
        >>> from crfrnn.pydensecrf.eigen import matrixXf
        >>> matrixXf([[1, 2], [3, 4]]).sum(axis=0).tolist()
        [4.0, 6.0]
    """
    return as_floats("arr", arr, MatrixXf.axes, copy=True)


def vectorXf(arr: Any) -> Floats:
    """Copy a one-dimensional array to float32.

    Example:
        >>> from crfrnn.pydensecrf.eigen import vectorXf
        >>> vectorXf([1, 2, 3]).tolist()
        [1.0, 2.0, 3.0]
    """
    return as_floats("arr", arr, VectorXf.axes, copy=True)
