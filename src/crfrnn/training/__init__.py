"""Resumable training in stages: of a network, of the CRF on top of it, or of both."""

from .config import DataConfig, ModelConfig, ScoresConfig, TrainConfig
from .config_crf import CrfConfig
from .config_stage import PAPER_RATES, RatesConfig, StageConfig
from .loop import Trained, train
from .settings import read_config

__all__ = [
    "PAPER_RATES",
    "CrfConfig",
    "DataConfig",
    "ModelConfig",
    "RatesConfig",
    "ScoresConfig",
    "StageConfig",
    "TrainConfig",
    "Trained",
    "read_config",
    "train",
]
