"""tune(): search on the training split, then score before and after on held-out images."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crfrnn._extras import require_torch
from crfrnn.core.threads import limited_threads
from crfrnn.io.files import require_writable
from crfrnn.io.progress import Progress
from crfrnn.presets import PRESETS, Preset, write_preset
from crfrnn.training.processes import require_alone
from crfrnn.training.source import Source, require_apart

from .config import TuneConfig
from .gains import SCORE_TITLES, SCORES, gain_interval, scores_of
from .scored import Scored
from .search import Found, search


@dataclass(frozen=True)
class Tuned:
    """What `tune` returns.

    Attributes:
        found: the best parameters, and their score on the training images.
        held_out: `mean_iou` and `trimap_iou` of the validation images in percent; None without
            validation images. For each, the value `before`, with the `default` preset of `refine`,
            and `after`; the `gain` from `before` to `after` with its 95 % interval `low`, `high`,
            paired over images.
    """

    found: Found
    held_out: dict[str, dict[str, float]] | None


def tune(config: TuneConfig, *, restart: bool = False, quiet: bool = False) -> Tuned:
    """Search parameters of the dense CRF, write them as a preset, and score held-out images.

    The search never sees the validation images.

    Args:
        config: see `TuneConfig`.
        restart: start over, even if there are trials to resume from.
        quiet: show no progress on stderr.

    Raises:
        ImportError: optuna is not installed; or there is a model, and torch is not installed.
        ValueError: the data, or the trials of an earlier search, do not fit the configuration; or
            images of `data.val` are among those of `data.train`.
    """
    require_alone()
    require_writable(config.output)
    storage = config.output.with_suffix(".journal")
    if storage.is_symlink():  # trials are appended, so they would end up elsewhere
        raise ValueError(f"{storage}: is a link; remove it, or choose another output")
    if restart:
        storage.unlink(missing_ok=True)
    network = _network(config)  # first, because it loads torch, whose threads are limited too
    with nullcontext() if config.threads is None else limited_threads(config.threads):
        return _tune(config, network, storage, quiet=quiet)


def _tune(config: TuneConfig, network: tuple[Any, Any], storage: Path, *, quiet: bool) -> Tuned:
    scored = _scored(config, "train", network)
    is_held_out = config.data.val is not None and (
        config.data.scores is None or config.data.scores.val is not None
    )
    if is_held_out:
        require_apart(config.data)
    with Progress("tuning", config.search.trials, "trials", quiet=quiet) as progress:

        def advance(trials: int, best: float) -> None:
            progress.update(trials, f"best {SCORE_TITLES[config.search.score]} {best:.2f}")

        found = search(
            scored,
            config.search,
            storage=storage,
            name=config.output.stem,
            advance=advance,
        )
    write_preset(config.output, found.preset)
    held_out = None
    if is_held_out:
        held_out = compare(_scored(config, "val", network), found.preset, quiet=quiet)
    return Tuned(found, held_out)


def compare(scored: Scored, preset: Preset, *, quiet: bool = True) -> dict[str, dict[str, float]]:
    """Scores without a CRF, with the default preset of `refine`, and with `preset`: `held_out`."""
    presets = {"before": None, "default": PRESETS["deeplab"], "after": preset}
    indices = range(len(scored))
    with Progress("validating", len(presets) * len(indices), "images", quiet=quiet) as progress:
        rows = {
            name: scored.confusions(chosen, indices, advance=progress.advance)
            for name, chosen in presets.items()
        }
    of_rows = {name: scores_of(counts) for name, counts in rows.items()}
    result: dict[str, dict[str, float]] = {}
    for score in SCORES:
        values = {name: scores[score] for name, scores in of_rows.items()}
        low, high = gain_interval(rows["before"], rows["after"], score)
        result[score] = {
            **values,
            "gain": values["after"] - values["before"],
            "low": low,
            "high": high,
        }
    return result


def _network(config: TuneConfig) -> tuple[Any, Any]:
    """The network that computes the scores, and its device; both None if there is no model."""
    if config.model is None:
        return None, None
    require_torch("a search with a model")
    from crfrnn.layer.crfrnn import CRFRNN
    from crfrnn.models.checkpoint import load_checkpoint
    from crfrnn.training.objective import Objective
    from crfrnn.training.runtime import device_alone

    device = device_alone(config.device)
    model = load_checkpoint(config.model)
    crf = CRFRNN(model.num_classes) if model.crf is None else model.crf
    return Objective(model.network, crf).to(device).eval(), device


def _scored(config: TuneConfig, split: str, network: tuple[Any, Any]) -> Scored:
    objective, device = network
    source = Source(config.data, split)
    if objective is not None and objective.crf.num_classes != source.num_classes:
        raise ValueError(
            f"model: expected the {source.num_classes} classes of the data; got "
            f"{objective.crf.num_classes}"
        )
    return Scored(source, objective, device)
