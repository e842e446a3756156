"""Fully connected CRFs whose mean-field inference is a recurrent layer."""

import typing

from . import pydensecrf
from ._info import info
from ._version import installed_version as _installed_version
from .crf.energy import free_energy
from .crf.frank_wolfe import Inference, Step
from .crf.kernel import Kernel
from .crf.kernels import Bilateral, FeatureGaussian, Gaussian
from .crf.lattice import Lattice, gaussian_filter
from .crf.mean_field import mean_field
from .layer.crfrnn import CRFRNN
from .layer.losses import DenseCRFLoss
from .layer.prepared import Prepared
from .models import Segmenter
from .offline.refine import Refined, refine

__all__ = [
    "CRFRNN",
    "Bilateral",
    "DenseCRFLoss",
    "FeatureGaussian",
    "Gaussian",
    "Inference",
    "Kernel",
    "Lattice",
    "Prepared",
    "Refined",
    "Segmenter",
    "Step",
    "free_energy",
    "gaussian_filter",
    "info",
    "mean_field",
    "pydensecrf",
    "refine",
]

__version__: str

if not typing.TYPE_CHECKING:  # to type checkers it would give the module every attribute

    def __getattr__(name: str) -> str:
        """Read the version when it is asked for, which spares every import a look at the disk."""
        if name == "__version__":
            return _installed_version()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
