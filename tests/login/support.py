from __future__ import annotations

import secrets
import socket

import attrs

from openrouter_async.clock import Clock
from openrouter_async.login import Claimant, KeyRecord, LoginCookie, LoginRecord
from openrouter_async.login.records import digest, login_id
from openrouter_async.pkce import PKCEPair

NOW = 1_800_000_000.0
CALLBACK = "https://app.example/callback/{state}"
BINDING = "the-browser"


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
