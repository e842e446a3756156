"""Reading YAML and JSON that may be hostile: no tags, no alias bombs, no deep nesting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .files import describe

#: A configuration has some hundred entries; aliases of aliases reach any number.
_MOST_ENTRIES = 100_000


def read_yaml(text: str) -> Any:
    """Read plain values from YAML.

    Raises:
        ValueError: it is not YAML, has tags of Python, or more entries than a configuration,
            which aliases of aliases can reach in a few lines.
    """
    import yaml  # late: most commands read no such file

    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, {}, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError:
        raise ValueError("nested too deeply for a configuration") from None


def read_json(text: str | bytes) -> Any:
    """Read JSON; nothing else in this package reads JSON that others may have written.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_file(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: there is none.
        ValueError: as in `read_json`, or it is no UTF-8; the message names the file.
    """
    try:
        return read_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({describe(error)})") from error


def _require_once(keys: list[Any]) -> None:
    """Raise if a mapping gives a key twice; PyYAML would keep the last value and say nothing."""
    seen: set[tuple[str, str]] = set()
    for key in keys:
        name = (key.tag, str(key.value))
        if name in seen and not key.tag.endswith(":merge"):
            line = key.start_mark.line + 1
            raise ValueError(f"line {line}: the key {key.value!r} is given twice; remove one")
        seen.add(name)


def _count(node: Any, known: dict[int, int], above: set[int]) -> int:
    """Count the entries below a node of YAML with every alias written out; raise if too many."""
    key = id(node)
    if key in above:
        raise ValueError("an alias that contains itself; write the values out")
    if key not in known:
        above.add(key)
        value = node.value if isinstance(node.value, list) else []
        _require_once([entry[0] for entry in value if type(entry) is tuple])
        parts = [part for entry in value for part in (entry if type(entry) is tuple else (entry,))]
        known[key] = 1 + sum(_count(part, known, above) for part in parts)
        above.remove(key)
    if known[key] > _MOST_ENTRIES:
        raise ValueError(
            f"more than {_MOST_ENTRIES} entries once its aliases are expanded, which no "
            "configuration needs, so it is not read"
        )
    return known[key]
