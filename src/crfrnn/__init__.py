"""Fully connected CRFs whose mean-field inference is a recurrent layer."""

from . import pydensecrf
from ._info import info
from .crf.energy import free_energy
from .crf.frank_wolfe import Inference, Step
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
