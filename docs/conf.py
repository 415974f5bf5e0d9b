"""Configure Sphinx, which builds the documentation: `make docs`."""

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
from openrouter_async.cli import main

project = "openrouter_async"
author = "the openrouter_async authors"
copyright = f"{author}, under the MIT licence"  # noqa: A001
version = release = openrouter_async.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
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

# The signature already has the types.
napoleon_attr_annotations = False

# Single backticks in a docstring refer to a Python name.
default_role = "any"

html_theme = "furo"
html_title = f"openrouter_async {version}"
# Copying a console block gives the commands alone, without prompts and output.
copybutton_prompt_text = r"[$>] "
copybutton_prompt_is_regexp = True
html_static_path = ["_static"]
html_extra_path = ["llms.txt"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False

# Names of other libraries are documented elsewhere; resolving them would need the network during a build.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(aiogram|aiohttp|_?asyncio|collections|contextlib|datetime|discord|fastapi|logging|multidict|opentelemetry|os|pathlib|ssl"
        r"|starlette|taskiq|uuid|webbrowser|yarl)\..*",
    ),
    # Names of other libraries that are imported under TYPE_CHECKING, so they are not qualified.
    (r"py:class", r"ClientSession|KeyringBackend|Redis|RedisCluster|SSLContext|URL"),
    # Type variables, and private types in signatures, which are not documented.
    (
        r"py:.*",
        r"openrouter_async\..*\.(Pipeline|Counters|HostThrottle|_?RequestT(_contra)?|ResponseT|Runner?|T)",
    ),
]


def _keep_first_line(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    # Napoleon reads the text before a colon as a type; an empty comment in front prevents that.
    if what in {"attribute", "data", "property"}:
        lines[:0] = ["..", ""]


def _sign_values(app: Sphinx, what: str, name: str, obj: object, options: object, *signature: str | None) -> Any:
    if getattr(obj, "_is_protocol", False):
        return "", None
    # The signature that attrs generates has neither the types nor the defaults as written in the source.
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
    """Show the output of a command's ``--help``: ``{command-help}``."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Run the command within this process, which is faster than a new one."""
        output = io.StringIO()
        with (
            mock.patch.dict(os.environ, {"COLUMNS": "74"}),
            mock.patch("sys.argv", ["openrouter-async", *self.arguments, "--help"]),
            contextlib.redirect_stdout(output),
        ):
            status = main()
        if status != 0:
            raise self.error(f"the command {self.arguments} has no help")
        text = output.getvalue()
        # Drop the table of exit statuses, which every command repeats.
        return [nodes.literal_block(text, text.partition("\nExit status")[0], language="text")]


_CELL = re.compile(r'(?<=<span class="pre">)[^<]+(?=</span>(?:(?!<t[dh]|<p>).)*</td>)', re.DOTALL)
_PART = re.compile(r"(?<=\w)[_.](?=\w)|(?<=[a-z])(?=[A-Z][a-z])")
_SIGNATURE = re.compile(r"<dl>\n((?:<dd>.*</dd>\n)+)</dl>")


def _improve_accessibility(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    # Scrollable areas must be reachable by keyboard (WCAG 2.1.1).
    body = re.sub(
        r'<(pre|div(?= class="(?:table-wrapper|diagram-box)))\b', r'<\1 tabindex="0" ', context.get("body", "")
    )
    body = body.replace('<th class="head"><p></p></th>', "<td></td>")
    # Let long names in tables break between their parts.
    body = _CELL.sub(lambda found: _PART.sub(r"\g<0><wbr>", found[0]), body)
    # Sphinx marks up a long signature's arguments as a definition list without terms (WCAG 1.3.1).
    context["body"] = _SIGNATURE.sub(
        lambda found: f'<ul class="sig-params">{found[1].replace("dd>", "li>")}</ul>',
        body,
    )
    # An element with the role of a heading needs a level (WCAG 4.1.2).
    navigation = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = navigation.replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app: Sphinx) -> None:
    """Register the directive and the hooks."""
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-process-docstring", _keep_first_line, priority=100)
    app.connect("autodoc-process-signature", _sign_values)
    # Run after the theme's hook, which wraps tables.
    app.connect("html-page-context", _improve_accessibility, priority=1000)
