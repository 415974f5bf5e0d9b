from __future__ import annotations

import asyncio
import re
import secrets

import attrs

from openrouter_async import Handler, Request, Response, RetryPolicy
from openrouter_async._values.clock import Clock
from openrouter_async.login import LoginCookie, PendingLogin
from openrouter_async.login._records import KeyRecord, LoginRecord, digest, login_id
from openrouter_async.login.stores import ClaimRequest, LeaseItem
from openrouter_async.pkce import PKCEPair
from tests.raw import RawServer, http

NOW = 1_800_000_000.0
CALLBACK = "https://app.example/callback/{state}"
BINDING = "the-browser"
KEY = "sk-or-v1-" + "a" * 64
GRANTED = http(200, f'{{"key": "{KEY}", "user_id": "user_1"}}'.encode())
REFUSED = http(403, b'{"error": {"code": 403, "message": "Invalid code or code_verifier"}}')
BUSY = http(429, b'{"error": {"code": 429, "message": "Slow down"}}')
BROKEN = http(500, b'{"error": {"code": 500, "message": "Broken"}}')
ONCE = RetryPolicy(max_attempts=1)


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


def make_record(*, lifetime: float = 600.0) -> LoginRecord:
    return LoginRecord(pkce=PKCEPair.generate(), expires_at=NOW + lifetime, context={"user": 7}, return_to="/settings")


def make_login(*, state: str | None = None, lifetime: float = 600.0) -> LeaseItem:
    state = secrets.token_urlsafe(32) if state is None else state
    return LeaseItem(
        id=login_id(state),
        value=make_record(lifetime=lifetime).to_json(),
        expires_at=NOW + lifetime,
        binding=digest(state, "binding", BINDING),
    )


def verifier_of(login: LeaseItem) -> str:
    return LoginRecord.from_json(login.value).pkce.code_verifier


def make_claim_request(login: LeaseItem, cookie: LoginCookie | None = None) -> ClaimRequest:
    return ClaimRequest(
        id=login.id,
        binding=login.binding,
        is_bound=True,
        token=secrets.token_urlsafe(16),
        cookies={} if cookie is None else {cookie.name: cookie.value},
    )


def make_result() -> KeyRecord:
    return KeyRecord(key=KEY, user_id="user_1", code="c" * 64, context={"user": 7}, return_to="/settings")


RESULT = make_result().to_json()


def back(pending: PendingLogin, *, code: str = "the-code") -> str:
    return f"/callback/{pending.state}?code={code}&state={pending.state}"


def jar(*cookies: LoginCookie | None) -> dict[str, str]:
    return {cookie.name: cookie.value for cookie in cookies if cookie is not None}


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
