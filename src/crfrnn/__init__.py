"""Fully connected CRFs whose mean-field inference is a recurrent layer."""

import importlib
import typing

if typing.TYPE_CHECKING:
    from . import bilateralfilter, frankwolfe, presets, pydensecrf
    from ._guards import InputWarning
    from ._info import info
    from .app.serving import explore
    from .crf.edges import Neighborhood
    from .crf.energy import free_energy
    from .crf.frank_wolfe import Inference, Step
    from .crf.kernel import Kernel
    from .crf.kernels import Bilateral, FeatureGaussian, Gaussian
    from .crf.lattice import Lattice, gaussian_filter
    from .crf.mean_field import mean_field
    from .io.cards import ModelCard
    from .layer.crfrnn import CRFRNN
    from .layer.losses import DenseCRFLoss, PottsLoss
    from .layer.prepared import Prepared
    from .layer.soft_labels import soft_cross_entropy
    from .layer.upsample import Upsample
    from .models import Segmenter
    from .offline.refine import refine
    from .offline.refined import Refined
    from .offline.upsample import upsample

__all__ = [
    "CRFRNN",
    "Bilateral",
    "DenseCRFLoss",
    "FeatureGaussian",
    "Gaussian",
    "Inference",
    "InputWarning",
    "Kernel",
    "Lattice",
    "ModelCard",
    "Neighborhood",
    "PottsLoss",
    "Prepared",
    "Refined",
    "Segmenter",
    "Step",
    "Upsample",
    "bilateralfilter",
    "explore",
    "frankwolfe",
    "free_energy",
    "gaussian_filter",
    "info",
    "mean_field",
    "presets",
    "pydensecrf",
    "refine",
    "soft_cross_entropy",
    "upsample",
]

__version__: str

#: The module of each public name. It is loaded when the name is first used, so that `import crfrnn`
#: is quick, and what needs no torch works without it.
_MODULES = {
    "CRFRNN": "layer.crfrnn",
    "Bilateral": "crf.kernels",
    "DenseCRFLoss": "layer.losses",
    "FeatureGaussian": "crf.kernels",
    "Gaussian": "crf.kernels",
    "Inference": "crf.frank_wolfe",
    "InputWarning": "_guards",
    "Kernel": "crf.kernel",
    "Lattice": "crf.lattice",
    "ModelCard": "io.cards",
    "Neighborhood": "crf.edges",
    "PottsLoss": "layer.losses",
    "Prepared": "layer.prepared",
    "Refined": "offline.refined",
    "Segmenter": "models",
    "Step": "crf.frank_wolfe",
    "Upsample": "layer.upsample",
    "bilateralfilter": "bilateralfilter",
    "explore": "app.serving",
    "frankwolfe": "frankwolfe",
    "free_energy": "crf.energy",
    "gaussian_filter": "crf.lattice",
    "info": "_info",
    "mean_field": "crf.mean_field",
    "presets": "presets",
    "pydensecrf": "pydensecrf",
    "refine": "offline.refine",
    "soft_cross_entropy": "layer.soft_labels",
    "upsample": "offline.upsample",
}


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


if not typing.TYPE_CHECKING:  # to type checkers it would give the module every attribute

    def __getattr__(name: str) -> object:
        """Load the module of a public name, or read the version, when it is asked for (PEP 562)."""
        if name == "__version__":
            return importlib.import_module("._version", __name__).installed_version()
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(f".{_MODULES[name]}", __name__)
        except ModuleNotFoundError as error:
            if error.name == "torch":
                importlib.import_module("._extras", __name__).require_torch(f"crfrnn.{name}")
            raise
        value = module if _MODULES[name] == name else getattr(module, name)
        globals()[name] = value
        return value
