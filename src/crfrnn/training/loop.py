"""train(): the loop over stages, epochs and steps."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .batches import Batch, order
from .config import TrainConfig
from .config_stage import StageConfig
from .log import EPOCHS, STEPS, Log
from .objective import count_labeled
from .run import CRF, MODEL, Run
from .runtime import make_runtime
from .schedule import factor
from .validate import validate
from .watch import blame_forward, blame_gradient

SKIPPED = (
    "a training step was skipped because its gradient is not finite in half precision; this is "
    "normal in the first steps, until the scale of the loss is low enough"
)


@dataclass(frozen=True)
class Trained:
    """What `train` returns.

    Attributes:
        model: directory of the exported model; without a network, of the layer alone, for
            `CRFRNN.from_pretrained`.
        steps: all training steps, including those before a resume.
        loss: mean loss of the last epoch; NaN without any step.
        scores: mean IoU in percent on the validation images, of "network" and "crf"; empty without
            validation.
        rank: of this process among several.
    """

    model: Path
    steps: int
    loss: float
    scores: dict[str, float]
    rank: int = 0


def train(config: TrainConfig, *, restart: bool = False, quiet: bool = False) -> Trained:
    """Train, or resume a run that was interrupted in any way and at any moment.

    A resumed run gives the same weights as an uninterrupted one; on a CPU with the same number of
    threads they are equal bit by bit.

    Args:
        config: see `TrainConfig`.
        restart: start over, even if the output folder holds a state to resume from.
        quiet: show no progress on stderr.

    Returns:
        The directory of the model, and its scores.

    Raises:
        ValueError: the configuration does not fit the data, or the run in the output folder.
        FloatingPointError: a loss or gradient is not finite; the message names its source.

    Example:
        >>> import pathlib, tempfile
        >>> from crfrnn.training import DataConfig, ModelConfig, StageConfig, TrainConfig, train
        >>> config = TrainConfig(
        ...     pathlib.Path(tempfile.mkdtemp()),
        ...     DataConfig("shapes", options={"count": 2, "size": 16}),
        ...     ModelConfig("light", {"width": 2}),
        ...     (StageConfig("joint", epochs=1, batch_size=2),),
        ... )
        >>> train(config, quiet=True).steps
        1
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    runtime = make_runtime(config.device, config.precision)
    run = Run(config, runtime)
    for index, stage in enumerate(config.stages):
        size = min(stage.batch_size, len(run.train))
        if size % runtime.world:
            raise ValueError(
                f"stages.{index}.batch_size: expected a multiple of the {runtime.world} processes; "
                f"got {size} images"
            )
    if run.path.is_file() and not restart:
        run.restore()
    run.begin(restart=restart)
    total = sum(run.steps_of(index) for index in range(len(config.stages)))
    done = run.before + run.step
    scores: dict[str, float] = {}
    with Log(
        config.output,
        step=done,
        total=total,
        tensorboard=config.tensorboard and not runtime.rank,
        quiet=quiet or runtime.rank > 0,
        writes=not runtime.rank,
    ) as log:
        for index in range(run.stage, len(config.stages)):
            stage = run.enter(index)
            while run.step < run.steps_of(index):
                scores = _epoch(run, stage, log)
    loss = run.losses[0] / run.losses[1] if run.losses[1] else float("nan")
    if not scores and run.val is not None and config.validate_every:
        scores = validate(run.objective, run.average, run.val, runtime)
    if not runtime.rank:
        run.export()
    runtime.meet()
    folder = config.output / (CRF if config.model.network is None else MODEL)
    return Trained(folder, run.before + run.step, loss, scores, runtime.rank)


def _epoch(run: Run, stage: StageConfig, log: Log) -> dict[str, float]:
    """Train the remaining steps of an epoch, validate if it is due, and save."""
    per_epoch = run.steps_per_epoch(run.stage)
    epoch, first = divmod(run.step, per_epoch)
    if not first:
        run.losses = (0.0, 0)
    # Everything random in this epoch follows from these seeds, so a resume in the middle of it only
    # skips the batches that are done.
    seeds = (run.config.seed, run.stage, epoch)
    batches = order(len(run.train), stage.batch_size, *seeds)[first:]
    # Each process takes its share of every batch: the batches do not depend on the number of
    # processes.
    shares = [batch[run.runtime.rank :: run.runtime.world] for batch in batches]
    start = time.perf_counter()
    for batch in run.train.batches(shares, stage, seeds, run.config.workers):
        values = _step(run, stage, batch.to(run.runtime.device), epoch)
        log.add(STEPS, {**values, "seconds": time.perf_counter() - start})
        start = time.perf_counter()
        every = run.config.save_every
        if every and run.step % every == 0 and run.step % per_epoch:
            run.save()
    last = run.step == run.steps_of(run.stage)
    every = run.config.validate_every
    scores: dict[str, float] = {}
    begin = time.perf_counter()
    if run.val is not None and every and ((epoch + 1) % every == 0 or last):
        scores = validate(run.objective, run.average, run.val, run.runtime)
    named = {f"iou.{name}": value for name, value in scores.items()}
    log.add(
        EPOCHS,
        {
            **_position(run, stage, epoch),
            "loss": run.losses[0] / run.losses[1],
            **named,
            "seconds": time.perf_counter() - begin,
        },
    )
    run.save()
    return scores


def _step(run: Run, stage: StageConfig, batch: Batch, epoch: int) -> dict[str, Any]:
    """Train one step, and return the values of its line in the log."""
    runtime, objective = run.runtime, run.objective
    where = f"stage {run.stage} ({stage.train}), epoch {epoch}, step {run.step}"
    # The factor is a function of the step, so a schedule has no state to save.
    rate_factor = factor(stage, run.step, run.steps_of(run.stage))
    for group in run.optimizer.param_groups:
        group["lr"] = group["peak"] * rate_factor
    objective.zero_grad(set_to_none=True)
    # The objective is a sum, divided by the labeled pixels of the whole batch: all pixels weigh the
    # same. An average of means per process would favor images with few labels.
    pixels = runtime.total(count_labeled(batch))
    tensors = (batch.image, batch.label, batch.inside, batch.logits)
    try:
        loss = runtime.forward(run.module, *tensors) / pixels
    except ValueError as error:  # the layer refuses numbers that are not finite
        if _inputs_are_finite(run, batch):
            raise
        blame_forward(objective, batch, where, str(error))
    if not bool(loss.isfinite()):
        blame_forward(objective, batch, where, str(loss.item()))
    # With `pixels` counted over all processes, the gradient of the batch is the sum of theirs; but
    # Fabric averages them, which divides by their number.
    runtime.backward(loss * runtime.world)
    norm = runtime.step(run.module, run.optimizer, stage.clip)
    if not bool(norm.isfinite()):
        if runtime.scaler() is None:
            blame_gradient(objective, batch, where)
        warnings.warn(SKIPPED, UserWarning, stacklevel=2)
    if run.average is not None:
        run.average.update(objective.state_dict())
    run.step += 1
    mean_loss = float(runtime.total(loss.detach()))
    run.losses = (run.losses[0] + mean_loss, run.losses[1] + 1)
    rates = {f"rate.{group['name']}": group["lr"] for group in run.optimizer.param_groups}
    return {**_position(run, stage, epoch), "loss": mean_loss, "gradient": float(norm), **rates}


def _position(run: Run, stage: StageConfig, epoch: int) -> dict[str, Any]:
    return {"step": run.before + run.step, "stage": f"{run.stage}-{stage.train}", "epoch": epoch}


def _inputs_are_finite(run: Run, batch: Batch) -> bool:
    """Whether parameters and unary logits are finite, so that an error has another cause."""
    if not all(bool(p.isfinite().all()) for p in run.objective.parameters()):
        return False
    with torch.no_grad():
        return bool(run.objective.unary(batch.image, batch.logits).isfinite().all())
