"""From a callback to a grant: exchange the code of a login, which only this callback has claimed."""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import TYPE_CHECKING, Final

import attrs

from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyResponse
from openrouter_async._values.tasks import ShieldedTasks
from openrouter_async.errors import KeyDeliveryError, OpenRouterError, Outcome
from openrouter_async.events import Event
from openrouter_async.login._callbacks import Callback
from openrouter_async.login._lease import LeaseResult, LeaseRunner, is_same_browser
from openrouter_async.login._models import Grant
from openrouter_async.login._records import KeyRecord, LoginRecord, digest
from openrouter_async.login._store import ClaimRequest, ClaimStatus
from openrouter_async.login._verification import verify
from openrouter_async.login.errors import (
    AuthorizationDeniedError,
    AuthorizationError,
    CodeRejectedError,
    LoginAlreadyUsedError,
    LoginBindingError,
    LoginExpiredError,
    LoginInProgressError,
    LoginLostError,
    UnknownLoginError,
)

if TYPE_CHECKING:
    from openrouter_async._client.client import OpenRouter
    from openrouter_async._values.clock import Clock

logger = logging.getLogger("openrouter_async.login")


class LoginCompleter:
    """Finishes logins, each in a task of its own.

    Args:
        client: The client that exchanges the codes.
        leases: Carries out the exchanges.
        clock: The source of time.
        verify: Whether to ask for the state of each key.
    """

    def __init__(self, client: OpenRouter, leases: LeaseRunner, clock: Clock, *, verify: bool) -> None:
        self._client = client
        self._leases = leases
        self._clock = clock
        self._verify = verify
        self._under_way = ShieldedTasks(self._log_abandoned)

    async def finish(self, callback: Callback, claim_request: ClaimRequest) -> Grant:
        """Finish a login, even if the caller is cancelled, because a code that was sent cannot be sent again.

        Raises:
            OpenRouterError: As for `AuthorizationFlow.finish`.
        """
        return await self._under_way.run(self._finish(callback, claim_request))

    async def cancel(self, claim_request: ClaimRequest) -> None:
        """End a login that nobody is finishing.

        Raises:
            OpenRouterError: As for `AuthorizationFlow.cancel`.
        """
        status = (await self._leases.cancel(claim_request)).status
        if status is ClaimStatus.BUSY:
            raise LoginInProgressError("a callback of the login is being processed")
        if status is not ClaimStatus.CLAIMED:
            kind, message = _ERRORS.get(status, _ERRORS[ClaimStatus.CONSUMED])
            raise kind(message)

    async def drain(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for logins that are still being finished."""
        await self._under_way.drain(timeout)

    async def _finish(self, callback: Callback, claim_request: ClaimRequest) -> Grant:
        grant = await self._complete(callback, claim_request)
        return await verify(self._client, grant) if self._verify else grant

    async def _complete(self, callback: Callback, claim_request: ClaimRequest) -> Grant:
        result = await self._leases.run(claim_request, _LoginExchange(self._client, self._clock, callback))
        if result.claim.status is not ClaimStatus.FINISHED:
            error = _error_without_grant(callback, claim_request, result)
            if error is result.rejection:
                raise error
            raise error from result.rejection
        record = KeyRecord.from_json(result.claim.value)
        if result.is_replay:
            _check_replay(record, callback, is_same_browser(claim_request, result.claim))
        return Grant(
            key=record.key,
            user_id=record.user_id,
            context=record.context,
            return_to=record.return_to,
            cookie=result.cookie,
        )

    def _log_abandoned(self, task: asyncio.Task[Grant]) -> None:
        if task.cancelled():
            return
        if (failure := task.exception()) is not None:
            logger.warning(
                "a login whose caller was cancelled failed: %s", failure, extra={"event": Event.UNSEEN_FAILURE}
            )
        elif self._client.on_key is None:
            logger.warning(
                "the caller of a finished login was cancelled, and no on_key is set: only a reload gets its key",
                extra={"event": Event.LOGIN_ABANDONED},
            )


@attrs.define
class _LoginExchange:
    """The exchange that a callback asks for."""

    _client: OpenRouter
    _clock: Clock
    _callback: Callback
    _login: LoginRecord = attrs.field(init=False)

    async def exchange(self, value: bytes, /) -> ExchangeAuthCodeForAPIKeyResponse:
        try:
            self._login = login = LoginRecord.from_json(value)
        finally:
            # A traceback that shows local variables would show the verifier.
            del value
        if login.expires_at <= self._clock.time():
            raise LoginExpiredError("the login took longer than its lifetime", return_to=login.return_to)
        if self._callback.code is None:
            raise authorization_error(self._callback, login)
        return await self._client.oauth.exchange_auth_code_for_api_key(
            code=self._callback.code,
            code_verifier=login.verifier,
            code_challenge_method=login.method,
        )

    def to_result(self, response: ExchangeAuthCodeForAPIKeyResponse, *, delivered: bool) -> bytes:
        return KeyRecord(
            key=response.key,
            user_id=response.user_id,
            code=_code_digest(self._callback),
            delivered=delivered,
            context=self._login.context,
            return_to=self._login.return_to,
        ).to_json()


def authorization_error(callback: Callback, login: LoginRecord | None) -> AuthorizationError:
    """Return the error for a callback without a code."""
    error = callback.error
    assert error is not None  # noqa: S101 - a callback has a code or an error
    kind = AuthorizationDeniedError if error == "access_denied" else AuthorizationError
    if login is None:
        return kind(error)
    return kind(error, context=login.context, return_to=login.return_to)


_ERRORS: Final = {
    ClaimStatus.CONSUMED: (LoginAlreadyUsedError, "the login is over"),
    ClaimStatus.BINDING_MISMATCH: (LoginBindingError, "the login was started in another browser or chat"),
    ClaimStatus.UNKNOWN: (
        UnknownLoginError,
        "there is no such login, it has expired, or it was started in another browser",
    ),
}


def _error_without_grant(callback: Callback, claim_request: ClaimRequest, result: LeaseResult) -> OpenRouterError:
    claim, rejection = result.claim, result.rejection
    if claim.status is ClaimStatus.BUSY:
        if is_same_browser(claim_request, claim):
            return LoginInProgressError("another callback of the same login is still being processed")
        return LoginAlreadyUsedError("the login is being finished by another callback")
    if rejection is None:
        kind, message = _ERRORS[claim.status]
        return kind(message)
    if claim.lost:
        return LoginLostError("the code was refused, but a worker died while it exchanged the code: a key may exist")
    if callback.is_pasted and rejection.outcome is Outcome.REFUSED and claim.status is ClaimStatus.CLAIMED:
        return CodeRejectedError(f"OpenRouter refused the code: {rejection}")
    return rejection


def _code_digest(callback: Callback) -> str:
    return digest(callback.state or "", "code", callback.code)


def _check_replay(record: KeyRecord, callback: Callback, is_same_browser: bool) -> None:
    """Raise unless this callback may get the result of an earlier one."""
    is_same_code = hmac.compare_digest(record.code.encode(), _code_digest(callback).encode())
    if not is_same_code or not is_same_browser:
        raise LoginAlreadyUsedError(
            "the login is over, and its grant is not for this callback",
            return_to=record.return_to if is_same_browser else None,
        )
    if not record.delivered:
        response = ExchangeAuthCodeForAPIKeyResponse(key=record.key, user_id=record.user_id)
        raise KeyDeliveryError("on_key raised when the login was finished; the key is in .response", response=response)
