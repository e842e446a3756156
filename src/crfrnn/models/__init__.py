"""Networks, and what joins one to the layer."""

from .segmenter import Segmenter

__all__ = ["Segmenter"]
