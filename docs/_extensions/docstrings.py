"""Docstrings are written to be read as they are; this escapes what they do not mean as markup."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

#: Code, whose text stays; the star of a shape as (B, C, *S); the bars of a norm.
_PARTS = re.compile(r"(?P<code>`[^`]*`|>>>.*(?:\n[^\n]+)*)|(?<!\*)\*(?=\w)|\|")


def escape(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape stars and bars outside of code."""
    del app, what, name, obj, options
    text = _PARTS.sub(lambda m: m["code"] or "\\" + m[0], "\n".join(lines))
    lines[:] = text.split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", escape, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
