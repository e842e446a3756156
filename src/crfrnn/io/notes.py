"""Assumptions of a reader, for the user to confirm."""

from __future__ import annotations

from dataclasses import dataclass

from .options import Kind, Size


@dataclass(frozen=True)
class Guess:
    """The kind that was guessed for scores, and why."""

    kind: Kind
    why: str

    def __str__(self) -> str:
        """Return the text without the name of the file, for a note on many files."""
        return f"read as {self.kind}, because {self.why}; if that is wrong, give --kind"


@dataclass(frozen=True)
class Stretch:
    """Scores of `size` were stretched to the different proportions of `covered`."""

    size: Size
    covered: Size

    def __str__(self) -> str:
        """Return the text without the name of the file, for a note on many files."""
        return (
            f"stretched from {spell_size(self.size)} to {spell_size(self.covered)} (height x "
            "width). This changes the proportions. If the network saw a padded canvas, give its "
            "size: --canvas WIDTHxHEIGHT"
        )


@dataclass(frozen=True)
class Note:
    """An assumption about a file."""

    file: str
    what: Guess | Stretch

    def __str__(self) -> str:
        """Return the text with the name of the file."""
        return f"{self.file} {self.what}"


def spell_size(size: Size) -> str:
    """Spell a size as height x width."""
    return f"{size[0]}x{size[1]}"
