"""A drop-in for `pydensecrf`: the same names and calls, on this library's engines.

Either change one import, `import crfrnn.pydensecrf.densecrf as dcrf`, or call `install()` once
before other code imports `pydensecrf`.

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

import importlib.util
import sys
import warnings
from importlib.machinery import PathFinder
from types import ModuleType

from . import densecrf, eigen, utils

__all__ = ["densecrf", "eigen", "install", "uninstall", "utils"]

_NAME = "pydensecrf"

#: Modules of a real installation that were imported before `install` replaced them.
_replaced: dict[str, ModuleType] = {}


def install(*, override: bool = False) -> bool:
    """Let `import pydensecrf` find this package, for code that cannot be changed.

    Registers the four modules under the original names, in this process and until `uninstall`.
    New processes, unless they are forked, must call it again.

    Args:
        override: replace a real `pydensecrf` too. By default a real one stays in use, with a
            warning.

    Returns:
        Whether `import pydensecrf` now finds this package.

    Example:
        >>> import crfrnn.pydensecrf
        >>> crfrnn.pydensecrf.install(override=True)
        True
        >>> import pydensecrf.densecrf as dcrf
        >>> dcrf.DenseCRF2D.__module__
        'crfrnn.pydensecrf.densecrf'
        >>> crfrnn.pydensecrf.uninstall()
    """
    if installed():
        return True
    place = _real_installation()
    if place and not override:
        warnings.warn(
            f"a real pydensecrf is installed ({place}) and stays in use; to use crfrnn instead, "
            f"call crfrnn.pydensecrf.install(override=True)",
            UserWarning,
            stacklevel=2,
        )
        return False
    for name in [name for name in sys.modules if name.partition(".")[0] == _NAME]:
        _replaced[name] = sys.modules.pop(name)
    sys.modules.update(_ours())
    return True


def uninstall() -> None:
    """Undo `install`: `import pydensecrf` finds the previous package again.

    Names that were imported in the meantime stay as they are.

    Example:
        >>> import crfrnn.pydensecrf
        >>> crfrnn.pydensecrf.uninstall()
    """
    for name, module in _ours().items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    sys.modules.update(_replaced)
    _replaced.clear()


def installed() -> bool:
    """Return whether `import pydensecrf` finds this package.

    Example:
        >>> import crfrnn.pydensecrf as ours
        >>> ours.install(override=True) and ours.installed()
        True
        >>> ours.uninstall()
        >>> ours.installed()
        False
    """
    return sys.modules.get(_NAME) is sys.modules[__name__]


def _ours() -> dict[str, ModuleType]:
    parts = {part.__name__.rpartition(".")[2]: part for part in (densecrf, eigen, utils)}
    return {
        _NAME: sys.modules[__name__],
        **{f"{_NAME}.{name}": part for name, part in parts.items()},
    }


def _real_installation() -> str:
    """The place of a working pydensecrf, or "" if there is none.

    A source tree or an empty folder of that name lacks the compiled module and does not count.
    """
    if f"{_NAME}.densecrf" in sys.modules:
        return str(getattr(sys.modules[f"{_NAME}.densecrf"], "__file__", None) or "memory")
    try:
        spec = importlib.util.find_spec(_NAME)
    except (ImportError, ValueError):  # something else has the name, or an import is under way
        return ""
    folders = list(spec.submodule_search_locations or ()) if spec else []
    is_compiled = bool(folders) and PathFinder.find_spec(f"{_NAME}.densecrf", folders) is not None
    return folders[0] if is_compiled else ""
