"""Taking the import name `CRF`, in this process and in those that it starts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from crfrnn._face import Face

_NAME = "CRF"
_PACKAGE = __name__.rpartition(".")[0]
_FOLDER = str(Path(__file__).with_name("face"))


def install(*, override: bool = False) -> bool:
    """Let `import CRF` find this package, for code that cannot be changed.

    Registers the name until `uninstall`. Processes that this one starts afterwards find it too: a
    folder with a package of that name is put on `sys.path` and on `PYTHONPATH` in `os.environ`.

    Args:
        override: replace another module of that name. By default it stays in use, with a warning.

    Returns:
        Whether `import CRF` now finds this package.

    Example:
        >>> import crfrnn.frankwolfe
        >>> crfrnn.frankwolfe.install(override=True)
        True
        >>> from CRF import FrankWolfeParams
        >>> FrankWolfeParams.__module__
        'crfrnn.frankwolfe._params'
        >>> crfrnn.frankwolfe.uninstall()
    """
    return _FACE.install(override)


def uninstall() -> None:
    """Undo `install`: `import CRF` finds the previous module again.

    Example:
        >>> import crfrnn.frankwolfe
        >>> crfrnn.frankwolfe.uninstall()
    """
    _FACE.uninstall()


def installed() -> bool:
    """Return whether `import CRF` finds this package.

    Example:
        >>> import crfrnn.frankwolfe as ours
        >>> ours.install(override=True) and ours.installed()
        True
        >>> ours.uninstall()
        >>> ours.installed()
        False
    """
    return _FACE.installed()


def taken() -> bool:
    """Return whether another module has the name, such as the original or a file of a program.

    Example:
        >>> import crfrnn.frankwolfe
        >>> crfrnn.frankwolfe.taken()
        False
    """
    return bool(_FACE.other())


def claim() -> None:
    """Take the name for the package `CRF` that is being imported from our folder."""
    sys.modules.update(_ours())


def _ours() -> dict[str, ModuleType]:
    return {_NAME: sys.modules[_PACKAGE]}


_FACE = Face(_NAME, _PACKAGE, _FOLDER, modules=_ours)
