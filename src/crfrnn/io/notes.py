"""What a reader had to assume, for the user to confirm."""

from __future__ import annotations

from dataclasses import dataclass

from .options import Kind, Size


@dataclass(frozen=True)
class Guess:
    """The kind of scores that do not say what they are, and why it was chosen."""

    kind: Kind
    why: str

    def __str__(self) -> str:
        """Spell it without the file, as a note on many files."""
        return f"read as {self.kind}: {self.why}; --kind says otherwise"


@dataclass(frozen=True)
class Stretch:
    """Scores of another shape, `size`, were stretched to `covered`."""

    size: Size
    covered: Size

    def __str__(self) -> str:
        """Spell it without the file, as a note on many files."""
        return (
            f"is {spell_size(self.size)}, not of the shape of {spell_size(self.covered)} "
            "(height x width), and was stretched to it; if the network saw a padded canvas, say "
            "--canvas"
        )


@dataclass(frozen=True)
class Note:
    """What was assumed about a file."""

    file: str
    what: Guess | Stretch

    def __str__(self) -> str:
        """Spell it with the name of the file."""
        return f"{self.file} {self.what}"


def spell_size(size: Size) -> str:
    """Height x width."""
    return f"{size[0]}x{size[1]}"
