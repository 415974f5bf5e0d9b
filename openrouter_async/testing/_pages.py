"""The pages for browsers: consent, code and home."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aiohttp import web

from openrouter_async.errors import RequestValidationError
from openrouter_async.testing._authority import USER_ID, Authority, IssuedKey, KeyOptions
from openrouter_async.testing._consent import Authorization, BadAuthorizationError
from openrouter_async.testing._html import HEADERS, code_page, consent_page, home_page, message_page
from openrouter_async.testing.faults import Fault

_LATELY: Final = 20


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
        return _show(consent_page(asked))

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
            return _show(code_page(code))
        return _go(asked.granted(code))

    async def _home(self, _request: web.Request) -> web.Response:
        return _show(home_page(self._issued_keys[-_LATELY:][::-1], reversed(self._refused)))


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
