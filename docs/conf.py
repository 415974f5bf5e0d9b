"""Sphinx builds the documentation by this: `make docs`."""

from __future__ import annotations

import openrouter_async

project = "openrouter_async"
author = "the openrouter_async authors"
copyright = f"{author}, under the MIT licence"  # noqa: A001
version = release = openrouter_async.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "**/.*"]
root_doc = "index"
nitpicky = True
show_warning_types = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

# What a docstring puts between single backticks is a name of this library, or of Python.
default_role = "any"

html_theme = "furo"
html_title = f"openrouter_async {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
