"""All methods, in the order of the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import bilateral_solver, crfs, filters, graphs, local
from .method import Method


def methods(trained: Path | None = None, names: Sequence[str] | None = None) -> list[Method]:
    """Return the methods, or those of these names with what they build on.

    Args:
        trained: folder of a saved layer, for the row of trained parameters.
        names: of methods; default is all.

    Raises:
        ValueError: there is no method of a name.
    """
    rows = [
        crfs.NETWORK,
        *filters.METHODS,
        *bilateral_solver.METHODS,
        *local.METHODS,
        *graphs.METHODS,
        *crfs.METHODS,
    ]
    if trained is not None:
        rows.append(crfs.trained(trained))
    if names is None:
        return rows
    known = {row.name: row for row in rows}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown method {unknown[0]!r}; expected one of: {', '.join(known)}")
    wanted = {crfs.NETWORK.name, *names}
    wanted |= {known[name].same_as or name for name in names}
    if any(known[name].with_rankseg for name in wanted):
        wanted.add(crfs.RANKSEG)
    return [row for row in rows if row.name in wanted]


def present(rows: Sequence[Method]) -> tuple[list[Method], list[str]]:
    """Return the methods whose packages are installed, and a line for each of the others."""
    lines = [line for line in (row.missing() for row in rows) if line is not None]
    names = {row.name for row in rows if row.missing() is None}
    left = [row for row in rows if row.name in names and (row.same_as or row.name) in names]
    return left, lines
