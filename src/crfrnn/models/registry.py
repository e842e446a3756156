"""The networks by the names that configuration files use."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from crfrnn import _checks

from .deeplab import DeepLabMobileNet
from .fcn8s import FCN8s
from .imported import is_import_path, make_imported
from .light import LightFCN

#: Each makes a network from a number of classes and further arguments. All networks take RGB
#: images (B, 3, H, W) on 0..255 and normalize them themselves.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "deeplab_mobilenet": DeepLabMobileNet,
    "fcn8s": FCN8s,
    "light": LightFCN,
}


def make_network(
    name: str, num_classes: int, *, imports: bool = True, **arguments: Any
) -> nn.Module:
    """Make a network by name.

    Args:
        name: a key of `NETWORKS`, or the import path of a class derived from `torch.nn.Module`,
            such as "mypackage.MyUNet". The class gets the number of classes as `num_classes`,
            `n_classes`, `classes`, `num_labels` or `out_channels`, whichever it has.
        num_classes: C, the channels of its logits.
        imports: whether the module of an import path may be imported. If not, it must have been.
        arguments: further arguments of that network. For an import path, `mean` and `std`, on 0..1,
            normalize the image, unless the class has arguments of these names; without them, it
            gets the image on 0..255.

    Raises:
        ValueError: unknown name, or an argument that this network does not take.

    Example:
        >>> from crfrnn.models import make_network
        >>> network = make_network("light", 11, width=8)
    """
    if is_import_path(name):
        return make_imported(name, num_classes, arguments, imports=imports)
    if name not in NETWORKS:
        raise ValueError(
            f"unknown network {name!r}; expected one of: {', '.join(NETWORKS)}, or the import path "
            f"of a class, such as mypackage.MyUNet"
        )
    make = NETWORKS[name]
    known = [p for p in inspect.signature(make).parameters if p != "num_classes"]
    for argument in arguments:
        _checks.one_of(f"argument of network {name!r}", argument, known)
    return make(num_classes, **arguments)
