from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from openrouter_async import CodeChallengeMethod, OpenRouter, RetryPolicy
from openrouter_async.login import LoginCookie, LoginSession, PendingLogin
from openrouter_async.login._records import KeyRecord, LoginRecord, digest, login_id
from openrouter_async.login.stores import ClaimRequest, LeaseItem
from openrouter_async.pkce import generate_code_verifier
from tests.kit.clocks import EPOCH
from tests.kit.servers import ScriptedServer, json_answer

NOW = EPOCH
CALLBACK = "https://app.example/callback/{state}"
BINDING = "the-browser"
KEY = "sk-or-v1-" + "a" * 64
GRANTED = json_answer(200, f'{{"key": "{KEY}", "user_id": "user_1"}}'.encode())
REFUSED = json_answer(403, b'{"error": {"code": 403, "message": "Invalid code or code_verifier"}}')
BUSY = json_answer(429, b'{"error": {"code": 429, "message": "Slow down"}}')
BROKEN = json_answer(500, b'{"error": {"code": 500, "message": "Broken"}}')
ONCE = RetryPolicy(max_attempts=1)


def make_record(*, lifetime: float = 600.0) -> LoginRecord:
    return LoginRecord(
        verifier=generate_code_verifier(),
        method=CodeChallengeMethod.S256,
        expires_at=NOW + lifetime,
        context={"user": 7},
        return_to="/settings",
    )


def make_login(*, state: str | None = None, lifetime: float = 600.0) -> LeaseItem:
    state = secrets.token_urlsafe(32) if state is None else state
    return LeaseItem(
        id=login_id(state),
        value=make_record(lifetime=lifetime).to_json(),
        expires_at=NOW + lifetime,
        binding=digest(state, "binding", BINDING),
    )


def verifier_of(login: LeaseItem) -> str:
    return LoginRecord.from_json(login.value).verifier


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


Session = TypeVar("Session", bound=LoginSession)


@contextlib.asynccontextmanager
async def logging_in(
    kind: type[Session], *answers: bytes, client: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[Session, ScriptedServer]]:
    """Begin a login of one user at a server that gives these answers.

    Args:
        kind: The class of the login.
        answers: As for `ScriptedServer`.
        client: The options of the client.
        settings: The options of the login.
    """
    async with (
        ScriptedServer(*answers) as server,
        OpenRouter(None, base_url=server.base_url, retry=ONCE, **client or {}) as made,
        kind(made, **settings) as login,
    ):
        yield login, server
