"""Model cards: a README.md that says what a model is, and what is known about how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .files import write_text

#: The name that model hubs show a folder's card by.
CARD = "README.md"

_UNKNOWN = "Not stated."


@dataclass(frozen=True)
class ModelCard:
    """What to tell the users of a model, besides what its configuration says.

    What is left out is reported as not stated; nothing is guessed.

    Attributes:
        title: the heading; by default the class of the model.
        data: what the model was trained on, with the split and the source.
        license: of the weights, as hubs spell it, such as "mit" or "cc-by-nc-4.0". The data may
            restrict it.
        scores: by what was measured and on which data, such as "mean IoU, CamVid test, percent".
        command: what trained the model, to be typed again.
        notes: further paragraphs, in Markdown.

    Example:
        >>> from crfrnn import ModelCard
        >>> card = ModelCard(
        ...     data="CamVid, 11 classes, its training split", license="mit",
        ...     scores={"mean IoU, CamVid test, percent": 48.9},
        ...     command="crfrnn train examples/camvid.yaml",
        ... )
        >>> print(card.text("CRFRNN", {"classes": 11})[:57])
        ---
        library_name: crfrnn
        pipeline_tag: image-segmentation
    """

    title: str | None = None
    data: str | None = None
    license: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    command: str | None = None
    notes: str | None = None

    def __post_init__(self) -> None:
        """Check the types now; a hub would refuse the card only after the upload."""
        for name in ("title", "data", "license", "command", "notes"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise TypeError(f"ModelCard: {name} must be a text; got {value!r}")
        for name, score in self.scores.items():
            if (
                not isinstance(name, str)
                or isinstance(score, bool)
                or not hasattr(score, "__float__")
            ):
                raise TypeError(
                    f"ModelCard: scores must be numbers by what they measure; got {name!r}: "
                    f"{score!r}"
                )

    def text(self, model: str, facts: Mapping[str, object], use: str = "") -> str:
        """Write the card.

        Args:
            model: the class of the model.
            facts: what the model says about itself, by name.
            use: Python code that loads it.

        Returns:
            Markdown, after a head in YAML that hubs read.

        Example:
            >>> from crfrnn import ModelCard
            >>> "Not stated." in ModelCard().text("CRFRNN", {})
            True
        """
        head = {"library_name": "crfrnn", "pipeline_tag": "image-segmentation"}
        if self.license is not None:
            head["license"] = json.dumps(self.license)
        lines = [
            "---",
            *(f"{name}: {value}" for name, value in head.items()),
            "tags: [conditional-random-field, crf-rnn]",
            "---",
            "",
            f"# {self.title or model}",
            "",
            f"A `{model}` of crfrnn: a fully connected conditional random field "
            "([CRF-RNN](https://arxiv.org/abs/1502.03240)) for a segmentation network.",
            "",
        ]
        if use:
            lines += ["```python", use.strip(), "```", ""]
        for title, value in (("Data", self.data), ("License", self.license)):
            lines += [f"## {title}", "", value or _UNKNOWN, ""]
        lines += ["## Scores", ""]
        if self.scores:
            lines += ["| score | value |", "| --- | ---: |"]
            lines += [
                f"| {_cell(name)} | {float(value):.6g} |" for name, value in self.scores.items()
            ]
        else:
            lines += [_UNKNOWN]
        lines += ["", "## Training", ""]
        lines += ["```sh", self.command.strip(), "```"] if self.command else [_UNKNOWN]
        lines += ["", "## Configuration", "", "| name | value |", "| --- | --- |"]
        lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in facts.items()]
        if self.notes:
            lines += ["", self.notes.strip()]
        return "\n".join(lines) + "\n"


def write_card(directory: Path, text: str) -> None:
    """Write a card into a directory that exists."""
    write_text(directory / CARD, text)


def _cell(value: object) -> str:
    """A value as one cell of a table."""
    return " ".join(str(value).replace("|", "\\|").split())
