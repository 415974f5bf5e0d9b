from __future__ import annotations

import asyncio
import re
import secrets
import socket
from typing import TYPE_CHECKING

import attrs
from yarl import URL

from openrouter_async import Handler, Request, Response, RetryPolicy
from openrouter_async.clock import Clock
from openrouter_async.login import Claimant, KeyRecord, LoginCookie, LoginRecord, PendingLogin
from openrouter_async.login.records import digest, login_id
from openrouter_async.pkce import PKCEPair
from tests.raw import RawServer, http

if TYPE_CHECKING:
    from openrouter_async.testing import FakeOpenRouter

NOW = 1_800_000_000.0
CALLBACK = "https://app.example/callback/{state}"
BINDING = "the-browser"
KEY = "sk-or-v1-" + "a" * 64
GRANTED = http(200, f'{{"key": "{KEY}", "user_id": "user_1"}}'.encode())
REFUSED = http(403, b'{"error": {"code": 403, "message": "Invalid code or code_verifier"}}')
BUSY = http(429, b'{"error": {"code": 429, "message": "Slow down"}}')
BROKEN = http(500, b'{"error": {"code": 500, "message": "Broken"}}')
ONCE = RetryPolicy(max_attempts=1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@attrs.define
class Time:
    """A wall clock that stands still until it is moved."""

    now: float = NOW

    @property
    def clock(self) -> Clock:
        return Clock(time=lambda: self.now)


class Server(RawServer):
    """Answers exchanges one after the other as told; the last answer stays."""

    def __init__(self, *answers: bytes) -> None:
        left = list(answers)
        super().__init__(lambda _: left.pop(0) if len(left) > 1 else left[0])

    @property
    def codes(self) -> list[str]:
        """The codes that came, in their order."""
        return [found.decode() for request in self.requests for found in re.findall(rb'"code":\s*"(.*?)"', request)]


def make_login(*, state: str | None = None, lifetime: float = 600.0) -> LoginRecord:
    state = secrets.token_urlsafe(32) if state is None else state
    return LoginRecord(
        id=login_id(state),
        pkce=PKCEPair.generate(),
        expires_at=NOW + lifetime,
        binding=digest(state, "binding", BINDING),
        context={"user": 7},
        return_to="/settings",
    )


def make_claimant(login: LoginRecord, cookie: LoginCookie | None = None) -> Claimant:
    return Claimant(
        login_id=login.id,
        binding=login.binding,
        is_bound=True,
        token=secrets.token_urlsafe(16),
        cookies={} if cookie is None else {cookie.name: cookie.value},
    )


def make_result(key: str = "sk-or-v1-" + "a" * 64) -> KeyRecord:
    return KeyRecord(key=key, user_id="user_1", code="c" * 64, context={"user": 7}, return_to="/settings")


def consent(fake: FakeOpenRouter, pending: PendingLogin) -> str:
    """What the user's browser brings back after consent: the callback's URL, or the code on the screen."""
    query = URL(pending.url).query
    callback = query.get("callback_url")
    code: str = fake.issue_code(
        code_challenge=query["code_challenge"],
        code_challenge_method=query["code_challenge_method"],
        callback_url=callback,
    )
    if callback is None:
        return code
    return str(URL(callback).update_query(code=code, state=query["state"]))


class Gate:
    """A middleware that holds exchanges, before they are sent or after they were answered."""

    def __init__(self, *, after: bool = False) -> None:
        self._after = after
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        response = await call_next(request) if self._after else None
        self.reached.set()
        await self.open.wait()
        return response or await call_next(request)
