"""From a callback to a grant: claim the login, exchange the code, and record the result."""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import TYPE_CHECKING, Final, TypeGuard

from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyResponse
from openrouter_async._values.tasks import ShieldedTasks
from openrouter_async.errors import APIError, KeyDeliveryError, OpenRouterError, Outcome
from openrouter_async.login._callbacks import Callback
from openrouter_async.login._models import Grant, LoginCookie
from openrouter_async.login._records import Claim, ClaimRequest, ClaimStatus, KeyRecord, LoginRecord, LoginStore, digest
from openrouter_async.login._verification import verify
from openrouter_async.login.errors import (
    AuthorizationDeniedError,
    AuthorizationError,
    CodeRejectedError,
    LoginAlreadyUsedError,
    LoginBindingError,
    LoginError,
    LoginExpiredError,
    LoginInProgressError,
    LoginLostError,
    UnknownLoginError,
)

if TYPE_CHECKING:
    from openrouter_async._client.client import OpenRouter
    from openrouter_async._values.clock import Clock

logger = logging.getLogger("openrouter_async.login")

_INITIAL_PAUSE: Final = 0.05
_MAX_PAUSE: Final = 0.5
_STILL_AT_WORK: Final = "another callback of the same login is still at work"


class LoginCompleter:
    """Finishes logins, each in a task of its own.

    Args:
        client: The client that exchanges the codes.
        store: The store of the logins.
        clock: The source of time.
        result_lifetime: Seconds to keep a grant for a browser that asks again.
        claim_ttl: Seconds until a login whose worker died can be taken over.
        busy_timeout: Seconds to wait for another callback of the same login.
        verify: Whether to ask for the state of each key.
    """

    def __init__(
        self,
        client: OpenRouter,
        store: LoginStore,
        *,
        clock: Clock,
        result_lifetime: float,
        claim_ttl: float,
        busy_timeout: float,
        verify: bool,
    ) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._result_lifetime = result_lifetime
        self._claim_ttl = claim_ttl
        self._busy_timeout = busy_timeout
        self._verify = verify
        self._under_way = ShieldedTasks(self._log_abandoned)

    async def finish(self, callback: Callback, claim_request: ClaimRequest) -> Grant:
        """Finish a login, even if the caller is cancelled, because a code that was sent cannot be sent again.

        Raises:
            OpenRouterError: As for `AuthorizationFlow.finish`.
        """
        return await self._under_way.run(self._finish(callback, claim_request))

    async def drain(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for logins that are still being finished."""
        await self._under_way.drain(timeout)

    async def _finish(self, callback: Callback, claim_request: ClaimRequest) -> Grant:
        grant = await self._complete(callback, claim_request)
        return await verify(self._client, grant) if self._verify else grant

    async def _complete(self, callback: Callback, claim_request: ClaimRequest) -> Grant:
        claim = await self._claim_in_turn(claim_request)
        match claim.status:
            case ClaimStatus.CLAIMED:
                return await self._exchange_claimed(callback, claim_request, claim)
            case ClaimStatus.FINISHED:
                return _replay_grant(callback, claim_request, claim)
            case ClaimStatus.CONSUMED:
                raise LoginAlreadyUsedError("the login is over")
            case ClaimStatus.BINDING_MISMATCH:
                raise LoginBindingError("the login was started in another browser or chat")
            case ClaimStatus.UNKNOWN:
                raise UnknownLoginError("there is no such login, or not any more, or not in this browser")
            case _:
                # BUSY, after waiting for the other callback.
                if _is_same_browser(claim_request, claim):
                    raise LoginInProgressError(_STILL_AT_WORK)
                raise LoginAlreadyUsedError("the login is being finished by another callback")

    async def _exchange_claimed(self, callback: Callback, claim_request: ClaimRequest, claim: Claim) -> Grant:
        login = claim.login
        assert login is not None  # noqa: S101 - stores promise it
        if callback.code is None or login.expires_at <= self._clock.time():
            await self._consume(claim_request)
            raise self._refusal(callback, login)
        result_ttl = self._result_lifetime if _is_same_browser(claim_request, claim) else 0.0
        try:
            response = await self._exchange(callback.code, login, claim_request)
        except KeyDeliveryError as failure:
            await self._consume(claim_request, _record(failure.response, callback, login, delivered=False), result_ttl)
            raise
        except OpenRouterError as failure:
            if failure.outcome is Outcome.NOT_SENT or not failure.restart_login:
                await self._release(claim_request)
                raise
            if _is_rejection(failure):
                return await self._explain_rejection(callback, claim_request, claim, failure)
            await self._consume(claim_request)
            raise
        except Exception:
            # Other exceptions come from the app's middlewares, and do not tell whether the code was sent.
            await self._consume(claim_request)
            raise
        record = _record(response, callback, login)
        return _grant(record, await self._consume(claim_request, record, result_ttl))

    def _refusal(self, callback: Callback, login: LoginRecord) -> LoginError:
        """Return the error of a login that ends without an exchange."""
        if login.expires_at <= self._clock.time():
            return LoginExpiredError("the login took longer than its lifetime", return_to=login.return_to)
        return authorization_error(callback, login)

    async def _exchange(
        self, code: str, login: LoginRecord, claim_request: ClaimRequest
    ) -> ExchangeAuthCodeForAPIKeyResponse:
        """Exchange the code, and renew the claim meanwhile."""
        exchange = asyncio.get_running_loop().create_task(
            self._client.oauth.exchange_auth_code_for_api_key(
                code=code,
                code_verifier=login.pkce.code_verifier,
                code_challenge_method=login.pkce.code_challenge_method,
            )
        )
        del code
        try:
            while True:
                done, _ = await asyncio.wait((exchange,), timeout=self._claim_ttl / 3)
                if done:
                    return exchange.result()
                try:
                    await self._claim(claim_request)
                except Exception as failure:  # noqa: BLE001 - an app's own store may raise anything
                    logger.warning("a claim could not be renewed: %s", _describe(failure))
        finally:
            exchange.cancel()

    async def _explain_rejection(
        self, callback: Callback, claim_request: ClaimRequest, claim: Claim, failure: APIError
    ) -> Grant:
        # Another worker takes a stalled worker's login over. One of the two gets the key, the other one this rejection.
        try:
            again = await self._claim_in_turn(claim_request)
        except LoginError:
            again = claim
        if again.status is ClaimStatus.FINISHED:
            return _replay_grant(callback, claim_request, again)
        if again.status is ClaimStatus.BUSY:
            raise LoginInProgressError(_STILL_AT_WORK) from failure
        if claim.lost or again.lost:
            await self._consume(claim_request)
            raise LoginLostError(
                "the code is refused, but a worker was lost while it exchanged it: the key may exist"
            ) from failure
        if again.status is not ClaimStatus.CLAIMED:
            raise failure
        # The code was wrong, not the login: somebody else's invalid callback must not end it.
        await self._release(claim_request)
        if callback.is_pasted:
            raise CodeRejectedError(f"OpenRouter refused the code: {failure}") from failure
        raise failure

    async def _claim_in_turn(self, claim_request: ClaimRequest) -> Claim:
        """Claim the login, waiting while another callback of the same browser has it."""
        give_up_at = self._clock.monotonic() + self._busy_timeout
        pause = _INITIAL_PAUSE
        while True:
            claim = await self._claim(claim_request)
            if claim.status is not ClaimStatus.BUSY or not _is_same_browser(claim_request, claim):
                return claim
            if self._clock.monotonic() >= give_up_at:
                return claim
            await self._clock.sleep(pause)
            pause = min(pause * 1.5, _MAX_PAUSE)

    async def _claim(self, claim_request: ClaimRequest) -> Claim:
        return await self._store.claim(claim_request, now=self._clock.time(), claim_ttl=self._claim_ttl)

    async def _consume(
        self, claim_request: ClaimRequest, record: KeyRecord | None = None, result_ttl: float = 0.0
    ) -> LoginCookie | None:
        try:
            return await self._store.finish(claim_request, record, now=self._clock.time(), result_ttl=result_ttl)
        except Exception as failure:  # noqa: BLE001 - an app's own store may raise anything
            # Do not lose the key, or the error of the exchange, because recording it failed.
            logger.warning("a login that is over could not be marked so: %s", _describe(failure))
            return None

    async def _release(self, claim_request: ClaimRequest) -> None:
        try:
            await self._store.release(claim_request, now=self._clock.time())
        except Exception as failure:  # noqa: BLE001 - an app's own store may raise anything
            logger.warning(
                "a login could not be given back, and waits for the end of its lease: %s", _describe(failure)
            )

    def _log_abandoned(self, task: asyncio.Task[Grant]) -> None:
        if task.cancelled():
            return
        if (failure := task.exception()) is not None:
            logger.warning("a login whose caller was cancelled failed: %s", failure)
        elif self._client.on_key is None:
            logger.warning(
                "the caller of a finished login was cancelled, and no on_key is set: only a reload gets its key"
            )


def authorization_error(callback: Callback, login: LoginRecord | None) -> AuthorizationError:
    """Return the error for a callback without a code."""
    error = callback.error
    assert error is not None  # noqa: S101 - a callback has a code or an error
    kind = AuthorizationDeniedError if error == "access_denied" else AuthorizationError
    if login is None:
        return kind(error)
    return kind(error, context=login.context, return_to=login.return_to)


def _describe(failure: Exception) -> str:
    # The message of a foreign error may quote the record.
    return str(failure) if isinstance(failure, LoginError) else type(failure).__name__


def _is_same_browser(claim_request: ClaimRequest, claim: Claim) -> bool:
    """Return whether a binding or cookie shows that the callback comes from the browser that started the login."""
    return claim_request.is_bound or claim.same_browser


def _code_digest(callback: Callback) -> str:
    return digest(callback.state or "", "code", callback.code)


def _replay_grant(callback: Callback, claim_request: ClaimRequest, claim: Claim) -> Grant:
    record = claim.result
    assert record is not None  # noqa: S101 - stores promise it
    is_same_code = hmac.compare_digest(record.code.encode(), _code_digest(callback).encode())
    is_same_browser = _is_same_browser(claim_request, claim)
    if not is_same_code or not is_same_browser:
        raise LoginAlreadyUsedError(
            "the login is over, and its grant is not for this callback",
            return_to=record.return_to if is_same_browser else None,
        )
    if not record.delivered:
        response = ExchangeAuthCodeForAPIKeyResponse(key=record.key, user_id=record.user_id)
        raise KeyDeliveryError("on_key raised when the login was finished; the key is in .response", response=response)
    return _grant(record, None)


def _record(
    response: ExchangeAuthCodeForAPIKeyResponse, callback: Callback, login: LoginRecord, *, delivered: bool = True
) -> KeyRecord:
    return KeyRecord(
        key=response.key,
        user_id=response.user_id,
        code=_code_digest(callback),
        delivered=delivered,
        context=login.context,
        return_to=login.return_to,
    )


def _grant(record: KeyRecord, cookie: LoginCookie | None) -> Grant:
    return Grant(
        key=record.key, user_id=record.user_id, context=record.context, return_to=record.return_to, cookie=cookie
    )


def _is_rejection(failure: OpenRouterError) -> TypeGuard[APIError]:
    return isinstance(failure, APIError) and failure.is_code_rejected and failure.outcome is Outcome.REFUSED
