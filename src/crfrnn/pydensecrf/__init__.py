"""A drop-in for `pydensecrf`: the same names and calls, on this library's engines.

Either change one import, `import crfrnn.pydensecrf.densecrf as dcrf`, or call `install()` once
before other code imports `pydensecrf`. The command `crfrnn run program.py` does so for a program.

Example:
    >>> import crfrnn
    >>> crfrnn.pydensecrf.install(override=True)
    True
    >>> import pydensecrf.densecrf as dcrf
    >>> dcrf.DenseCRF2D.__module__.startswith("crfrnn")
    True
    >>> crfrnn.pydensecrf.uninstall()
"""

from __future__ import annotations

from . import densecrf, eigen, utils
from ._name import install, installed, uninstall

__all__ = ["densecrf", "eigen", "install", "installed", "uninstall", "utils"]
