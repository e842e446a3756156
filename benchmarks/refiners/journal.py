"""Answers on disk, a line each, so that a run that was stopped resumes where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from crfrnn.io.files import write_text


class Key(NamedTuple):
    """What an answer is about."""

    stage: str
    method: str
    trial: int
    photograph: str


class Journal:
    """The answers of a folder.

    Args:
        folder: created if it is missing.
        settings: what all answers must have in common. One that was None may be given later: it
            adds a row, and changes no other.

    Raises:
        ValueError: the answers there were found with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.answers: dict[Key, dict[str, Any]] = {}
        self._path = folder / "answers.jsonl"
        stored = folder / "settings.json"
        before = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
        changed = [
            name for name, value in before.items() if value not in (None, settings.get(name))
        ]
        if changed:
            raise ValueError(
                f"{folder}: holds a run with other settings ({', '.join(changed)}); give another "
                "--output"
            )
        write_text(stored, json.dumps(settings, indent=2) + "\n")
        if self._path.is_file():
            self._read()

    def _read(self) -> None:
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a line that was cut off
            with self._path.open("r+b") as file:
                file.truncate(whole)
        for line in data[:whole].splitlines():
            record = json.loads(line)
            self.answers[Key(*record.pop("key"))] = record

    def add(self, key: Key, answer: dict[str, Any]) -> None:
        """Keep an answer, on disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **answer}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.answers[key] = answer
