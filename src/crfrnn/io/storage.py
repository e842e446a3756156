"""Layers and models on disk: a directory with config.json and model.safetensors.

Model hubs and other libraries look for these two names. Older directories are read too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crfrnn._arrays import Array
from crfrnn._extras import require_torch

from .files import describe, make_folder, replacing, write_text
from .trees import read_json, read_json_file, read_yaml

CONFIG = "config.json"
TENSORS = "model.safetensors"

#: The number of the format that `write` writes. Format 1 had two kinds: a model as `_OLD_MODEL`,
#: and a layer as the two files above, without a number and without the prefix of its tensors.
FORMAT = 2

#: All files that a directory may hold its model in, of this version or an older one.
FILES = (CONFIG, TENSORS, "config.yaml", "weights.safetensors")

_LIBRARY = "crfrnn"
_OLD_LAYER = {"num_classes", "kernels", "iterations", "weights", "compatibility", "normalization"}
_OLD_MODEL = FILES[2:]


@dataclass(frozen=True)
class Stored:
    """The contents of a directory.

    Attributes:
        config: plain numbers, strings, lists and mappings. "network" and "crf" describe the parts.
        tensors: by name; those of the CRF begin with "crf.", those of the network with "network.".
        config_path: the file of the configuration, for error messages.
        tensors_path: the file of the tensors.
    """

    config: dict[str, Any]
    tensors: dict[str, Array]
    config_path: Path
    tensors_path: Path


def write(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
    """Write a configuration and tensors as one version; `read` never sees half of it.

    Two files cannot be moved in one step. So the tensors carry a copy of the configuration, and
    both copies carry a stamp. The new version exists once the tensors are moved. A write that stops
    after that leaves an old config.json with another stamp, and `read` then takes the copy.

    Args:
        directory: created if it is missing.
        config: numbers, strings, lists and mappings whose keys are strings.
        tensors: by name.

    Raises:
        TypeError: the configuration holds anything else.
    """
    require_torch("a file of tensors")
    from safetensors.torch import save

    head = {"library": _LIBRARY, "format": FORMAT}
    entries = {**head, **config, **head}  # at the top, and of this version
    text = _spell(entries, directory / CONFIG)
    stamp = hashlib.sha256(text.encode()).hexdigest()[:16]
    text = _spell({**entries, "stamp": stamp}, directory / CONFIG)
    data = save(
        _apart(tensors), metadata={"format": "pt", _LIBRARY: text}
    )  # before anything is written
    make_folder(directory)
    with replacing(directory / TENSORS) as file:
        file.write(data)
    write_text(directory / CONFIG, f"{text}\n")
    _remove_old_model(directory)


def read(directory: Path) -> Stored:
    """Read what `write` wrote, or an older version. Nothing is unpickled.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not readable, or a newer version wrote it.
    """
    new = [directory / name for name in (CONFIG, TENSORS)]
    old = [directory / name for name in _OLD_MODEL]
    if any(path.is_file() for path in old) and not any(path.is_file() for path in new):
        _require(*old)
        return _checked(Stored(_read_yaml(old[0]), _read_tensors(old[1])[0], *old))
    config_path, tensors_path = new
    config = _read_json(config_path) if config_path.is_file() else {}
    if not tensors_path.is_file():
        _require(*new)
    tensors, copy = _read_tensors(tensors_path)
    if copy is None:
        _require(config_path)
    if copy is not None and config.get("stamp") != copy.get("stamp"):
        config, config_path = copy, tensors_path
    if _is_old_layer(config):
        config = {"library": _LIBRARY, "format": FORMAT, "crf": config}
        tensors = {f"crf.{name}": tensor for name, tensor in tensors.items()}
    return _checked(Stored(config, tensors, config_path, tensors_path))


def _apart(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return contiguous tensors that share no memory; tied weights become copies."""
    apart, taken = {}, set()
    for name, tensor in tensors.items():
        whole = tensor.detach().cpu().contiguous()
        place = whole.untyped_storage().data_ptr()
        apart[name] = whole.clone() if place in taken else whole
        taken.add(place)
    return apart


def is_stored(directory: Path) -> bool:
    """Whether crfrnn, this version or an older one, wrote a directory."""
    if all((directory / name).is_file() for name in _OLD_MODEL):
        return True
    try:
        config = _read_json(directory / CONFIG) if (directory / CONFIG).is_file() else {}
        if config.get("library") == _LIBRARY or _is_old_layer(config):
            return True
        if not (directory / TENSORS).is_file():
            return False
        with _open_tensors(directory / TENSORS, "np") as file:
            return _embedded_config(file.metadata()) is not None
    except ValueError:
        return False


def _spell(config: Mapping[str, Any], path: Path) -> str:
    """Spell a configuration as JSON; without the check, `json` would turn the key 1 into "1"."""
    _require_strings(config, path)
    try:
        return json.dumps(config, indent=2)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{path}: {describe(error)}") from error


def _require_strings(value: Any, path: Path) -> None:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{path}: keys must be strings; got {key!r}")
    inner = value.values() if isinstance(value, Mapping) else value
    for entry in inner if isinstance(value, (Mapping, list, tuple)) else ():
        _require_strings(entry, path)


def _require(*paths: Path) -> None:
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path.parent} has no {path.name}; expected a directory that crfrnn wrote"
            )


def _checked(stored: Stored) -> Stored:
    """Refuse a configuration of another library, or of a newer version."""
    config, path = stored.config, stored.config_path
    old = path.name == _OLD_MODEL[0]
    if not old and config.get("library") != _LIBRARY:
        kind = config.get("model_type") or config.get("architectures")
        named = f" of a {kind} model; crfrnn.integrations.transformers loads those" if kind else ""
        raise ValueError(
            f"{path}: expected a configuration that crfrnn wrote (save_pretrained, Checkpoint.save "
            f"or crfrnn train); got another{named}"
        )
    expected = 1 if old else FORMAT
    if config.get("format") != expected:
        raise ValueError(
            f"{path}: expected format {expected}, got {config.get('format')}; a newer crfrnn wrote "
            "it, or it is not a model"
        )
    return stored


def _is_old_layer(config: Mapping[str, Any]) -> bool:
    return "library" not in config and set(config) >= _OLD_LAYER


def _read_json(path: Path) -> dict[str, Any]:
    return _mapping(read_json_file(path), path)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        config = read_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of YAML, or of the encoding
        raise ValueError(f"{path}: not readable as YAML ({describe(error)})") from error
    return _mapping(config, path)


def _mapping(config: Any, path: Path) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a mapping; got {type(config).__name__}")
    return config


def _read_tensors(path: Path) -> tuple[dict[str, Array], dict[str, Any] | None]:
    """Read the tensors, and the copy of the configuration if there is one, of one version."""
    require_torch("a file of tensors")
    with _open_tensors(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, _embedded_config(file.metadata())


@contextmanager
def _open_tensors(path: Path, framework: str) -> Iterator[Any]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except Exception as error:  # a broken file raises the library's exceptions
        raise ValueError(f"{path}: not a readable safetensors file ({describe(error)})") from error


def _embedded_config(metadata: Mapping[str, str] | None) -> dict[str, Any] | None:
    text = (metadata or {}).get(_LIBRARY)
    try:
        config = None if text is None else read_json(text)
    except ValueError:
        return None
    return config if isinstance(config, dict) else None


def _remove_old_model(directory: Path) -> None:
    """Remove the files of format 1 that the new files replace, so that they mislead nobody."""
    config, tensors = (directory / name for name in _OLD_MODEL)
    try:
        ours = tensors.is_file() and config.is_file() and _read_yaml(config).get("format") == 1
    except ValueError:
        return
    for path in (config, tensors) if ours else ():
        path.unlink()
