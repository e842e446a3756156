"""The two functions of `bilateralfilter`, the extension behind `DenseEnergyLoss`, without SWIG.

The losses of meng-tang/rloss and of the projects that copy it (AFA, ToCo, SeCo and others) call a
compiled module `bilateralfilter`. This package takes its place: change one import,
`from crfrnn.bilateralfilter import bilateralfilter, bilateralfilter_batch`, or call `install()`
once before other code imports the name. The command `crfrnn run program.py` calls it for a whole
program. New code has `crfrnn.DenseCRFLoss`.

Example:
    >>> import crfrnn
    >>> crfrnn.bilateralfilter.install(override=True)
    True
    >>> from bilateralfilter import bilateralfilter_batch
    >>> bilateralfilter_batch.__module__
    'crfrnn.bilateralfilter._filter'
    >>> crfrnn.bilateralfilter.uninstall()
"""

from ._filter import bilateralfilter, bilateralfilter_batch
from ._name import install, installed, taken, uninstall

__all__ = [
    "bilateralfilter",
    "bilateralfilter_batch",
    "install",
    "installed",
    "taken",
    "uninstall",
]
