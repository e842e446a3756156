"""Resumable training in stages: of a network, of the CRF on top of it, or of both."""

from typing import TYPE_CHECKING

from crfrnn._extras import require_torch

from .config import DataConfig, ModelConfig, ScoresConfig, TrainConfig
from .config_crf import CrfConfig
from .config_stage import PAPER_RATES, RatesConfig, StageConfig
from .settings import read_config

if TYPE_CHECKING:
    from .loop import Trained, train

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


if not TYPE_CHECKING:  # to type checkers it would give the module every attribute

    def __getattr__(name: str) -> object:
        """Load what needs torch when it is asked for; configurations are read without torch."""
        if name not in ("Trained", "train"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        require_torch(f"{__name__}.{name}")
        from . import loop

        return getattr(loop, name)
