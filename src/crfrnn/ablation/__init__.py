"""Ablation: the gain of each part, from the network alone to end-to-end training."""

from .config import AblateConfig, VariantConfig
from .run import ablate

__all__ = ["AblateConfig", "VariantConfig", "ablate"]
