"""tune(): search on the training split, then before and after on images held out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from crfrnn.evaluation.metrics import mean_iou
from crfrnn.io.files import require_writable
from crfrnn.io.progress import Progress
from crfrnn.layer.crfrnn import CRFRNN
from crfrnn.models.checkpoint import load_checkpoint
from crfrnn.presets import PRESETS, Preset, write_preset
from crfrnn.training.objective import Objective
from crfrnn.training.runtime import device_alone
from crfrnn.training.source import Source

from .config import TuneConfig
from .gains import gain_interval
from .scored import Scored
from .search import Found, search


@dataclass(frozen=True)
class Tuned:
    """What `tune` returns.

    Attributes:
        found: the best parameters, and their score on the training images.
        held_out: on the validation images, in percent: mean IoU `before`, with the preset that is
            the `default` of `refine`, and `after`; `gain` and its 95 % interval `low`, `high`,
            paired over images. None without validation images.
    """

    found: Found
    held_out: dict[str, float] | None


def tune(config: TuneConfig, *, restart: bool = False, quiet: bool = False) -> Tuned:
    """Search parameters of the dense CRF, write them as a preset, and report on images held out.

    Nothing is chosen on the validation images.

    Args:
        config: what to do; see `TuneConfig`.
        restart: begin anew, though there are trials beside the output.
        quiet: no progress on stderr.

    Raises:
        ImportError: optuna is not installed.
        ValueError: the data or the trials of an earlier run do not fit.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    require_writable(config.output)
    storage = config.output.with_suffix(".journal")
    if restart:
        storage.unlink(missing_ok=True)
    objective, device = _model(config)
    scored = _scored(config, "train", objective, device)
    with Progress("tuning", config.search.trials, "trials", quiet=quiet) as progress:

        def advance(trials: int, best: float) -> None:
            progress.update(trials, f"best mean IoU {best:.2f}")

        found = search(
            scored,
            config.search,
            storage=storage,
            name=config.output.stem,
            advance=advance,
        )
    write_preset(config.output, found.preset)
    held_out = None
    if config.data.val is not None and (
        config.data.scores is None or config.data.scores.val is not None
    ):
        held_out = compare(_scored(config, "val", objective, device), found.preset, quiet=quiet)
    return Tuned(found, held_out)


def compare(scored: Scored, preset: Preset, *, quiet: bool = True) -> dict[str, float]:
    """Mean IoU in percent without a CRF, with the default of `refine`, and with a preset."""
    presets = {"before": None, "default": PRESETS["deeplab"], "after": preset}
    every = range(len(scored))
    with Progress("validating", len(presets) * len(every), "images", quiet=quiet) as progress:
        rows = {
            name: scored.confusions(chosen, every, advance=progress.advance)
            for name, chosen in presets.items()
        }
    values = {name: 100 * float(mean_iou(counts.sum(dim=0))) for name, counts in rows.items()}
    low, high = gain_interval(rows["before"], rows["after"])
    return {**values, "gain": values["after"] - values["before"], "low": low, "high": high}


def _model(config: TuneConfig) -> tuple[Objective | None, torch.device]:
    device = device_alone(config.device)
    if config.model is None:
        return None, device
    model = load_checkpoint(config.model)
    crf = CRFRNN(model.num_classes) if model.crf is None else model.crf
    return Objective(model.network, crf).to(device).eval(), device


def _scored(
    config: TuneConfig, split: str, objective: Objective | None, device: torch.device
) -> Scored:
    source = Source(config.data, split)
    if objective is not None and objective.crf.num_classes != source.num_classes:
        raise ValueError(
            f"model: it has {objective.crf.num_classes} classes, the data {source.num_classes}"
        )
    return Scored(source, objective, device)
