"""From YAML to frozen dataclasses, with errors that name the key and the allowed values."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from crfrnn.crf.kernel import Kernel
from crfrnn.io import trees
from crfrnn.io.files import describe

Config = TypeVar("Config")


def read_config(kind: type[Config], path: Path | None, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file as a configuration.

    Args:
        kind: the dataclass, such as `TrainConfig`.
        path: the file; None for overrides alone.
        overrides: `KEY=VALUE`, such as `stages.0.epochs=3`. Dots separate the parts of a key, list
            entries count from 0, and the value is YAML.

    Returns:
        The configuration, checked.

    Raises:
        ValueError: the file is not YAML, or a key or value is not allowed.
        FileNotFoundError: the file is missing.

    Example:
        >>> import pathlib, tempfile
        >>> from crfrnn.training import RatesConfig, read_config
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "rates.yaml"
        >>> _ = path.write_text("network: 0.01")
        >>> read_config(RatesConfig, path, ["weights=0.5"]).weights
        0.5
    """
    tree = {} if path is None else read_yaml(path)
    for override in overrides:
        _override(tree, override)
    return build(kind, tree, "")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file; an empty file is an empty mapping."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a YAML file, but there is none")
    try:
        tree = trees.read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as YAML ({describe(error)})") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected 'key: value' lines; got {type(tree).__name__}")
    return cast(dict[str, Any], tree)


def to_yaml(config: Any) -> str:
    """Spell a configuration in YAML; `read_config` reads it back equal."""
    return str(yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True))


def to_tree(value: Any, *, absolute: bool = False) -> Any:
    """Turn a configuration into plain values for YAML and JSON; `absolute` completes paths."""
    if isinstance(value, Kernel):
        value = value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: to_tree(member, absolute=absolute) for name, member in pairs}
    if isinstance(value, Mapping):
        return {name: to_tree(member, absolute=absolute) for name, member in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_tree(member, absolute=absolute) for member in value]
    if isinstance(value, Path):
        return str(value.absolute() if absolute else value)
    return value


def same(reported: Any, value: Any) -> bool:
    """Whether the reported value, from `to_tree` or JSON, equals `value`.

    Paths are equal if they lead to the same place, kernels if they read as equal kernels.
    """
    if isinstance(value, Kernel):
        try:
            return bool(_kernel(reported, "") == value)
        except ValueError:
            return False
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        alike = isinstance(reported, Mapping) and reported.keys() == value.keys()
        return alike and all(same(reported[name], member) for name, member in value.items())
    if isinstance(value, (tuple, list)):
        alike = isinstance(reported, (tuple, list)) and len(reported) == len(value)
        return alike and all(map(same, reported, value))
    # Strings are compared as paths too, since a preset is a name or a file.
    if isinstance(value, (str, Path)) and isinstance(reported, str):
        return reported == str(value) or Path(reported).resolve() == Path(value).resolve()
    return bool(reported == value)


def build(kind: type[Config], tree: Any, where: str) -> Config:
    """Make the dataclass `kind` from a mapping; `where` is its dotted key."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{where or 'the file'}: expected keys and values; got {tree!r}")
    known = {field.name: field for field in dataclasses.fields(cast(Any, kind))}
    for name in tree:
        if name not in known:
            raise ValueError(
                f"unknown key {_join(where, str(name))!r}; allowed here: {', '.join(known)}"
            )
    hints = get_type_hints(kind)
    values = {name: _convert(hints[name], tree[name], _join(where, name)) for name in tree}
    for name, field in known.items():
        optional = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if name not in values and not optional:
            raise ValueError(f"missing key {_join(where, name)!r}: {_expected(hints[name])}")
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Convert a YAML value to the type `hint` of a field, or raise with the allowed values."""
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(members, value, where)
    if hint is Kernel:
        return _kernel(value, where)
    if dataclasses.is_dataclass(hint):
        return build(cast(type[Any], hint), value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        many = members[-1] is Ellipsis
        if many or len(members) == len(value):
            kinds = [members[0]] * len(value) if many else members
            return tuple(
                _convert(kind, member, _join(where, str(index)))
                for index, (kind, member) in enumerate(zip(kinds, value, strict=True))
            )
    if origin is dict and isinstance(value, dict):
        return dict(value)
    if origin is Literal:
        # YAML reads the 32 of `precision: 32` as a number.
        spelled = str(value) if type(value) is int else value
        if spelled in members:
            return spelled
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and _is_number(value):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    raise ValueError(f"{where}: expected {_expected(hint)}; got {value!r}")


def _convert_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in members:
        return None
    kinds = [member for member in members if member is not type(None)]
    if len(kinds) == 1:
        return _convert(kinds[0], value, where)
    # The first type that accepts the value wins: `float | tuple` reads 3 as a number.
    for kind in kinds:
        try:
            return _convert(kind, value, where)
        except ValueError:
            continue
    expected = " or ".join(_expected(kind) for kind in members)
    raise ValueError(f"{where}: expected {expected}; got {value!r}")


def _kernel(tree: Any, where: str) -> Kernel:
    """Make a kernel from a mapping with its `kind` and the arguments of that class."""
    if not isinstance(tree, Mapping):
        raise ValueError(
            f"{where}: expected a kernel as keys and values, with its kind; got {tree!r}"
        )
    try:
        kind, fields = Kernel.kind_of(tree)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    known = {field.name for field in dataclasses.fields(kind)}
    # Files of earlier versions hold `color: null` for a Gaussian.
    given = {name: value for name, value in fields.items() if name in known or value is not None}
    return cast(Kernel, build(kind, given, where))


def _is_number(value: Any) -> bool:
    if isinstance(value, str):  # PyYAML reads 1e-3, without a point, as text
        try:
            return math.isfinite(float(value))
        except ValueError:
            return False
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _expected(hint: Any) -> str:
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(member) for member in members)
    if origin is Literal:
        return f"one of: {', '.join(map(str, members))}"
    if origin is tuple:
        many = members[-1] is Ellipsis
        return f"a list of {_expected(members[0])}" if many else f"a list of {len(members)}"
    if dataclasses.is_dataclass(hint) or hint is Kernel or origin is dict:
        return "keys and values"
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    return "null" if hint is type(None) else names.get(hint, "a path")


def _override(tree: dict[str, Any], text: str) -> None:
    """Apply `a.b.0.c=value` to a tree of mappings and lists."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"expected KEY=VALUE, such as stages.0.epochs=3; got {text!r}")
    *path, last = key.split(".")
    node: Any = tree
    for name in path:
        node = node.setdefault(name, {}) if isinstance(node, dict) else _entry(node, name, key)
    try:
        new = trees.read_yaml(value)
    except ValueError as error:
        raise ValueError(f"{key}: {value!r} is not readable as YAML ({error})") from error
    if isinstance(node, dict):
        node[last] = new
    else:
        _entry(node, last, key)
        node[int(last)] = new


def _entry(node: Any, name: str, key: str) -> Any:
    length = len(node) if isinstance(node, list) else 0
    if not name.isdecimal() or int(name) >= length:
        raise ValueError(f"{key}: {name!r} is not an entry; there are {length}, counted from 0")
    return node[int(name)]


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
