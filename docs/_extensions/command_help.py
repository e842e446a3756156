"""The directive `command-help`: what `crfrnn COMMAND --help` prints."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class CommandHelp(SphinxDirective):
    """The help of one command, or without an argument of `crfrnn` itself."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make a literal block of it."""
        from crfrnn.cli import main

        printed = io.StringIO()
        with mock.patch.dict(os.environ, COLUMNS="84"), contextlib.redirect_stdout(printed):
            code = main([*self.arguments, "--help"])
        if code:
            raise self.error(f"crfrnn {' '.join(self.arguments)} --help exits with {code}")
        return [nodes.literal_block(printed.getvalue(), printed.getvalue(), language="text")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
