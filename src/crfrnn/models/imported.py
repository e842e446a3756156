"""Networks of other packages, named by their import path: `package.module.Class`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from crfrnn import _checks

from .constants import set_constant

#: The argument for the number of classes, as libraries call it.
_CLASS_ARGUMENTS = ("num_classes", "n_classes", "classes", "num_labels", "out_channels")


def is_import_path(name: str) -> bool:
    """Whether a network's name is an import path, and none of the registry's."""
    return "." in name


def import_network(path: str, *, imports: bool) -> type[nn.Module]:
    """Find the class that an import path names.

    Args:
        path: such as "mypackage.MyUNet".
        imports: import the package. If not, only what the program has imported is looked at: a
            file of weights must not decide which code runs.

    Raises:
        ValueError: there is no such class, or it is not a `torch.nn.Module`; or its module was not
            imported, and `imports` is false.
    """
    name, _, attribute = path.rpartition(".")
    if imports:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # something that the module itself imports
            raise ValueError(
                f"network {path!r}: there is no module {error.name!r}. Install its package, or "
                f"give --import {name.partition('.')[0]}, which also searches the working folder."
            ) from None
    elif name in sys.modules:
        module = sys.modules[name]
    else:
        raise ValueError(
            f"network {path!r} is code of another package, and reading a model imports no code. If "
            f"you trust the package, import it first: `import {name}`, or --import {name} on the "
            f"command line."
        )
    found = getattr(module, attribute, None)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        got = "nothing of that name" if found is None else type(found).__name__
        raise ValueError(
            f"network {path!r}: expected a class derived from torch.nn.Module; {name} has {got}. "
            f"Write a class whose __init__ makes the network."
        )
    return found


class OwnNetwork(nn.Module):
    """A network of another package that takes images on 0..255, as those of the registry do.

    Args:
        network: gives logits in any form that `Segmenter` takes.
        mean: per channel or one number, on 0..1: subtracted from the image / 255.
        std: divisor after that.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Any, std: Any) -> None:
        super().__init__()
        self.network = network
        self._scaling = {
            name: tuple(value) if isinstance(value, (tuple, list)) else (value,)
            for name, value in (("mean", mean), ("std", std))
        }
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the mean and the deviation again, as after `to_empty`."""
        for name, numbers in self._scaling.items():
            column = 255 * torch.tensor(numbers, dtype=torch.float32).view(1, -1, 1, 1)
            set_constant(self, name, column)

    def forward(self, image: Tensor) -> Any:
        """Score a batch of images (B, F, H, W) on 0..255."""
        return self.network((image - self.mean) / self.std)


def make_imported(
    path: str, num_classes: int, arguments: Mapping[str, Any], *, imports: bool
) -> nn.Module:
    """Make a network from its import path; see `make_network`."""
    make = import_network(path, imports=imports)
    parameters = inspect.signature(make).parameters
    given = dict(arguments)
    scaling = {
        name: given.pop(name)
        for name in ("mean", "std")
        if name not in parameters and name in given
    }
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for argument in () if takes_any else given:
        _checks.one_of(f"argument of network {path!r}", argument, list(parameters))
    names = [name for name in _CLASS_ARGUMENTS if name in parameters]
    if names and names[0] not in given:
        given[names[0]] = num_classes
    try:
        network = make(**given)
    except TypeError as error:
        raise ValueError(f"network {path!r}: {error}; its arguments are the options") from error
    if not scaling:
        return network
    _checks.positive("std", scaling.get("std", 1.0))
    _checks.finite_numbers("mean", scaling.get("mean", 0.0))
    return OwnNetwork(network, scaling.get("mean", 0.0), scaling.get("std", 1.0))
