"""Sphinx builds the documentation by this: `make docs`."""

from __future__ import annotations

import contextlib
import enum
import io
import os
import re
from typing import Any
from unittest import mock

import attrs
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import stringify_annotation

import openrouter_async
from openrouter_async.cli._app import run

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

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# The signature has the types.
napoleon_attr_annotations = False

# What a docstring puts between single backticks is a name of this library, or of Python.
default_role = "any"

html_theme = "furo"
html_title = "openrouter_async"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False

# What is not of this library has its pages elsewhere, and links to them would need the network when this is built.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(aiogram|aiohttp|asyncio|collections|contextlib|datetime|discord|fastapi|logging|opentelemetry|os|pathlib|ssl"
        r"|starlette|taskiq|uuid|webbrowser|yarl)\..*",
    ),
    # The same, as annotations that are imported for type checkers alone.
    (r"py:class", r"ClientSession|KeyringBackend|Redis|RedisCluster|SSLContext|URL"),
    # Type variables, and the seams between rooms of the package, which no user has to know.
    (
        r"py:.*",
        r"openrouter_async\..*\.(Pipeline|Counters|FlowOptions|Framework|LoginOptions|HostThrottle|RequestT|ResponseT|Run|T)",
    ),
]


def _keep_first_line(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    # Napoleon would take what stands before a colon there for a type; an empty comment has none.
    if what in {"attribute", "data", "property"}:
        lines[:0] = ["..", ""]


def _sign_values(app: Sphinx, what: str, name: str, obj: object, options: object, *signature: str | None) -> Any:
    if getattr(obj, "_is_protocol", False):
        return "", None
    # What attrs makes knows neither the types nor the defaults as they are written.
    if not isinstance(obj, type) or not attrs.has(obj):
        return None
    with contextlib.suppress(NameError):
        attrs.resolve_types(obj)
    parameters = []
    for field in attrs.fields(obj):
        if field.init and not isinstance(field.type, str):
            kind = stringify_annotation(field.type, "smart")
            default = field.default
            is_factory = isinstance(default, attrs.Factory)  # type: ignore[arg-type]
            shown = "" if default is attrs.NOTHING else " = ..." if is_factory else f" = {_show(default)}"
            parameters.append(f"{field.alias}: {kind}{shown}")
    is_keyword_only = any(field.kw_only for field in attrs.fields(obj))
    return f"({', '.join((['*'] if is_keyword_only and parameters else []) + parameters)})", None


def _show(default: object) -> str:
    match default:
        case enum.Enum():
            return f"{type(default).__name__}.{default.name}"
        case frozenset():
            return f"frozenset({{{', '.join(map(repr, sorted(default)))}}})"
        case _:
            return getattr(default, "__qualname__", "...") if callable(default) else repr(default)


class CommandHelp(SphinxDirective):
    """``{command-help}``: what a command says of itself when it is asked for its help."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Ask the command, which is faster within this process."""
        output = io.StringIO()
        with mock.patch.dict(os.environ, {"COLUMNS": "74"}), contextlib.redirect_stdout(output):
            status = run([*self.arguments, "--help"])
        if status != 0:
            raise self.error(f"the command {self.arguments} has no help")
        text = output.getvalue()
        # All of them end with what the exit statuses mean.
        return [nodes.literal_block(text, text.partition("\nExit status")[0], language="text")]


_CELL = re.compile(r'(?<=<span class="pre">)[^<]+(?=</span>(?:(?!<t[dh]|<p>).)*</td>)', re.DOTALL)
_PART = re.compile(r"(?<=\w)[_.](?=\w)")
_SIGNATURE = re.compile(r"<dl>\n((?:<dd>.*</dd>\n)+)</dl>")


def _include_everybody(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    # What scrolls by itself has to be in reach of the keyboard (WCAG 2.1.1).
    body = re.sub(
        r'<(pre|div(?= class="(?:table-wrapper|diagram-box)))\b', r'<\1 tabindex="0" ', context.get("body", "")
    )
    body = body.replace('<th class="head"><p></p></th>', "<td></td>")
    # Long names in tables break where their parts end.
    body = _CELL.sub(lambda found: _PART.sub(r"\g<0><wbr>", found[0]), body)
    # The arguments in a long signature are a list, and not one of definitions (WCAG 1.3.1).
    context["body"] = _SIGNATURE.sub(
        lambda found: f'<ul class="sig-params">{found[1].replace("dd>", "li>")}</ul>',
        body,
    )
    # A heading has a level (WCAG 4.1.2).
    navigation = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = navigation.replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app: Sphinx) -> None:
    """What no option does."""
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-process-docstring", _keep_first_line, priority=100)
    app.connect("autodoc-process-signature", _sign_values)
    # After the theme, which wraps tables.
    app.connect("html-page-context", _include_everybody, priority=1000)
