"""ablate(): all rows of all seeds, each stored on disk when complete, then the report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crfrnn.evaluation.metrics import Counts
from crfrnn.io.arrays import read_arrays
from crfrnn.io.files import make_folder, replacing, write_text
from crfrnn.io.progress import Progress, on_terminal
from crfrnn.io.trees import read_json_file
from crfrnn.training import StageConfig
from crfrnn.training.runtime import device_alone
from crfrnn.training.settings import same, to_tree
from crfrnn.training.source import Source, require_apart

from .config import ROWS, AblateConfig, VariantConfig
from .predict import Predictor
from .report import Result, write_report
from .rows import Rows

COUNTS = "counts.npz"
RESULT = "result.json"
SETTINGS = "settings.json"

#: Settings that may change without computing a row again.
_FREE = ("output", "seeds", "variants", "device", "precision", "threads", "workers", "save_every")


def ablate(config: AblateConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Compute every row of every seed, score it on the validation images, and write the report.

    Complete rows are not computed again, and an interrupted row resumes where it stopped.

    Args:
        config: see `AblateConfig`.
        quiet: show no progress on stderr.

    Returns:
        The content of `report.json`; `report.md` and `report.png` lie beside it.

    Raises:
        ValueError: the output folder holds rows with other settings, or images of `data.val` are
            among those of `data.train`.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = device_alone(config.device)
    source = Source(config.data, "val")
    require_apart(config.data)
    make_folder(config.output)
    work: list[tuple[int, str, VariantConfig | None]] = [
        (seed, row, variant)
        for seed in config.seeds
        for row, variant in [
            *((row, None) for row in config.rows()),
            *((variant.row, variant) for variant in config.variants),
        ]
    ]
    results: list[Result] = []
    # A terminal shows one bar; a log file also gets the progress inside each row.
    inner_quiet = quiet or on_terminal()
    with Progress("ablating", len(work), "rows", quiet=quiet) as progress:
        for seed, row, variant in work:
            key = row if variant is None else variant.key
            progress.update(len(results), f"at seed {seed}, {key}")
            folder = config.output / f"seed{seed}" / key
            settings = _settings(config, row, variant)
            if not (folder / RESULT).is_file():
                _begin(folder, settings)
                rows = Rows(config, seed, source.num_classes, device, quiet=inner_quiet)
                stages = config.stages().get(row, ())
                predictor = rows.make(row, variant)
                _score(predictor, config, source, stages, folder, settings, quiet=inner_quiet)
            title = ROWS[row] if variant is None else variant.name
            results.append(_read(folder, key, title, seed, settings))
        progress.update(len(results), "")
    return write_report(config, results, source)


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a row, or compare them with those that it was begun with."""
    # The state of its training knows the settings of that training alone. A row that resumed after
    # a change of, say, the network's stages would have the CRF of the old network.
    begun = folder / SETTINGS
    if begun.is_file():
        _require_same(folder, read_json_file(begun), settings)
        return
    make_folder(folder)
    write_text(begun, json.dumps(to_tree(settings, absolute=True), indent=2) + "\n")


def _require_same(folder: Path, reported: dict[str, Any], settings: dict[str, Any]) -> None:
    changed = [name for name, value in settings.items() if not same(reported.get(name), value)]
    if changed:
        raise ValueError(
            f"{folder}: this row was computed with other settings ({', '.join(changed)}); remove "
            f"the folder to compute it again, or use another output"
        )


def _score(
    predictor: Predictor,
    config: AblateConfig,
    source: Source,
    stages: tuple[StageConfig, ...],
    folder: Path,
    settings: dict[str, Any],
    *,
    quiet: bool,
) -> None:
    """Score a row and write its counts; the file that marks it as complete comes last."""
    steps = config.iterations
    confusions, counts = predictor.score(source, steps, config.report, config.trimap, quiet=quiet)
    costs = predictor.costs(source, steps)
    if stages:
        costs["training"] = predictor.training_cost(Source(config.data, "train"), stages[-1])
    make_folder(folder)
    with replacing(folder / COUNTS) as file:
        np.savez_compressed(
            file,
            confusions=confusions.numpy(),
            **{name: value.numpy() for name, value in vars(counts).items()},
        )
    spelled = {name: asdict(cost) for name, cost in costs.items()}
    record = {"costs": spelled, "settings": to_tree(settings, absolute=True)}
    write_text(folder / RESULT, json.dumps(record, indent=2) + "\n")


def _read(folder: Path, key: str, title: str, seed: int, settings: dict[str, Any]) -> Result:
    """Read a complete row, if its settings are these."""
    record = read_json_file(folder / RESULT)
    _require_same(folder, record["settings"], settings)
    arrays = {name: torch.from_numpy(a) for name, a in read_arrays(folder / COUNTS).items()}
    confusions = arrays.pop("confusions")
    return Result(key, title, seed, confusions, Counts(**arrays), record["costs"])


def _settings(config: AblateConfig, row: str, variant: VariantConfig | None) -> dict[str, Any]:
    """The settings that decide a row."""
    kept = {name: value for name, value in vars(config).items() if name not in _FREE}
    return {**kept, "row": row, "variant": variant}
