"""Sphinx's settings."""

from openrouter_async import __version__

project = "openrouter_async"
author = "the openrouter_async developers"
project_copyright = f"{author}; MIT licence"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
default_role = "any"
nitpicky = True

html_theme = "furo"
html_title = f"openrouter_async {version}"
html_static_path = ["_static"]
html_theme_options = {"source_directory": "docs/"}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autoclass_content = "both"
napoleon_use_ivar = True
