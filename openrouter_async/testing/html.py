"""The fake's pages: plain HTML, nothing from elsewhere, and marked as what they are."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Final

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 0 auto; padding: 1rem; }
"""


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": f"default-src 'none'; style-src {_source(_STYLE)}; base-uri 'none'; "
    "form-action 'self' https: http://localhost:* http://127.0.0.1:*; frame-ancestors 'none'",
}
"""What goes with every page."""


def page(title: str, content: str) -> str:
    """A page of a title, which is escaped, and of content, which is HTML."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<p>Sandbox: this is a local fake, not OpenRouter.</p>\n<main>\n<h1>{escape(title)}</h1>\n{content}\n</main>\n"
        "</body>\n</html>\n"
    )
