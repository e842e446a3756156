"""Configuration of the documentation site: `make docs` builds it into build/docs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "crfrnn"
author = "The crfrnn authors"
copyright = author

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "command_help",
    "docstrings",
    "mathml",
]
exclude_patterns = ["_*"]
nitpicky = False  # annotations name torch's classes, whose pages are not at hand offline

# Markdown as GitHub shows it: $...$ and ```math for formulas, headings as link targets.
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3
myst_links_external_new_tab = True

html_math_renderer = "mathml"

# Docstrings are in Google style, with `code` in single backticks.
default_role = "code"
napoleon_numpy_docstring = False
autoclass_content = "class"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"
autodoc_default_options = {"exclude-members": "extra_repr"}

html_theme = "pydata_sphinx_theme"
html_title = "crfrnn"
html_sidebars: dict[str, list[str]] = {"mathematics": [], "glossary": [], "architecture": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options: dict[str, Any] = {
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "header_links_before_dropdown": 8,
}
