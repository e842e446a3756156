"""Configurations from a YAML file and the flags that override its keys."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

Config = TypeVar("Config")


def add_set(parser: argparse.ArgumentParser, example: str) -> None:
    """Declare `--set`, with an example of a key and its value."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"set any key, such as {example}; may be repeated",
    )


def read_set(
    definition: type[Config], args: argparse.Namespace, flags: Mapping[str, Any]
) -> Config:
    """Read the configuration of a command; flags that were given override its keys.

    Args:
        definition: the dataclass of the configuration.
        args: with the path `config`, and `set`.
        flags: the values of flags by the key that they override; None if not given.
    """
    from crfrnn.training.settings import read_config

    given = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    try:
        return read_config(definition, args.config, [*args.set, *given])
    except ValueError as error:
        missing = re.match(r"missing key '(\w+)'", str(error))
        if missing and missing[1] in flags:
            raise ValueError(f"{error}; --{missing[1]} gives it too") from None
        raise
