"""Segmentation networks, and `Segmenter`, which joins any network to the layer."""

from .deeplab import DeepLabMobileNet
from .fcn8s import FCN8s
from .light import LightFCN
from .registry import NETWORKS, make_network
from .segmenter import Segmenter

__all__ = ["NETWORKS", "DeepLabMobileNet", "FCN8s", "LightFCN", "Segmenter", "make_network"]
