"""The exchange of a code under a lease, for pending logins and queued exchanges alike."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator
from typing import Final, Protocol

import attrs

from openrouter_async._values.clock import Clock
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.batch import mark_outcome_unknown
from openrouter_async.errors import APIError, KeyDeliveryError, OpenRouterError, Outcome
from openrouter_async.events import Event
from openrouter_async.login._models import LoginCookie
from openrouter_async.login._store import Claim, ClaimRequest, ClaimStatus, LoginStore
from openrouter_async.login.errors import LoginError

logger = logging.getLogger("openrouter_async.login")

_INITIAL_PAUSE: Final = 0.05
_MAX_PAUSE: Final = 0.5


class LeasedExchange(Protocol):
    """An exchange that is carried out under a lease."""

    async def exchange(self, value: bytes, /) -> ExchangeAuthCodeForAPIKeyResponse:
        """Exchange the code for an item with this content."""
        ...

    def to_result(self, response: ExchangeAuthCodeForAPIKeyResponse, *, delivered: bool) -> bytes:
        """Return the result to keep for repeated requests; `delivered` tells whether ``on_key`` succeeded."""
        ...


@attrs.frozen(kw_only=True)
class LeaseResult:
    """The result of a request for an item.

    Attributes:
        claim: The last answer of the store; `ClaimStatus.FINISHED` if there is a result, of this request or another.
        is_replay: Whether the result is that of another request.
        cookie: A cookie that replaces the item's.
        rejection: The error if OpenRouter rejected the code. If the item is finished all the same, another worker took
            it over and exchanged the code.
    """

    claim: Claim
    is_replay: bool = True
    cookie: LoginCookie | None = None
    rejection: APIError | None = None


@attrs.frozen
class LeaseRunner:
    """Carries out exchanges, each under a lease of its item.

    Attributes:
        store: The store of the items, shared by all workers.
        clock: The source of time.
        claim_ttl: Seconds until an item whose worker died can be taken over; renewed while the worker lives.
        result_ttl: Seconds for which a repeated request gets the same result.
        busy_timeout: Seconds to wait for another request that has the item.
        retry_uncertain: Whether an item whose code may have been used can be claimed again when its lease has ended.
            The next request then learns that this one was lost. By default the item is consumed.
    """

    store: LoginStore
    clock: Clock
    claim_ttl: float = attrs.field(kw_only=True)
    result_ttl: float = attrs.field(kw_only=True)
    busy_timeout: float = attrs.field(default=math.inf, kw_only=True)
    retry_uncertain: bool = attrs.field(default=False, kw_only=True)

    async def run(self, claim_request: ClaimRequest, exchange: LeasedExchange) -> LeaseResult:
        """Claim an item, exchange its code, and record the result; or return that of another request.

        Raises:
            LoginStoreError: The item could not be claimed.
            Exception: The exchange failed for another reason than a rejected code.
        """
        claim = await self._claim_in_turn(claim_request)
        if claim.status is not ClaimStatus.CLAIMED:
            return LeaseResult(claim=claim)
        result_ttl = self.result_ttl if is_same_browser(claim_request, claim) else 0.0
        try:
            async with self._renewed(claim_request):
                response = await exchange.exchange(claim.value)
        except KeyDeliveryError as failure:
            await self._finish(claim_request, exchange.to_result(failure.response, delivered=False), result_ttl)
            raise
        except Exception as failure:
            if isinstance(failure, APIError) and failure.is_code_rejected:
                return await self._explain_rejection(claim_request, claim, failure)
            await self._end(claim_request, failure)
            raise
        claim = Claim(status=ClaimStatus.FINISHED, value=exchange.to_result(response, delivered=True))
        cookie = await self._finish(claim_request, claim.value, result_ttl)
        return LeaseResult(claim=claim, is_replay=False, cookie=cookie)

    async def cancel(self, claim_request: ClaimRequest) -> Claim:
        """End an item that no request has claimed.

        Returns:
            The answer of the store; `ClaimStatus.CLAIMED` if the item is over now.

        Raises:
            LoginStoreError: The store cannot be reached.
        """
        claim = await self._claim(claim_request)
        if claim.status is ClaimStatus.CLAIMED:
            await self.store.finish(claim_request, None, now=self.clock.time(), result_ttl=0.0)
        return claim

    async def _explain_rejection(self, claim_request: ClaimRequest, claim: Claim, failure: APIError) -> LeaseResult:
        # If this worker stalled, another one may have taken its item over. One of them gets the key, the other a
        # rejection.
        try:
            again = await self._claim_in_turn(claim_request)
        except Exception:  # noqa: BLE001 - the rejection matters more than a store that fails
            again = claim
        if again.status not in (ClaimStatus.FINISHED, ClaimStatus.BUSY):
            # A consumed item was ended by another worker, whose result is not kept.
            is_lost = claim.lost or again.lost or again.status is ClaimStatus.CONSUMED
            again = attrs.evolve(again, lost=is_lost)
            if is_lost:
                mark_outcome_unknown(failure)
            await self._end(claim_request, failure)
        return LeaseResult(claim=again, rejection=failure)

    @contextlib.asynccontextmanager
    async def _renewed(self, claim_request: ClaimRequest) -> AsyncIterator[None]:
        """Renew the claim while the block runs."""
        loop = asyncio.get_running_loop()
        is_over: asyncio.Future[None] = loop.create_future()
        renewal = loop.create_task(self._renew(claim_request, is_over))
        try:
            yield
        finally:
            # The renewal is not cancelled: a request that is cut off may still reach the store, after the release.
            is_over.set_result(None)
            await renewal

    async def _renew(self, claim_request: ClaimRequest, is_over: asyncio.Future[None]) -> None:
        while not (await asyncio.wait((is_over,), timeout=self.claim_ttl / 3))[0]:
            try:
                await self._claim(claim_request)
            except Exception as failure:  # noqa: BLE001 - an app's own store may raise anything
                logger.warning(
                    "a claim could not be renewed: %s", _describe(failure), extra={"event": Event.STORE_FAILED}
                )

    async def _claim_in_turn(self, claim_request: ClaimRequest) -> Claim:
        """Claim the item; wait while another request of the same browser has it."""
        give_up_at = self.clock.monotonic() + self.busy_timeout
        pause = _INITIAL_PAUSE
        while True:
            claim = await self._claim(claim_request)
            if claim.status is not ClaimStatus.BUSY or not is_same_browser(claim_request, claim):
                return claim
            if self.clock.monotonic() >= give_up_at:
                return claim
            await self.clock.sleep(pause)
            pause = min(pause * 1.5, _MAX_PAUSE)

    async def _claim(self, claim_request: ClaimRequest) -> Claim:
        return await self.store.claim(claim_request, now=self.clock.time(), claim_ttl=self.claim_ttl)

    async def _end(self, claim_request: ClaimRequest, failure: Exception) -> None:
        """Release the item if its code can be sent again; consume it if the code may be used, or the login is over."""
        if isinstance(failure, LoginError) and failure.restart_login:
            await self._finish(claim_request)
        elif isinstance(failure, OpenRouterError) and failure.outcome in (Outcome.NOT_SENT, Outcome.REFUSED):
            try:
                await self.store.release(claim_request, now=self.clock.time())
            except Exception as trouble:  # noqa: BLE001 - an app's own store may raise anything
                logger.warning(
                    "a claim could not be released, and stays until its lease ends: %s",
                    _describe(trouble),
                    extra={"event": Event.STORE_FAILED},
                )
        elif not self.retry_uncertain:
            # Foreign exceptions come from the app's middlewares, and do not tell whether the code was sent.
            await self._finish(claim_request)

    async def _finish(
        self, claim_request: ClaimRequest, result: bytes | None = None, result_ttl: float = 0.0
    ) -> LoginCookie | None:
        try:
            return await self.store.finish(claim_request, result, now=self.clock.time(), result_ttl=result_ttl)
        except Exception as failure:  # noqa: BLE001 - an app's own store may raise anything
            # Do not lose the key, or the error of the exchange, because recording it failed.
            logger.warning(
                "the end of a claim could not be recorded: %s", _describe(failure), extra={"event": Event.STORE_FAILED}
            )
            return None


def is_same_browser(claim_request: ClaimRequest, claim: Claim) -> bool:
    """Return whether a binding or cookie shows that the request comes from the browser that started the login."""
    return (claim_request.is_bound or claim.same_browser) and not claim_request.single_use


def _describe(failure: Exception) -> str:
    # The message of a foreign error may quote the value.
    return str(failure) if isinstance(failure, LoginError) else type(failure).__name__
