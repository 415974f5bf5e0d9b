"""Exchange of codes from a queue that may deliver them more than once: each is claimed before it is sent.

The result is a JSON payload that can be kept, encrypted, and sent to another machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from typing import Any, Final, TypeAlias

from openrouter_async._client.client import OpenRouter
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async._values.tasks import ShieldedTasks
from openrouter_async.batch import mark_outcome_unknown, request_digest
from openrouter_async.errors import APIError, KeyDeliveryError, OpenRouterError, Outcome
from openrouter_async.login._records import Claim, ClaimRequest, ClaimStatus, KeyRecord, LoginRecord, LoginStore
from openrouter_async.pkce import PKCEPair

logger = logging.getLogger("openrouter_async.integrations.taskiq")

ResultPayload: TypeAlias = dict[str, Any]
"""The result of an exchange as a JSON object: a key, or an error."""

_INITIAL_PAUSE: Final = 0.05
_MAX_PAUSE: Final = 1.0


class LeasedExchanges:
    """Exchanges the codes of one worker of a queue.

    Args:
        client: The client that exchanges the codes.
        store: The store in which codes are claimed, shared by all workers.
        claim_ttl: Seconds until a code whose worker died is tried again; renewed while the worker lives.
        result_ttl: Seconds for which a redelivered message gets the same result.
    """

    def __init__(self, client: OpenRouter, store: LoginStore, *, claim_ttl: float, result_ttl: float) -> None:
        self._client = client
        self._store = store
        self._claim_ttl = claim_ttl
        self._result_ttl = result_ttl
        self._under_way: ShieldedTasks[ResultPayload] = ShieldedTasks()

    async def drain(self) -> None:
        """Wait for the exchanges under way."""
        await self._under_way.drain()

    async def carry_out(self, request: ExchangeAuthCodeForAPIKeyRequest) -> ResultPayload:
        """Exchange a code, even if the caller is cancelled, because a code that was sent cannot be sent again."""
        return await self._under_way.run(self._exchange_once(request))

    async def _exchange_once(self, request: ExchangeAuthCodeForAPIKeyRequest) -> ResultPayload:
        claim_request = ClaimRequest(
            login_id=request_digest(request), binding="", is_bound=True, token=secrets.token_urlsafe(16)
        )
        try:
            claim = await self._claim_in_turn(claim_request)
        except OpenRouterError as failure:
            return error_to_payload(failure)
        if claim.status is not ClaimStatus.CLAIMED:
            return cached_payload(claim)
        try:
            response = await self._exchange(request, claim_request)
        except KeyDeliveryError as failure:
            logger.error("on_key failed in a worker: %s", failure)  # noqa: TRY400 - the error is in the result
            return await self._finish(claim_request, key_to_payload(failure.response))
        except APIError as failure:
            if failure.is_code_rejected:
                return await self._explain_rejection(claim_request, claim, failure)
            return await self._release(claim_request, claim, failure)
        except Exception as failure:  # noqa: BLE001 - it is the result
            return await self._release(claim_request, claim, failure)
        return await self._finish(claim_request, key_to_payload(response, delivered=self._client.on_key is not None))

    async def _exchange(
        self, request: ExchangeAuthCodeForAPIKeyRequest, claim_request: ClaimRequest
    ) -> ExchangeAuthCodeForAPIKeyResponse:
        """Exchange the code, and renew the claim meanwhile."""
        exchange = asyncio.ensure_future(self._client.oauth.exchange_auth_code_for_api_key(request))
        del request
        while not (await asyncio.wait((exchange,), timeout=self._claim_ttl / 3))[0]:
            try:
                await self._claim(claim_request)
            except OpenRouterError as failure:
                logger.warning("a claim could not be renewed: %s", failure)
        if exchange.cancelled():
            raise OpenRouterError("something inside the exchange was cancelled", outcome=Outcome.UNKNOWN)
        return exchange.result()

    async def _explain_rejection(self, claim_request: ClaimRequest, claim: Claim, failure: APIError) -> ResultPayload:
        # If this worker stalled, another may have taken over. One of the two gets the key, the other this rejection.
        try:
            again = await self._claim_in_turn(claim_request)
        except OpenRouterError:
            again = claim
        if again.status is ClaimStatus.FINISHED:
            return cached_payload(again)
        if claim.lost or again.lost:
            mark_outcome_unknown(failure)
        return await self._release(claim_request, claim, failure)

    async def _claim_in_turn(self, claim_request: ClaimRequest) -> Claim:
        """Claim the code, waiting while another delivery has it."""
        now = self._client.clock.time()
        # The store requires a verifier. The real one is in each message.
        record = LoginRecord(
            id=claim_request.login_id,
            pkce=PKCEPair.generate(),
            expires_at=now + self._result_ttl,
            binding=claim_request.binding,
        )
        await self._store.put(record, now=now)
        pause = _INITIAL_PAUSE
        while (claim := await self._claim(claim_request)).status is ClaimStatus.BUSY:
            await self._client.clock.sleep(pause)
            pause = min(pause * 1.5, _MAX_PAUSE)
        return claim

    async def _claim(self, claim_request: ClaimRequest) -> Claim:
        return await self._store.claim(claim_request, now=self._client.clock.time(), claim_ttl=self._claim_ttl)

    async def _finish(self, claim_request: ClaimRequest, payload: ResultPayload) -> ResultPayload:
        record = KeyRecord(key="", user_id=None, code="", context=payload)
        try:
            await self._store.finish(claim_request, record, now=self._client.clock.time(), result_ttl=self._result_ttl)
        except OpenRouterError as failure:
            logger.warning("an exchange that is over could not be marked so: %s", failure)
        return payload

    async def _release(self, claim_request: ClaimRequest, claim: Claim, failure: Exception) -> ResultPayload:
        payload = error_to_payload(failure)
        # A code that may have been used stays claimed until the lease ends, so that the next claim is marked as `lost`.
        if payload["outcome"] != Outcome.UNKNOWN:
            try:
                await self._store.release(claim_request, now=self._client.clock.time())
            except OpenRouterError as trouble:
                logger.warning("a code could not be given back, and waits for the end of its lease: %s", trouble)
        return payload


def key_to_payload(response: ExchangeAuthCodeForAPIKeyResponse, *, delivered: bool = False) -> ResultPayload:
    return {
        "key": None if delivered else response.key,
        "user_id": response.user_id,
        "key_hash": hashlib.sha256(response.key.encode()).hexdigest(),
    }


def error_to_payload(failure: Exception) -> ResultPayload:
    """Return the payload of an error."""
    if not isinstance(failure, OpenRouterError):
        # An error of an app's middleware does not tell whether the request was sent, and its message may hold secrets.
        return {"error": f"{type(failure).__name__} in the worker", "outcome": Outcome.UNKNOWN}
    payload: ResultPayload = {"error": str(failure), "outcome": failure.outcome, "retry_after": failure.retry_after}
    if isinstance(failure, APIError):
        payload |= {"status": failure.status_code, "message": failure.message}
    return payload


def cached_payload(claim: Claim) -> ResultPayload:
    if claim.result is None:
        return error_to_payload(
            OpenRouterError(
                f"the code was exchanged before, and its result is not kept: {claim.status}", outcome=Outcome.COMPLETED
            )
        )
    payload: ResultPayload = claim.result.context
    return payload


def payload_to_error(payload: ResultPayload) -> OpenRouterError:
    """Return the error of a payload."""
    outcome, retry_after = Outcome(payload["outcome"]), payload.get("retry_after")
    if "status" not in payload:
        return OpenRouterError(payload["error"], outcome=outcome, retry_after=retry_after)
    status = payload["status"]
    error = APIError.for_status(status)(
        payload["message"], status_code=status, outcome=outcome, retry_after=retry_after
    )
    error.args = (payload["error"],)
    return error
