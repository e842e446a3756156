"""Lending a package of ours the import name of another library, in later processes too."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType


@dataclass
class Face:
    """An import name that a package of ours can take.

    Attributes:
        name: the name, such as "pydensecrf".
        package: the package of ours.
        folder: a folder with a package of that name, which other processes find.
        modules: makes the modules to register, by their full names.
        real: finds the place of a real installation, "" if there is none; by default any other
            module of that name counts as one.
        replaced: modules of a real installation that were imported before `install` replaced them.
    """

    name: str
    package: str
    folder: str
    modules: Callable[[], Mapping[str, ModuleType]]
    real: Callable[[], str] | None = None
    replaced: dict[str, ModuleType] = field(default_factory=dict)

    def install(self, override: bool) -> bool:
        """Take the name; a real installation stays in use, with a warning, unless `override`."""
        if self.installed():
            return True
        place = self.other() if self.real is None else self.real()
        if place and not override:
            self.warn(place)
            return False
        for name in [name for name in sys.modules if name.partition(".")[0] == self.name]:
            self.replaced[name] = sys.modules.pop(name)
        sys.modules.update(self.modules())
        sys.path[:] = self._with_folder(sys.path)
        _set_python_path(self._with_folder(_python_path()))
        return True

    def uninstall(self) -> None:
        """Undo `install`."""
        for name, module in self.modules().items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        sys.modules.update(self.replaced)
        self.replaced.clear()
        if self.folder in sys.path:
            sys.path[:] = self._without_folder(sys.path)
        if self.folder in _python_path():
            _set_python_path(self._without_folder(_python_path()))

    def installed(self) -> bool:
        """Whether the name is ours."""
        return sys.modules.get(self.name) is sys.modules[self.package]

    def other(self) -> str:
        """The place of another module of that name, or "" if there is none."""
        if self.installed():
            return ""
        if self.name in sys.modules:
            return str(getattr(sys.modules[self.name], "__file__", None) or "memory")
        try:
            spec = importlib.util.find_spec(self.name)
        except (ImportError, ValueError):  # an import of that name is under way
            return ""
        # A folder without a module in it is a namespace, which a data folder may be.
        place = "" if spec is None or spec.origin is None else spec.origin
        return "" if place.startswith(self.folder) else place

    def warn(self, place: str) -> None:
        """Say that a real installation stays in use."""
        warnings.warn(
            f"a real {self.name} is installed ({place}) and stays in use; to use crfrnn instead, "
            f"call {self.package}.install(override=True)",
            UserWarning,
            stacklevel=4,
        )

    def _with_folder(self, parts: list[str]) -> list[str]:
        """The folder at the end, or before anything else that has the name."""
        others = self._without_folder(parts)
        taken = (i for i, part in enumerate(others) if Path(part, self.name).exists())
        place = next(taken, len(others))
        return [*others[:place], self.folder, *others[place:]]

    def _without_folder(self, parts: list[str]) -> list[str]:
        return [part for part in parts if part != self.folder]


def _python_path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]


def _set_python_path(parts: list[str]) -> None:
    if parts:
        os.environ["PYTHONPATH"] = os.pathsep.join(parts)
    else:
        os.environ.pop("PYTHONPATH", None)
