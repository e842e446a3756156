"""Fully connected CRFs whose mean-field inference is a recurrent layer."""

from . import pydensecrf
from ._info import info
from .energy import free_energy
from .frank_wolfe import Inference, Step
from .lattice import Lattice, gaussian_filter
from .layer import CRFRNN
from .loss import DenseCRFLoss
from .mean_field import mean_field
from .models import Segmenter
from .pairwise import Bilateral, FeatureGaussian, Gaussian
from .prepared import Prepared
from .refine import Refined, refine

__all__ = [
    "CRFRNN",
    "Bilateral",
    "DenseCRFLoss",
    "FeatureGaussian",
    "Gaussian",
    "Inference",
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
