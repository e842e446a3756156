"""The report of an ablation: a JSON table, a plot and a Markdown page."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from crfrnn.evaluation.metrics import (
    Counts,
    Settings,
    interval,
    mean_iou,
    resample,
    summarize,
    total,
)
from crfrnn.io.files import write_image, write_text
from crfrnn.training.settings import to_tree
from crfrnn.training.source import Source

from .config import AblateConfig
from .plot import Line, draw_lines

_SCORE_HEADS = (
    "row", "mean IoU", "trimap IoU", "boundary F", "over the network", "over the tuned CRF",
)  # fmt: skip
_DIFFERENCE_HEADS = ("mean IoU", "trimap IoU", "boundary F")

#: A part, the row that has it, and the row that lacks it.
_PARTS = {
    "the CRF, with the preset": ("default", "network"),
    "tuning its parameters": ("tuned", "default"),
    "training its parameters, over tuning": ("crf", "tuned"),
    "training the network with it": ("joint", "crf"),
    "end to end, over tuning": ("joint", "tuned"),
}

PAGE, TABLE, PLOT = "report.md", "report.json", "report.png"


@dataclass(frozen=True)
class Result:
    """A row of one seed.

    Attributes:
        key: of the row or variant.
        title: in the table.
        seed: of the row.
        confusions: (N, S, C, C), one per image and number of steps.
        counts: (N, ...) all counts for the reported number of steps.
        costs: seconds and megabytes. Per image for "network" and each number of steps; per step for
            "training", if the row was trained.
    """

    key: str
    title: str
    seed: int
    confusions: Tensor
    counts: Counts
    costs: Mapping[str, Mapping[str, float | None]]


def write_report(
    config: AblateConfig, results: Sequence[Result], source: Source, *, resamples: int = 1000
) -> dict[str, Any]:
    """Score all rows, write page, table and plot, and return the content of the table."""
    keys = list(dict.fromkeys(result.key for result in results))
    settings = Settings(widths=(config.trimap,))
    drawn = _drawn(results, settings, resamples)
    by_steps = [
        _drawn([replace(r, counts=_counts_of(r, index)) for r in results], settings, resamples)
        for index in range(len(config.iterations))
    ]
    rows = {
        key: _row(
            config,
            [r for r in results if r.key == key],
            settings,
            drawn[key],
            [interval(step[key]["mean_iou"]) for step in by_steps],
        )
        for key in keys
    }
    gains = {
        key: {
            base: _gain(rows[key], rows[base], drawn[key], drawn[base])
            for base in ("network", "tuned")
            if base in rows and base != key
        }
        for key in keys
    }
    parts = {
        name: _gain(rows[key], rows[base], drawn[key], drawn[base])
        for name, (key, base) in _PARTS.items()
        if key in rows and base in rows
    }
    variants = {
        v.key: _gain(rows[v.key], rows[v.row], drawn[v.key], drawn[v.row])
        for v in config.variants
        if v.key in rows and v.row in rows
    }
    tree = {
        "images": len(source),
        "seeds": list(config.seeds),
        "iterations": list(config.iterations),
        "report": config.report,
        "bootstrap": {"resamples": resamples, "interval": 0.95, "over": "images and seeds, paired"},
        "rows": rows,
        "gains": gains,
        "parts": parts,
        "variants": variants,
        "settings": to_tree(config),
    }
    write_text(config.output / TABLE, json.dumps(tree, indent=2) + "\n")
    lines = []
    for row in rows.values():
        points = [row["mean_iou_by_steps"][str(t)] for t in config.iterations]
        intervals = [(point["low"], point["high"]) for point in points]
        lines.append(Line(row["title"], [point["mean"] for point in points], intervals))
    plot = draw_lines(
        list(config.iterations),
        lines,
        x_title="mean-field steps T",
        y_title="mean IoU in %, with 95 % intervals over images and seeds",
    )
    write_image(config.output / PLOT, plot)
    write_text(config.output / PAGE, _page(config, tree))
    return tree


def _drawn(
    results: Sequence[Result], settings: Settings, resamples: int
) -> dict[str, dict[str, Tensor]]:
    """Bootstrap scores of each row in percent: images drawn anew, and as many seeds as there are.

    All rows share the draws, of images and of seeds.
    """
    named = {f"{r.key} {r.seed}": r.counts for r in results}
    drawn = resample(named, settings, resamples=resamples)
    seeds = list(dict.fromkeys(result.seed for result in results))
    generator = torch.Generator().manual_seed(0)
    picked = torch.randint(len(seeds), (len(seeds), resamples), generator=generator)
    return {
        key: {
            score: 100
            * torch.stack([drawn[f"{key} {seed}"][score] for seed in seeds])
            .gather(0, picked)
            .mean(0)
            for score in next(iter(drawn.values()))
        }
        for key in dict.fromkeys(result.key for result in results)
    }


def _counts_of(result: Result, index: int) -> Counts:
    """The counts with the confusions for another number of steps, which alone were kept."""
    return replace(result.counts, confusion=result.confusions[:, index])


def _row(
    config: AblateConfig,
    results: list[Result],
    settings: Settings,
    drawn: Mapping[str, Tensor],
    intervals: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    by_steps = {}
    for index, (steps, (low, high)) in enumerate(zip(config.iterations, intervals, strict=True)):
        values = [100 * float(mean_iou(r.confusions[:, index].sum(dim=0))) for r in results]
        by_steps[str(steps)] = {**_spread(values), "low": low, "high": high, "seeds": values}
    scores = {}
    for name in drawn:
        values = [100 * float(summarize(total(r.counts), settings)[name]) for r in results]
        low, high = interval(drawn[name])
        scores[name] = {**_spread(values), "low": low, "high": high, "seeds": values}
    return {
        "title": results[0].title,
        "mean_iou_by_steps": by_steps,
        "scores": scores,
        "costs": results[0].costs,
    }


def _spread(values: list[float]) -> dict[str, float | None]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "deviation": deviation}


def _gain(
    row: dict[str, Any], base: dict[str, Any], drawn: Mapping[str, Tensor], other: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    gains = {}
    for name, values in drawn.items():
        low, high = interval(values - other[name])
        gain = row["scores"][name]["mean"] - base["scores"][name]["mean"]
        gains[name] = {"value": gain, "low": low, "high": high}
    return gains


def _page(config: AblateConfig, tree: dict[str, Any]) -> str:
    trimap = f"trimap_iou_{config.trimap}"
    seeds = ", ".join(map(str, config.seeds))
    heads = ["row", *(f"T={t}" for t in config.iterations)]
    sweep = [
        [row["title"], *(_pm(row["mean_iou_by_steps"][str(t)]) for t in config.iterations)]
        for row in tree["rows"].values()
    ]
    scores = [
        [
            row["title"],
            _with_interval(row["scores"]["mean_iou"]),
            _with_interval(row["scores"][trimap]),
            _pm(row["scores"]["boundary_f"]),
            *(_signed(tree["gains"][key].get(b, {}).get("mean_iou")) for b in ("network", "tuned")),
        ]
        for key, row in tree["rows"].items()
    ]
    parts = _table(("part", *_DIFFERENCE_HEADS), _differences(tree["parts"], trimap))
    varied = {
        f"{variant.name}, over: {tree['rows'][variant.row]['title']}": tree["variants"][variant.key]
        for variant in config.variants
        if variant.key in tree["variants"]
    }
    variants = _table(("variant", *_DIFFERENCE_HEADS), _differences(varied, trimap))
    costs = [
        [
            row["title"],
            _cost(row["costs"].get("network")),
            *(_cost(row["costs"].get(str(t))) for t in config.iterations),
            _cost(row["costs"].get("training")),
        ]
        for row in tree["rows"].values()
    ]
    return "\n\n".join(
        [
            "# Gain of each part",
            f"{tree['images']} validation images, not used for any choice; seeds {seeds}. "
            f"Parentheses hold the standard deviation over the seeds, brackets the 95 % bootstrap "
            f"interval of the mean over the seeds, over images and seeds. Differences are paired. "
            f"The trimap covers pixels within {config.trimap} pixels of another label.",
            f"## At T = {config.report}",
            _table(_SCORE_HEADS, scores),
            *_verdicts(tree),
            "## What each part gives",
            parts,
            *(["## What each variant gives over its row", variants] if varied else []),
            "## Mean IoU by steps at test time",
            _table(heads, sweep),
            f"![mean IoU by steps]({PLOT})",
            "## Cost per image, and per training step",
            "Time and peak memory of the network alone, and of the CRF on top with its filters. "
            "Memory in use before is subtracted.",
            _table(["row", "network", *heads[1:], "training step"], costs),
            "",
        ]
    )


def _differences(gains: Mapping[str, Any], trimap: str) -> list[list[str]]:
    scores = "mean_iou", trimap, "boundary_f"
    return [[name, *(_signed(gain[score]) for score in scores)] for name, gain in gains.items()]


def _verdicts(tree: dict[str, Any]) -> list[str]:
    lines = []
    for key, gains in tree["gains"].items():
        for base, scores in gains.items():
            gain = scores["mean_iou"]
            verdict = "better than" if gain["low"] > 0 else "not clearly different from"
            verdict = "WORSE than" if gain["high"] < 0 else verdict
            title, other = (tree["rows"][name]["title"] for name in (key, base))
            lines.append(f"- {title}: {verdict} {other} ({_signed(gain)})")
    return ["\n".join(lines)] if lines else []


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _pm(value: Mapping[str, float | None]) -> str:
    deviation = value["deviation"]
    return f"{value['mean']:.2f}" + ("" if deviation is None else f" ({deviation:.2f})")


def _with_interval(value: Mapping[str, Any]) -> str:
    return f"{_pm(value)} [{value['low']:.2f}, {value['high']:.2f}]"


def _signed(gain: Mapping[str, float] | None) -> str:
    if gain is None or math.isnan(gain["value"]):
        return ""
    return f"{gain['value']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]"


def _cost(cost: Mapping[str, float | None] | None) -> str:
    if cost is None or cost["seconds"] is None:
        return ""
    memory = cost["megabytes"]
    return f"{1000 * cost['seconds']:.0f} ms" + ("" if memory is None else f", {memory:.0f} MB")
