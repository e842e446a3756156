"""Ablation: the gain of each part, from the network alone to end-to-end training."""

from crfrnn._extras import require_torch

require_torch("crfrnn.ablation")

from .config import AblateConfig, VariantConfig  # noqa: E402
from .run import ablate  # noqa: E402

__all__ = ["AblateConfig", "VariantConfig", "ablate"]
