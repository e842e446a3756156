"""Run: the parts of a training run and its position, with saving and restoring."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from crfrnn.io.files import describe, make_folder, write_text
from crfrnn.models import NETWORKS, make_network
from crfrnn.models.checkpoint import Checkpoint, is_checkpoint, load_weights

from .batches import order
from .config import ModelConfig, TrainConfig
from .config_stage import StageConfig
from .objective import Objective
from .runtime import Runtime
from .settings import same, to_tree, to_yaml
from .source import Source
from .state import (
    Average,
    load_state,
    random_states,
    restore_random_states,
    save_state,
    seed_all,
)

STATE = "state.pt"
CONFIG = "train.yaml"
MODEL = "model"
CRF = "crf"

#: Settings that may change when a run resumes: where and how fast it computes, not what.
_FREE = frozenset({"output", "threads", "workers", "tensorboard", "save_every", "device"})


class Run:
    """The parts of a training run and its position.

    Args:
        config: see `TrainConfig`.
        runtime: device and processes.

    Attributes:
        stage: index of the current stage.
        step: steps trained in this stage.
        before: steps trained in earlier stages.
    """

    def __init__(self, config: TrainConfig, runtime: Runtime) -> None:
        self.config = config
        self.runtime = runtime
        self.path = config.output / STATE
        self.train = Source(config.data, "train")
        self.val = None if config.data.val is None else _validation(config)
        # All processes draw the same initial weights; dropout differs by rank, see `enter`.
        seed_all(config.seed, 0, 0)
        self.objective = make_objective(config.model, self.train.num_classes).to(runtime.device)
        self.average = (
            None if config.ema is None else Average(config.ema, self.objective.state_dict())
        )
        self.stage = self.step = self.before = 0
        self.optimizer: Any = None
        self.module: nn.Module = self.objective
        self.losses = (0.0, 0)
        self._restored: dict[str, Any] | None = None

    def enter(self, index: int) -> StageConfig:
        """Enter a stage, or resume the restored one."""
        stage = self.config.stages[index]
        if index != self.stage:
            self.before += self.step
            self.stage, self.step, self.losses = index, 0, (0.0, 0)
        # Seeded by stage, a stage does not depend on the random numbers that the one before drew.
        seed_all(self.config.seed, 1 + index, self.runtime.rank)
        self.objective.enter(stage)
        plain = _make_optimizer(stage, self.objective)
        if self._restored is not None:
            plain.load_state_dict(self._restored["optimizer"])
        self.module, self.optimizer = self.runtime.setup(self.objective, plain)
        if self._restored is not None:
            scaler = self.runtime.scaler()
            if scaler is not None and self._restored["scaler"] is not None:
                scaler.load_state_dict(self._restored["scaler"])
            # Last of all: what is built above may have drawn random numbers.
            restore_random_states(self._restored["chance"][self.runtime.rank])
            self._restored = None
        return stage

    def steps_per_epoch(self, index: int) -> int:
        """Steps per epoch of a stage."""
        return len(order(len(self.train), self.config.stages[index].batch_size))

    def steps_of(self, index: int) -> int:
        """Steps of a stage."""
        return self.config.stages[index].epochs * self.steps_per_epoch(index)

    def save(self) -> None:
        """Write the state of all processes; the first one writes."""
        generators = self.runtime.gather(random_states())
        if self.runtime.rank:
            return
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        scaler = self.runtime.scaler()
        state = {
            "stage": self.stage,
            "step": self.step,
            "before": self.before,
            "losses": self.losses,
            "world": self.runtime.world,
            "config": to_tree(self.config, absolute=True),
            "model": self.objective.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": None if self.average is None else self.average.tensors,
            "scaler": None if scaler is None else scaler.state_dict(),
            "chance": generators,
        }
        save_state(self.path, state)

    def restore(self) -> None:
        """Restore the state in the output folder."""
        state = load_state(self.path)
        _require_same(self.path, state["config"], self.config)
        if state["world"] != self.runtime.world:
            raise ValueError(
                f"{self.path}: the run had {state['world']} processes, now {self.runtime.world}; "
                f"start as many, or start over with --restart"
            )
        self.objective.load_state_dict(state["model"])
        if self.average is not None:
            self.average.tensors = {
                name: tensor.to(self.runtime.device) for name, tensor in state["average"].items()
            }
        self.stage, self.step, self.before = state["stage"], state["step"], state["before"]
        self.losses = tuple(state["losses"])
        self._restored = state

    def begin(self, *, restart: bool = False) -> None:
        """Make the output folder and write the configuration; `restart` removes an old state."""
        if not self.runtime.rank:
            make_folder(self.config.output)
            # Else a run that is killed before it saves would resume the one before it.
            if restart:
                self.path.unlink(missing_ok=True)
            write_text(self.config.output / CONFIG, to_yaml(self.config))

    def export(self) -> None:
        """Write the model, or its average if there is one, as a checkpoint directory."""
        tensors = self.objective.state_dict() if self.average is None else self.average.tensors
        model = self.config.model
        objective = make_objective(replace(model, weights=None), self.train.num_classes)
        objective.load_state_dict(tensors)
        objective.eval()
        if model.network is None:
            objective.crf.save_pretrained(self.config.output / CRF)
            return
        assert objective.network is not None
        Checkpoint(
            model.network,
            self.train.num_classes,
            model.options,
            objective.network,
            objective.crf,
            self.train.classes,
            {"steps": self.before + self.step, "seed": self.config.seed},
        ).save(self.config.output / MODEL)


def make_objective(model: ModelConfig, num_classes: int) -> Objective:
    """Make the network with its initial weights, and the CRF."""
    crf = model.crf.make(num_classes)
    if model.network is None:
        return Objective(None, crf)
    network = make_network(model.network, num_classes, **model.options)
    if model.weights is not None:
        _load(network, model, num_classes)
    return Objective(network, crf)


def _load(network: nn.Module, model: ModelConfig, num_classes: int) -> None:
    """Fill a network from a checkpoint directory, a state dict or a .npz file."""
    path = model.weights
    assert path is not None
    assert model.network is not None
    if path.is_dir():
        if not is_checkpoint(path):
            raise ValueError(
                f"model.weights: expected a folder that crfrnn wrote; {path} holds no model"
            )
        report = load_weights(Checkpoint(model.network, num_classes, model.options, network), path)
        # A checkpoint's CRF is left out on purpose: `model.crf` says what the new one starts from.
        others = [name for name in report.unexpected if not name.startswith("crf.")]
        if report.missing or report.mismatched or others:
            warnings.warn(f"model.weights: {path}: {report}", UserWarning, stacklevel=2)
        return
    read = getattr(NETWORKS.get(model.network), "from_npz", None)
    if read is not None and path.suffix != ".npz":
        read = None
    state = _state_dict(path) if read is None else read(path).state_dict()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"model.weights: {path} does not fit network {model.network!r} of {num_classes} "
            f"classes: {describe(error)}"
        ) from None


def _state_dict(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"model.weights: {path} is missing")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"model.weights: cannot read {path} ({describe(error)})") from error


def _validation(config: TrainConfig) -> Source | None:
    without_scores = config.data.scores is not None and config.data.scores.val is None
    return None if without_scores else Source(config.data, "val")


def _make_optimizer(stage: StageConfig, objective: Objective) -> Optimizer:
    groups = objective.groups()
    if not groups:
        raise ValueError(
            f"nothing to train: all rates of the stage {stage.train!r} are 0; set a positive rate"
        )
    if stage.optimizer == "adamw":
        return AdamW(groups, betas=(stage.momentum, 0.999))
    return SGD(groups, momentum=stage.momentum)


def _require_same(path: Path, old: dict[str, Any], new: TrainConfig) -> None:
    changed = [
        name
        for name, value in vars(new).items()
        if name not in _FREE and not same(old.get(name), value)
    ]
    if changed:
        raise ValueError(
            f"{path}: the run there was started with other settings ({', '.join(changed)}); use "
            f"another output, or --restart to start over"
        )
