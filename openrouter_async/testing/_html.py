"""The HTML of the pages for browsers, marked as a fake, without external resources."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Final

from openrouter_async.redaction._masks import mask_key
from openrouter_async.testing._authority import USER_ID, IssuedKey
from openrouter_async.testing._consent import Authorization

FAULTS: Final[Mapping[str, str]] = {
    "": "It is exchanged for a key",
    "status-429.retry-1": "429 once, try again after 1 second",
    "status-500": "500 once, before the key is issued",
    "status-500.after": "500 once, after the key was issued",
    "html-502": "502 with a page of HTML once",
    "drop": "The connection is dropped once, before the key is issued",
    "drop.after": "The connection is dropped once, after the key was issued",
    "cut": "The answer is cut off once",
    "delay-5000ms": "The answer comes 5 seconds late once",
    "hang": "No answer comes once",
}
"""Labels of the faults that the consent page offers, by their specs in a code."""

_STATIC: Final = files("openrouter_async.testing") / "static"
_STYLE: Final = (_STATIC / "sandbox.css").read_text()
_SCRIPT: Final = (_STATIC / "copy.js").read_text()


def _hash_source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src {_hash_source(_STYLE)}",
            f"script-src {_hash_source(_SCRIPT)}",
            "base-uri 'none'",
            # Browsers also check the redirect after a form against form-action, so it allows all callback URLs.
            "form-action 'self' https: http://localhost:* http://127.0.0.1:*",
            "frame-ancestors 'none'",
        )
    ),
    # The page's URL holds a challenge and a state, which the Referer header would send to other sites.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""The headers of every page."""

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<link rel="icon" href="data:,">
<title>{title} - sandbox</title>
<style>{style}</style>
</head>
<body>
<header><p><strong>Sandbox.</strong> This is a local fake for tests, not OpenRouter. Its codes and keys are worth
nothing.</p></header>
<main{width}>
<h1>{title}</h1>
{content}
</main>
</body>
</html>
"""


def _page(title: str, *content: str, wide: bool = False) -> str:
    """Return a page.

    Args:
        title: Its title, which is escaped.
        content: Its content, as HTML.
        wide: Whether the page needs room for a table.
    """
    return _PAGE.format(
        title=escape(title), style=_STYLE, content="\n".join(content), width=' class="wide"' if wide else ""
    )


def message_page(title: str, text: str) -> str:
    """Return a page of a title and a sentence; both are escaped."""
    return _page(title, f"<p>{escape(text)}</p>")


def consent_page(asked: Authorization) -> str:
    """Return the page on which a user consents or denies."""
    place = asked.callback_host or "Nowhere: the code is shown to you"
    facts = {
        "Sends you to": place,
        "Name of the key": asked.key_label or "The app's name",
        "Credit limit": "None" if asked.limit is None else f"${asked.limit:,.2f}",
    }
    choices = "".join(f'<option value="{escape(spec)}">{escape(text)}</option>' for spec, text in FAULTS.items())
    return _page(
        "Allow this app to use OpenRouter?",
        "<p>The app asks for an API key of its own, which it can use in your name.</p>",
        _list(facts),
        '<form method="post">',
        '<div class="actions">',
        '<button class="main" name="decision" value="authorize">Authorize</button>',
        '<button name="decision" value="deny">Deny</button>',
        "</div>",
        "<details><summary>Options of the sandbox</summary>",
        '<label for="user">User who consents</label>',
        f'<input id="user" name="user_id" value="{USER_ID}" maxlength="100" autocomplete="off" spellcheck="false">',
        '<label for="fault">What happens when the app exchanges the code</label>',
        f'<select id="fault" name="fault">{choices}</select>',
        "</details>",
        "</form>",
    )


def code_page(code: str) -> str:
    """Return the page that shows a code for the user to paste."""
    return _page(
        "Your code",
        "<p>Go back to the app and paste this code there. It can be used once, within ten minutes.</p>",
        '<label for="code">Code</label>',
        f'<input id="code" class="code" value="{escape(code)}" readonly>',
        '<div class="actions"><button id="copy" class="main" type="button" hidden>Copy</button></div>',
        '<p id="status" role="status"></p>',
        f"<script>{_SCRIPT}</script>",
    )


def home_page(keys: Sequence[IssuedKey], refused: Iterable[str]) -> str:
    """Return the home page, which describes the fake and lists recent events."""
    rows = [(mask_key(key.key), key.label or "The app's name", key.user_id or "Not named") for key in keys]
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in refused)
    return _page(
        "A fake OpenRouter",
        "<p>Apps sign users in here by OAuth with PKCE, as they do with OpenRouter: the consent page is "
        "<code>/auth</code>, the API is below <code>/api/v1</code>, and <code>/api/v1/openapi.json</code> "
        "describes it.</p>",
        "<h2>Recently issued keys</h2>",
        _table(("Key", "Name", "User"), rows) if rows else "<p>None.</p>",
        "<h2>Recently refused sign-ins</h2>",
        f"<ul>{reasons}</ul>" if reasons else "<p>None.</p>",
        wide=True,
    )


def _list(facts: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>' for name, fact in facts.items())}</dl>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, whose cells are escaped."""
    heading = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    # Without tabindex, a scrolling region cannot be reached by keyboard.
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table">'
        f"<table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table></div>"
    )
