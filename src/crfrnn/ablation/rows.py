"""Rows: training and tuning the rows of one seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from crfrnn.io.progress import Progress
from crfrnn.layer.crfrnn import CRFRNN
from crfrnn.presets import write_preset
from crfrnn.training import ModelConfig, train
from crfrnn.training.config_crf import CrfConfig
from crfrnn.training.run import make_objective
from crfrnn.training.source import Source
from crfrnn.tuning import Scored, search
from crfrnn.tuning.gains import SCORE_TITLES

from .config import BASE, AblateConfig, VariantConfig
from .predict import Predictor

PRESET = "preset.json"


class Rows:
    """The rows of one seed.

    Args:
        config: of the ablation.
        seed: of training and search.
        classes: C.
        device: for predictions.
        quiet: show no progress on stderr.
    """

    def __init__(
        self, config: AblateConfig, seed: int, classes: int, device: torch.device, quiet: bool
    ) -> None:
        self.config = config
        self.seed = seed
        self.classes = classes
        self.device = device
        self.quiet = quiet
        self.folder = config.output / f"seed{seed}"

    def make(self, row: str, variant: VariantConfig | None) -> Predictor:
        """Train or tune a row, reusing whatever is on disk already, and load it."""
        crf = self.config.crf_of(variant)
        key = row if variant is None else variant.key
        if row == "network":
            return self._predictor(self._network(), None)
        if row in ("default", "tuned"):
            source = self.config.preset if row == "default" else str(self._tuned())
            # Weights, bandwidths and normalization come from the preset, all else from the CRF of
            # the trained rows, unless the variant says otherwise.
            changed = dataclasses.replace(
                crf,
                preset=source,
                kernels=None,
                learn_compatibility=False,
                normalization=None if variant is None else variant.crf.get("normalization"),
            )
            return self._predictor(self._network(), changed.make(self.classes))
        initial = self._initial(crf)
        joint = row == "joint"
        weights = self._base() if joint else self._network()
        model = dataclasses.replace(self.config.model, weights=weights, crf=initial)
        stages = self.config.joint if joint else (self.config.crf,)
        config = self.config.train_config(stages, self.seed, self.folder / key, model)
        trained = train(config, quiet=self.quiet)
        layer = initial.make(self.classes)
        if self.config.model.network is None:
            return self._predictor(None, CRFRNN.from_pretrained(trained.model))
        objective = make_objective(dataclasses.replace(model, weights=trained.model), self.classes)
        # The configured layer, not the stored one, decides steps and solver of the evaluation.
        layer.load_state_dict(CRFRNN.from_pretrained(trained.model).state_dict())
        return Predictor(objective, layer, self.device)

    def _predictor(self, weights: Path | None, crf: CRFRNN | None) -> Predictor:
        model = dataclasses.replace(self.config.model, weights=weights)
        return Predictor(make_objective(model, self.classes), crf, self.device)

    def _base(self) -> Path | None:
        """The common network of all rows."""
        if not self.config.base:
            return self.config.model.weights
        model = self.config.model
        folder = self.folder / BASE
        config = self.config.train_config(self.config.base, self.seed, folder, model)
        return train(config, quiet=self.quiet).model

    def _network(self) -> Path | None:
        """The network after further training without a CRF."""
        if not self.config.network:
            return None
        model = dataclasses.replace(self.config.model, weights=self._base())
        folder = self.folder / "network"
        config = self.config.train_config(self.config.network, self.seed, folder, model)
        return train(config, quiet=self.quiet).model

    def _tuned(self) -> Path:
        """The preset of the search on the training images."""
        folder = self.folder / "tuned"
        path = folder / PRESET
        if path.is_file():
            return path
        folder.mkdir(parents=True, exist_ok=True)
        model: ModelConfig = dataclasses.replace(self.config.model, weights=self._network())
        objective = make_objective(model, self.classes).to(self.device).eval()
        scored = Scored(Source(self.config.data, "train"), objective, self.device)
        search_config = dataclasses.replace(self.config.search, seed=self.seed)
        with Progress("tuning", search_config.trials, "trials", quiet=self.quiet) as progress:

            def advance(trials: int, best: float) -> None:
                progress.update(trials, f"best {SCORE_TITLES[search_config.score]} {best:.2f}")

            result = search(
                scored, search_config, storage=folder / "trials.journal", advance=advance
            )
        write_preset(path, result.preset)
        return path

    def _initial(self, crf: CrfConfig) -> CrfConfig:
        """The initial CRF of a trained row."""
        if not self.config.from_tuned:
            return crf
        return dataclasses.replace(crf, preset=str(self._tuned()), kernels=None)
