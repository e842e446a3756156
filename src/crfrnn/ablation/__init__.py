"""What each part gives: network, CRF attached, tuned, trained, and all trained end to end."""

from .config import AblateConfig, VariantConfig
from .run import ablate

__all__ = ["AblateConfig", "VariantConfig", "ablate"]
