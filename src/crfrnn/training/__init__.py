"""Training: of a network, of the CRF on top of it, or of both; in stages, and resumable."""

from .config import (
    CrfConfig,
    DataConfig,
    KernelConfig,
    ModelConfig,
    RatesConfig,
    StageConfig,
    TrainConfig,
)
from .loop import Trained, train
from .settings import read_config

__all__ = [
    "CrfConfig",
    "DataConfig",
    "KernelConfig",
    "ModelConfig",
    "RatesConfig",
    "StageConfig",
    "TrainConfig",
    "Trained",
    "read_config",
    "train",
]
