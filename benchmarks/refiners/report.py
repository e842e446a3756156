"""The league table from the answers: JSON, Markdown and a figure."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crfrnn.evaluation.evaluate import Evaluation
from crfrnn.evaluation.metrics import Counts, Settings, stack
from crfrnn.io.files import replacing, write_text

from .counts import decode
from .figure import Point, draw
from .journal import Journal, Key
from .method import LEAST, Method
from .worker import DECIDED

#: Scores of the table, with the titles of their columns.
SCORES = {
    "mean_iou": "mean IoU",
    "trimap_iou_3": "trimap IoU, 3 px",
    "boundary_iou": "boundary IoU",
    "boundary_f": "boundary F",
}
NETWORK = "network"


def summarize(
    rows: Sequence[Method],
    tuned: Mapping[str, Mapping[str, Any]],
    photographs: Sequence[str],
    classes: int,
    journal: Journal,
    reference: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Gather all numbers of the table, as JSON values.

    Raises:
        ValueError: `reference` is no row.
    """
    widths = facts["widths"]
    counts: dict[str, Counts] = {}
    described: dict[str, dict[str, Any]] = {}
    for row in rows:
        source = tuned[row.same_as or row.name]
        keys = [Key("test", row.name, source["trial"], name) for name in photographs]
        answers = [journal.answers[key] for key in keys]
        for name in answers[0]["counts"]:
            if any(name not in answer["counts"] for answer in answers):
                continue
            counts[name] = stack([decode(a["counts"][name], classes, len(widths)) for a in answers])
            seconds = [answer["seconds"][name] for answer in answers]
            described[name] = {
                "title": row.title + " + RankSEG" * name.endswith(DECIDED),
                "source": row.source,
                "numbers": source["numbers"] if row.space or row.same_as else {},
                "tuning": {key: source[key] for key in ("before", "after") if key in source}
                if row.space and name == row.name
                else {},
                "seconds": statistics.fmean(seconds),
                "seconds_longest": max(seconds),
                "megabytes": max(answer["memory"][name] for answer in answers) / 1e6,
                "failures": sorted({a["error"] for a in answers if a["error"]}),
                "failed": sum(a["error"] is not None for a in answers),
            }
    if reference not in counts:
        raise ValueError(f"--reference {reference}: no such row; one of: {', '.join(counts)}")
    settings = Settings(tuple(widths))
    against = {
        name: _against(name, photographs, classes, settings, counts)
        for name in dict.fromkeys((NETWORK, reference))
    }
    for name, row in described.items():
        scores = against[NETWORK]["rows"][name]
        row["scores"] = {score: scores[score] for score in SCORES}
        row["over_network"] = _difference(against[NETWORK], name)
        row["over_reference"] = _difference(against[reference], name)
    return {
        **facts,
        "photographs": list(photographs),
        "reference": reference,
        "classes": classes,
        "bootstrap": against[NETWORK]["bootstrap"],
        "machine": f"{platform.system()} {platform.machine()}",
        "rows": described,
    }


def _against(
    first: str,
    photographs: Sequence[str],
    classes: int,
    settings: Settings,
    counts: Mapping[str, Counts],
) -> dict[str, Any]:
    ordered = {first: counts[first], **counts}
    ids = tuple(str(index) for index in range(classes))
    return Evaluation(tuple(photographs), ids, settings, ordered).summary()


def _difference(summary: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    found = summary["differences"].get(name)
    return None if found is None else {score: found[score] for score in SCORES}


def markdown(league: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    return "\n".join(_lines(league)) + "\n"


def _lines(league: Mapping[str, Any]) -> Iterator[str]:
    rows, reference = league["rows"], league["reference"]
    yield "# Refiners without weights"
    yield ""
    if league["note"]:
        yield league["note"]
        yield ""
    tuning = (
        f"Each method with numbers to choose was tuned with {league['trials']} trials on "
        f"{league['images']} training photographs (seed {league['seed']})."
        if league["train"]
        else "No method was tuned."
    )
    scores = Path(league["test"]["scores"]).name
    yield (
        f"{len(league['photographs'])} photographs, scores in `{scores}`. {tuning} Percent, with "
        "95 % bootstrap intervals over photographs. Differences are to "
        f"*{rows[reference]['title']}* and paired; **bold** ones have an interval away from zero. "
        "Seconds are of the processor, on one thread, for a photograph whose method is loaded, and "
        "include the probabilities; megabytes are the largest growth of the process. Refiners of "
        f"single maps get only classes whose probability reaches {LEAST:g} somewhere."
    )
    yield ""
    titles = [
        cell
        for title in SCORES.values()
        for cell in (title, "difference" if title != "boundary F" else "")
        if cell
    ]
    yield f"| method | {' | '.join(titles)} | seconds | MB |"
    yield f"| --- |{' ---: |' * (len(titles) + 2)}"
    order = sorted(rows, key=lambda name: -rows[name]["scores"]["mean_iou"]["value"])
    for name in order:
        yield _row(rows[name], name == reference)
    yield ""
    for score, title in SCORES.items():
        yield f"- {title}: {_verdict(rows, reference, score)}"
    failed = [row for row in rows.values() if row["failed"]]
    if failed:
        yield ""
        yield "Where a method fails, the labels of the network stand in:"
        yield ""
        for row in failed:
            yield f"- {row['title']}: {row['failed']} times ({'; '.join(row['failures'])[:200]})"
    if league["missing"]:
        yield ""
        yield from (f"- {line}" for line in league["missing"])
    yield ""
    yield "| method | score in tuning, default | tuned | numbers |"
    yield "| --- | ---: | ---: | --- |"
    for name in order:
        row = rows[name]
        if row["tuning"]:
            numbers = ", ".join(f"{key} {_plain(value)}" for key, value in row["numbers"].items())
            before, after = row["tuning"]["before"], row["tuning"]["after"]
            yield f"| {row['title']} | {before:.2f} | {after:.2f} | {numbers} |"


def _verdict(rows: Mapping[str, Any], reference: str, score: str) -> str:
    """Who is better and who is worse than the reference, beyond the interval."""
    found: dict[str, list[str]] = {"better": [], "worse": []}
    for name in sorted(rows, key=lambda name: -rows[name]["scores"][score]["value"]):
        difference = rows[name]["over_reference"]
        if difference is not None and difference[score]["low"] > 0:
            found["better"].append(rows[name]["title"])
        elif difference is not None and difference[score]["high"] < 0:
            found["worse"].append(rows[name]["title"])
    parts = [
        f"{word}: {', '.join(f'*{one}*' for one in names) or 'none'}"
        for word, names in found.items()
    ]
    open_ = len(rows) - 1 - sum(map(len, found.values()))
    return f"than *{rows[reference]['title']}*, {'; '.join(parts)}; {open_} undecided"


def _row(row: Mapping[str, Any], is_reference: bool) -> str:
    cells = []
    for score in SCORES:
        value = row["scores"][score]
        text = f"{100 * value['value']:.2f}"
        if score == "mean_iou":
            text += f" [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
        cells.append(text)
        if score != "boundary_f":
            cells.append(_spell(row["over_reference"], score))
    title = f"**{row['title']}**" if is_reference else row["title"]
    seconds, memory = f"{row['seconds']:.2f}", f"{row['megabytes']:.0f}"
    return f"| {title} | {' | '.join(cells)} | {seconds} | {memory} |"


def _spell(differences: Mapping[str, Any] | None, score: str) -> str:
    if differences is None:
        return ""
    value, low, high = (100 * differences[score][key] for key in ("value", "low", "high"))
    text = f"{value:+.2f}"
    text = f"**{text}**" if low > 0 or high < 0 else text
    return f"{text} [{low:+.1f}, {high:+.1f}]"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def write(folder: Path, league: Mapping[str, Any]) -> list[Path]:
    """Write league.json, league.md and league.png, and return their paths."""
    paths = [folder / f"league.{suffix}" for suffix in ("json", "md", "png")]
    write_text(paths[0], json.dumps(league, indent=1) + "\n")
    write_text(paths[1], markdown(league))
    points = [
        Point(
            row["title"],
            row["seconds"],
            {SCORES[score]: 100 * row["scores"][score]["value"] for score in _DRAWN},
            "crfrnn" in name,
        )
        for name, row in league["rows"].items()
        if name != NETWORK
    ]
    plain = league["rows"][NETWORK]["scores"]
    lines = {SCORES[score]: 100 * plain[score]["value"] for score in _DRAWN}
    with replacing(paths[2]) as file:
        draw(points, lines).save(file, "PNG", optimize=True)
    return paths


#: The scores of the figure, a panel each.
_DRAWN = ("mean_iou", "boundary_iou")
