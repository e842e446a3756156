"""The interface of `CRF`, the library of the Frank-Wolfe paper, on this library's engines.

It has the two names of netw0rkf10w/CRF that programs use: `DenseGaussianCRF` and
`FrankWolfeParams`. Nothing is compiled, and it runs with and without a GPU. Either change one
import, `import crfrnn.frankwolfe as CRF`, or call `install()` once before other code imports `CRF`.
The command `crfrnn run program.py` calls it for a whole program.

Example:
    >>> import crfrnn
    >>> crfrnn.frankwolfe.install(override=True)
    True
    >>> import CRF
    >>> CRF.FrankWolfeParams(stepsize=0.5).stepsize
    0.5
    >>> crfrnn.frankwolfe.uninstall()
"""

from __future__ import annotations

import importlib
import typing

from ._name import install, installed, taken, uninstall
from ._params import FrankWolfeParams

if typing.TYPE_CHECKING:
    from ._layer import DenseGaussianCRF

__all__ = [
    "DenseGaussianCRF",
    "FrankWolfeParams",
    "install",
    "installed",
    "taken",
    "uninstall",
]

if not typing.TYPE_CHECKING:  # to type checkers it would give the module every attribute

    def __getattr__(name: str) -> object:
        """Load the layer when it is asked for: it needs torch, and the name `CRF` does not."""
        if name != "DenseGaussianCRF":
            raise AttributeError(
                f"crfrnn's CRF has DenseGaussianCRF and FrankWolfeParams; got {name!r}. The layer "
                f"with all options is crfrnn.CRFRNN."
            )
        try:
            module = importlib.import_module("._layer", __name__)
        except ModuleNotFoundError as error:
            if error.name == "torch":
                importlib.import_module("crfrnn._extras").require_torch(f"CRF.{name}")
            raise
        return module.DenseGaussianCRF
