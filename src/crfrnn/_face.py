"""Lending a package of ours the import name of another library, in later processes too."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from inspect import cleandoc
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Install(Protocol):
    """The type of a package's `install`."""

    def __call__(self, *, override: bool = False) -> bool:
        """Take the name."""


@dataclass
class Face:
    """An import name that a package of ours can take.

    Attributes:
        name: the name, such as "pydensecrf".
        package: the package of ours. Its folder `face` holds a package `name`, which other
            processes find; that one calls `register`.
        example: for the docstring of `install`: two lines of Python, and what the second shows.
        parts: the package's modules that programs import by name.
        real: finds the place of a real installation, "" if there is none; by default any other
            module of that name counts as one.
        rival: what `real` finds, for the docstring of `install`.
        replaced: modules of a real installation that were imported before `install` replaced them.
    """

    name: str
    package: str
    example: tuple[str, str, str]
    parts: tuple[str, ...] = ()
    real: Callable[[], str] | None = None
    rival: str = "another module of that name"
    replaced: dict[str, ModuleType] = field(default_factory=dict)

    def functions(
        self,
    ) -> tuple[Install, Callable[[], None], Callable[[], bool], Callable[[], bool]]:
        """Make the package's `install`, `uninstall`, `installed` and `taken`.

        They are functions, with docstrings that speak of this name.
        """

        def install(*, override: bool = False) -> bool:
            return self.install(override)

        def uninstall() -> None:
            self.uninstall()

        def installed() -> bool:
            return self.installed()

        def taken() -> bool:
            return bool(self.other())

        for function in (install, uninstall, installed, taken):
            self._document(function)
        return install, uninstall, installed, taken

    def register(self) -> None:
        """Take the name in this process alone."""
        sys.modules.update(self._modules())

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
        self.register()
        sys.path[:] = self._with_folder(sys.path)
        _set_python_path(self._with_folder(_python_path()))
        return True

    def uninstall(self) -> None:
        """Undo `install`."""
        for name, module in self._modules().items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        sys.modules.update(self.replaced)
        self.replaced.clear()
        if self._folder in sys.path:
            sys.path[:] = self._without_folder(sys.path)
        if self._folder in _python_path():
            _set_python_path(self._without_folder(_python_path()))

    def installed(self) -> bool:
        """Whether the name is ours."""
        return sys.modules.get(self.name) is sys.modules[self.package]

    def other(self) -> str:
        """The place of another module of that name, or "" if there is none."""
        if self.installed():
            return ""
        place = imported_from(self.name)
        if place:
            return place
        spec = find(self.name)
        # A folder without a module in it is a namespace, which a data folder may be.
        place = "" if spec is None or spec.origin is None else spec.origin
        return "" if place.startswith(self._folder) else place

    def warn(self, place: str) -> None:
        """Say that a real installation stays in use."""
        warnings.warn(
            f"a real {self.name} is installed ({place}) and stays in use; to use crfrnn instead, "
            f"call {self.package}.install(override=True)",
            UserWarning,
            stacklevel=4,
        )

    @property
    def _folder(self) -> str:
        return str(Path(str(sys.modules[self.package].__file__)).with_name("face"))

    def _modules(self) -> dict[str, ModuleType]:
        """The modules to register, by their full names."""
        ends = ("", *(f".{part}" for part in self.parts))
        return {self.name + end: sys.modules[self.package + end] for end in ends}

    def _document(self, function: Any) -> None:
        text = cleandoc(_DOCSTRINGS[function.__name__])
        first, second, shown = self.example
        function.__doc__ = text.format(
            name=self.name,
            package=self.package,
            rival=self.rival,
            first=first,
            second=second,
            shown=shown,
        )
        function.__module__ = f"{self.package}._name"
        function.__qualname__ = function.__name__

    def _with_folder(self, parts: list[str]) -> list[str]:
        """The folder at the end, or before anything else that has the name."""
        others = self._without_folder(parts)
        taken = (i for i, part in enumerate(others) if Path(part, self.name).exists())
        place = next(taken, len(others))
        return [*others[:place], self._folder, *others[place:]]

    def _without_folder(self, parts: list[str]) -> list[str]:
        return [part for part in parts if part != self._folder]


def imported_from(name: str) -> str:
    """The place of an imported module, or "" if none of that name was imported."""
    if name not in sys.modules:
        return ""
    return str(getattr(sys.modules[name], "__file__", None) or "memory")


def find(name: str) -> ModuleSpec | None:
    """Where an import would find a module."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # something else has the name, or an import is under way
        return None


def _python_path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]


def _set_python_path(parts: list[str]) -> None:
    if parts:
        os.environ["PYTHONPATH"] = os.pathsep.join(parts)
    else:
        os.environ.pop("PYTHONPATH", None)


#: Docstrings of the functions that a package offers, by function.
_DOCSTRINGS = {
    "install": """
    Let `import {name}` find this package, for code that cannot be changed.

    Registers the name until `uninstall`. Processes that this one starts afterwards find it too,
    whether forked, spawned, workers of joblib or separate programs. To that end, a folder with a
    package of that name is put on `sys.path` and on `PYTHONPATH` in `os.environ`. It goes to the
    end, or before anything else with that name.

    Args:
        override: replace {rival}. By default it stays in use, with a warning.

    Returns:
        Whether `import {name}` now finds this package.

    Example:
        >>> import {package}
        >>> {package}.install(override=True)
        True
        >>> {first}
        >>> {second}
        {shown}
        >>> {package}.uninstall()
    """,
    "uninstall": """
    Undo `install`: `import {name}` finds the previous module again.

    Names that were imported in the meantime stay as they are, and so do processes that are already
    running.

    Example:
        >>> import {package}
        >>> {package}.uninstall()
    """,
    "installed": """
    Return whether `import {name}` finds this package.

    Example:
        >>> import {package} as ours
        >>> ours.install(override=True) and ours.installed()
        True
        >>> ours.uninstall()
        >>> ours.installed()
        False
    """,
    "taken": """
    Return whether another module has the name, such as the original or a file of a program.

    Example:
        >>> import {package}
        >>> {package}.taken()
        False
    """,
}
