"""What a browser sees: the consent page and its answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from html import escape

from aiohttp import web

from openrouter_async.testing.authority import USER_ID, Authority
from openrouter_async.testing.consent import Authorization, BadAuthorizationError
from openrouter_async.testing.html import HEADERS, page


class Pages:
    """The pages of the fake.

    Args:
        authority: What knows the keys.
        issue: Issues a code for what an app asked, and for a user.
        counters: Where consents and denials are counted.
    """

    def __init__(
        self, authority: Authority, issue: Callable[[Authorization, str | None], str], counters: Counter[str]
    ) -> None:
        self._authority = authority
        self._issue = issue
        self._counters = counters

    def add_routes(self, app: web.Application) -> None:
        """Put the pages in an app."""
        app.router.add_get("/auth", self._ask)
        app.router.add_post("/auth", self._decide)

    async def _ask(self, request: web.Request) -> web.Response:
        try:
            asked = Authorization.from_query(request.query)
        except BadAuthorizationError as bad:
            return _page(400, "This sign-in cannot go on", f"<p>{escape(str(bad))}</p>")
        return _page(
            200,
            "Allow this app to use OpenRouter?",
            f"<p>Callback: {escape(asked.callback_host or 'none')}</p>\n<form method='post'>\n"
            "<button name='decision' value='authorize'>Authorize</button>\n"
            "<button name='decision' value='deny'>Deny</button>\n</form>",
        )

    async def _decide(self, request: web.Request) -> web.Response:
        try:
            asked = Authorization.from_query(request.query)
        except BadAuthorizationError as bad:
            return _page(400, "This sign-in cannot go on", f"<p>{escape(str(bad))}</p>")
        decision = (await request.post()).get("decision")
        if decision != "authorize":
            self._counters["denial"] += 1
            if asked.callback_url is None:
                return _page(200, "You said no", "<p>You can close this window.</p>")
            return web.Response(status=303, headers={"Location": asked.denied()})
        self._counters["consent"] += 1
        code = self._issue(asked, USER_ID)
        if asked.callback_url is None:
            return _page(200, "Your code", f"<p>Paste it into the app: <code id='code'>{escape(code)}</code></p>")
        return web.Response(status=303, headers={"Location": asked.granted(code)})


def _page(status: int, title: str, content: str) -> web.Response:
    return web.Response(status=status, text=page(title, content), content_type="text/html", headers=HEADERS)
