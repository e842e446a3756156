"""What the CRF changed, in words: in one file, and in a folder by class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crfrnn.io.files import shorten
from crfrnn.jobs.files import Refinement

_NAMES_SHOWN = 5

#: What happened to classes, in a folder's JSON, and the sentence about it.
_EVENTS = {
    "vanished": "class {} vanished",
    "appeared": "class {} appeared",
    "swapped": "most of class {} became {}",
}


def flipped(results: Sequence[Refinement]) -> str:
    """Say which share of the confident pixels of all results flipped."""
    confident = sum(result.changed.confident for result in results)
    if not confident:
        return "no pixel was confident"
    share = sum(result.changed.flipped for result in results) / confident
    return f"{share:.1%} of confident ones flipped"


def verdict(result: Refinement) -> list[str]:
    """Say what happened to classes in one file, and what the guard did."""
    lines = [_EVENTS[event].format(*ids) for event, ids in _events(result)]
    if result.guarded.kept_input:
        lines.append("the guard kept the input")
    elif result.guarded.reverted:
        lines.append(f"the guard gave {result.guarded.reverted} pixels their label back")
    return lines


def summarize(results: Mapping[str, Refinement]) -> dict[str, Any]:
    """Add up what changed in the files of a folder, as JSON values.

    Args:
        results: the results by stem.

    Returns:
        The counts; for each event, the stems of the files by class, "3", or classes, "3 to 0"; and
        the stems of the files whose input the guard kept.
    """
    counts = ("pixels", "relabeled", "confident", "flipped")
    stems: dict[str, dict[str, list[str]]] = {event: defaultdict(list) for event in _EVENTS}
    for stem, result in results.items():
        for event, ids in _events(result):
            stems[event][" to ".join(map(str, ids))].append(stem)
    return {
        **{name: sum(getattr(r.changed, name) for r in results.values()) for name in counts},
        "reverted": sum(result.guarded.reverted for result in results.values()),
        **stems,
        "kept_input": [stem for stem, result in results.items() if result.guarded.kept_input],
    }


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """Say what `summarize` found: each class that an event struck, and the files."""
    lines = []
    for event, sentence in _EVENTS.items():
        by_class = summary[event]
        for ids in sorted(by_class, key=lambda text: [int(i) for i in text.split(" to ")]):
            lines.append(f"{sentence.format(*ids.split(' to '))} in {_files(by_class[ids])}")
    if summary["kept_input"]:
        lines.append(f"the guard kept the input of {_files(summary['kept_input'])}")
    if summary["reverted"]:
        lines.append(f"the guard gave {summary['reverted']} pixels their label back")
    return lines


def _events(result: Refinement) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield what happened to the classes of a file, and their ids."""
    for event in ("vanished", "appeared"):
        for index in getattr(result.changed, event):
            yield event, (index,)
    for pair in result.changed.swapped:
        yield "swapped", pair


def _files(stems: Sequence[str]) -> str:
    count = f"{len(stems)} file{'s' * (len(stems) > 1)}"
    return f"{count}: {shorten(stems, _NAMES_SHOWN)}"
