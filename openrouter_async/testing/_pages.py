"""The pages for browsers, as plain HTML without external resources: consent, code and home, marked as a fake."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Final

from aiohttp import web

from openrouter_async.errors import RequestValidationError
from openrouter_async.redaction._masks import mask_key
from openrouter_async.testing._authority import USER_ID, Authority, IssuedKey, KeyOptions
from openrouter_async.testing._consent import Authorization, BadAuthorizationError
from openrouter_async.testing.faults import Fault

_LATELY: Final = 20

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


class Pages:
    """The pages of the fake.

    Args:
        authority: Issues codes and knows the keys.
        issued_keys: The issued keys.
        counters: The counters of consents and denials.
    """

    def __init__(
        self,
        authority: Authority,
        issued_keys: Sequence[IssuedKey],
        counters: Counter[str],
    ) -> None:
        self._authority = authority
        self._issued_keys = issued_keys
        self._counters = counters
        self._refused: deque[str] = deque(maxlen=_LATELY)

    def consent(self, asked: Authorization, *, user_id: str | None, fault: str | None = None) -> str:
        """Issue a code to an app, as a user does by consenting.

        Args:
            asked: The app's request for authorization.
            user_id: The id of the user.
            fault: The fault of its exchange, in the syntax of `Fault.from_spec`; None for none.

        Raises:
            RequestValidationError: The fault is not valid.
        """
        issued = self._authority.issue(
            code_challenge=asked.code_challenge,
            code_challenge_method=asked.code_challenge_method,
            callback_url=asked.callback_url,
            key=KeyOptions(user_id=user_id, label=asked.key_label, limit=asked.limit),
            prefix=fault_prefix(fault),
        )
        self._counters["consent"] += 1
        return issued.code

    def deny(self, asked: Authorization) -> str:
        """Return the URL that a browser goes to when the user denies access.

        Raises:
            BadAuthorizationError: The login is headless, so the browser stays.
        """
        denied = asked.denied()
        self._counters["denial"] += 1
        return denied

    def add_routes(self, app: web.Application) -> None:
        """Add the pages to an app."""
        app.router.add_get("/", self._home)
        app.router.add_get("/auth", self._asking(self._ask))
        app.router.add_post("/auth", self._asking(self._decide))

    def _asking(
        self, handle: Callable[[web.Request, Authorization], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def check(request: web.Request) -> web.Response:
            try:
                asked = Authorization.from_query(request.query)
            except BadAuthorizationError as bad:
                self._counters["refusal"] += 1
                self._refused.append(bad.reason)
                if "callback_url" not in request.query:
                    # Without a callback, OpenRouter shows its home page instead of an error.
                    return _go("./")
                return _show(
                    message_page("This sign-in cannot continue", f"The app made a mistake: {bad.reason}."), 400
                )
            return await handle(request, asked)

        return check

    async def _ask(self, _request: web.Request, asked: Authorization) -> web.Response:
        return _show(_consent_page(asked))

    async def _decide(self, request: web.Request, asked: Authorization) -> web.Response:
        form = await request.post()
        if form.get("decision") == "deny":
            if asked.callback_url is None:
                self._counters["denial"] += 1
                return _show(message_page("Not allowed", "The app gets no key. You can close this window."))
            return _go(self.deny(asked))
        if form.get("decision") != "authorize":
            return _show(message_page("No decision", "Go back, and authorize or deny."), 400)
        try:
            user_id, fault = str(form.get("user_id") or USER_ID), str(form.get("fault") or "")
            code = self.consent(asked, user_id=user_id, fault=fault or None)
        except RequestValidationError as unknown:
            return _show(message_page("No such fault", str(unknown)), 400)
        if asked.callback_url is None:
            return _show(_code_page(code))
        return _go(asked.granted(code))

    async def _home(self, _request: web.Request) -> web.Response:
        return _show(_home_page(self._issued_keys[-_LATELY:][::-1], reversed(self._refused)))


def fault_prefix(spec: str | None) -> str:
    """Return the prefix of a code whose exchange is to meet a fault.

    Raises:
        RequestValidationError: The fault is not valid.
    """
    if spec is None:
        return ""
    Fault.from_spec(spec)
    return f"fault.{spec}~"


def _show(text: str, status: int = 200) -> web.Response:
    # JSON can hold half of a surrogate pair, which UTF-8 cannot encode.
    body = text.encode(errors="replace")
    return web.Response(status=status, body=body, content_type="text/html", charset="utf-8", headers=HEADERS)


def _go(location: str) -> web.Response:
    return web.Response(status=303, headers={**HEADERS, "Location": location})


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


def _consent_page(asked: Authorization) -> str:
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


def _code_page(code: str) -> str:
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


def _home_page(keys: Sequence[IssuedKey], refused: Iterable[str]) -> str:
    """Return the home page, which describes the fake and lists recent events."""
    rows = [
        (
            escape(mask_key(key.key)),
            escape(key.label or "The app's name"),
            escape(key.user_id or "Not named"),
        )
        for key in keys
    ]
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
    """Return a table; its cells are HTML."""
    heading = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    # Without tabindex, a scrolling region cannot be reached by keyboard.
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table">'
        f"<table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table></div>"
    )
