"""The networks by the names that configuration files use."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from crfrnn import _checks

from .deeplab import DeepLabMobileNet
from .fcn8s import FCN8s
from .light import LightFCN

#: Each makes a network from a number of classes and further arguments. All networks take RGB
#: images (B, 3, H, W) on 0..255 and normalize them themselves.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "deeplab_mobilenet": DeepLabMobileNet,
    "fcn8s": FCN8s,
    "light": LightFCN,
}


def make_network(name: str, num_classes: int, **arguments: Any) -> nn.Module:
    """Make a network by name.

    Args:
        name: a key of `NETWORKS`.
        num_classes: C, the channels of its logits.
        arguments: further arguments of that network.

    Raises:
        ValueError: unknown name, or an argument that this network does not take.

    Example:
        >>> from crfrnn.models import make_network
        >>> network = make_network("light", 11, width=8)
    """
    _checks.one_of("network", name, NETWORKS)
    make = NETWORKS[name]
    known = [p for p in inspect.signature(make).parameters if p != "num_classes"]
    for argument in arguments:
        _checks.one_of(f"argument of network {name!r}", argument, known)
    return make(num_classes, **arguments)
