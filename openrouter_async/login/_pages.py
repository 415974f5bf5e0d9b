"""The pages that a browser shows at the end of a login."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Final

PRIVACY_HEADERS: Final = {
    # The URL of the page contains a code.
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""The headers of every response to a callback."""

PAGE_HEADERS: Final = PRIVACY_HEADERS | {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
"""The headers of every page."""

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ground: #fff; --text: #1b1f24; --quiet: #55606b; --accent: #1d4f91; }}
@media (prefers-color-scheme: dark) {{
:root {{ --ground: #14171a; --text: #eceff1; --quiet: #a9b4be; --accent: #9cc4ff; }}
}}
body {{ background: var(--ground); color: var(--text); font: 1.1rem/1.5 system-ui, sans-serif; max-width: 32rem;
margin: clamp(2rem, 20vh, 12rem) auto; padding: 0 1rem; overflow-wrap: break-word; }}
h1 {{ line-height: 1.25; text-wrap: balance; }}
a {{ color: var(--accent); }}
.reason {{ border-top: 1px solid; color: var(--quiet); font-size: .9rem; margin-top: 2rem; padding-top: 1rem; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{text}</p>
{links}{reason}</main>
{script}</body>
</html>
"""


def render(
    title: str, text: str, links: Iterable[tuple[str, str]] = (), *, reason: str | None = None, script: str = ""
) -> str:
    """Render a page of a title, a sentence, links and a reason, all of which are escaped.

    Args:
        title: The title and heading.
        text: The sentence.
        links: Pairs of a link's text and address; an empty address is that of the page itself.
        reason: The reason of a failure, for the developer; None to show none.
        script: A script element, which is not escaped.

    Returns:
        The HTML.
    """
    anchors = (f'<p><a href="{html.escape(address)}">{html.escape(label)}</a></p>\n' for label, address in links)
    return _PAGE.format(
        title=html.escape(title),
        text=html.escape(text),
        links="".join(anchors),
        reason="" if reason is None else f'<p class="reason">For developers: {html.escape(reason)}</p>\n',
        script=script,
    )
