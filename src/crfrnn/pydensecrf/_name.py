"""Taking the import name `pydensecrf`, in this process and in those that it starts."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.machinery import all_suffixes
from pathlib import Path

from crfrnn._face import Face, find, imported_from


def claim(folders: Iterable[str]) -> None:
    """Take the name for a package `pydensecrf` that is being imported from `folders`.

    If the same folder holds the compiled module of a real one, the real one stays, with a warning.
    """
    place = _compiled_in(folders)
    if place:
        _FACE.warn(place)
    else:
        _FACE.register()


def _real_installation() -> str:
    """The place of a working pydensecrf, or "" if there is none.

    A source tree or an empty folder of that name lacks the compiled module and does not count.
    """
    place = imported_from("pydensecrf.densecrf")
    if place:
        return place
    spec = find("pydensecrf")
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
    "pydensecrf",
    "crfrnn.pydensecrf",
    example=(
        "import pydensecrf.densecrf as dcrf",
        "dcrf.DenseCRF2D.__module__",
        "'crfrnn.pydensecrf.densecrf'",
    ),
    parts=("densecrf", "eigen", "utils"),
    real=_real_installation,
    rival="a real installation",
)

install, uninstall, installed, _ = _FACE.functions()
