"""Taking the import name `pydensecrf`, in this process and in those that it starts."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from importlib.machinery import all_suffixes
from pathlib import Path
from types import ModuleType

from crfrnn._face import Face

from . import densecrf, eigen, utils

_NAME = "pydensecrf"
_PACKAGE = __name__.rpartition(".")[0]


def install(*, override: bool = False) -> bool:
    """Let `import pydensecrf` find this package, for code that cannot be changed.

    Registers the four modules under the original names, until `uninstall`. Processes that this one
    starts afterwards find them too, whether forked, spawned, workers of joblib or separate
    programs. To that end, a folder with a package of that name is put on `sys.path` and on
    `PYTHONPATH` in `os.environ`. It goes to the end, or before anything else with that name.

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
    return _FACE.install(override)


def uninstall() -> None:
    """Undo `install`: `import pydensecrf` finds the previous package again.

    Names that were imported in the meantime stay as they are, and so do processes that are already
    running.

    Example:
        >>> import crfrnn.pydensecrf
        >>> crfrnn.pydensecrf.uninstall()
    """
    _FACE.uninstall()


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
    return _FACE.installed()


def claim(folders: Iterable[str]) -> None:
    """Take the name for a package `pydensecrf` that is being imported from `folders`.

    If the same folder holds the compiled module of a real one, the real one stays, with a warning.
    """
    place = _compiled_in(folders)
    if place:
        _FACE.warn(place)
    else:
        sys.modules.update(_ours())


def _ours() -> dict[str, ModuleType]:
    parts = {part.__name__.rpartition(".")[2]: part for part in (densecrf, eigen, utils)}
    return {
        _NAME: sys.modules[_PACKAGE],
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
    return _compiled_in(spec.submodule_search_locations or ()) if spec else ""


def _compiled_in(folders: Iterable[str]) -> str:
    """The first of the folders that holds the compiled module, or ""."""
    # A finder will not do: the original's sources have a folder `densecrf` of C++ files, and Python
    # takes it for a package.
    for folder in folders:
        if any(Path(folder, f"densecrf{suffix}").is_file() for suffix in all_suffixes()):
            return folder
    return ""


_FACE = Face(
    _NAME, _PACKAGE, str(Path(__file__).with_name("face")), modules=_ours, real=_real_installation
)
