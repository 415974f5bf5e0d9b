"""Exchanges of codes that may come more than once, from a queue: each is claimed before it is sent.

What becomes of one is said in a form that can be kept, sealed, and sent to another machine.
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

Said: TypeAlias = dict[str, Any]
"""What a worker says of an exchange, as JSON has it: a key, or an error."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0


class ClaimedExchanges:
    """What a worker has for as long as it runs.

    Args:
        client: What exchanges the codes.
        store: Where they are claimed; all workers share it.
        lease: Seconds until a code whose worker died is tried again; renewed while the worker lives.
        remember: Seconds for which a result is given again.
    """

    def __init__(self, client: OpenRouter, store: LoginStore, *, lease: float, remember: float) -> None:
        self._client = client
        self._store = store
        self._lease = lease
        self._remember = remember
        self._under_way: ShieldedTasks[Said] = ShieldedTasks()

    async def drain(self) -> None:
        """Let what is under way end."""
        await self._under_way.drain()

    async def carry_out(self, request: ExchangeAuthCodeForAPIKeyRequest) -> Said:
        """Exchange a code, also when the caller is cancelled: what was sent cannot be sent again."""
        return await self._under_way.run(self._settle(request))

    async def _settle(self, request: ExchangeAuthCodeForAPIKeyRequest) -> Said:
        claimant = ClaimRequest(
            login_id=request_digest(request), binding="", is_bound=True, token=secrets.token_urlsafe(16)
        )
        try:
            claim = await self._claim_in_turn(claimant)
        except OpenRouterError as failure:
            return say(failure)
        if claim.status is not ClaimStatus.CLAIMED:
            return _said_before(claim)
        try:
            response = await self._exchange(request, claimant)
        except KeyDeliveryError as failure:
            logger.error("on_key failed in a worker: %s", failure)  # noqa: TRY400 - the error is in the result
            return await self._finish(claimant, _say_key(failure.response))
        except APIError as failure:
            if failure.is_code_rejected:
                return await self._explain_rejection(claimant, claim, failure)
            return await self._give_back(claimant, claim, failure)
        except Exception as failure:  # noqa: BLE001 - it is the result
            return await self._give_back(claimant, claim, failure)
        return await self._finish(claimant, _say_key(response, delivered=self._client.on_key is not None))

    async def _exchange(
        self, request: ExchangeAuthCodeForAPIKeyRequest, claimant: ClaimRequest
    ) -> ExchangeAuthCodeForAPIKeyResponse:
        """Exchange the code, and keep the claim as long as this takes."""
        exchange = asyncio.ensure_future(self._client.oauth.exchange_auth_code_for_api_key(request))
        del request
        while not (await asyncio.wait((exchange,), timeout=self._lease / 3))[0]:
            try:
                await self._claim(claimant)
            except OpenRouterError as failure:
                logger.warning("a claim could not be renewed: %s", failure)
        if exchange.cancelled():
            raise OpenRouterError("something inside the exchange was cancelled", outcome=Outcome.UNKNOWN)
        return exchange.result()

    async def _explain_rejection(self, claimant: ClaimRequest, claim: Claim, failure: APIError) -> Said:
        # A worker that stalls is overtaken: then one of the two gets the key, and the other one this rejection.
        try:
            again = await self._claim_in_turn(claimant)
        except OpenRouterError:
            again = claim
        if again.status is ClaimStatus.FINISHED:
            return _said_before(again)
        if claim.lost or again.lost:
            mark_outcome_unknown(failure)
        return await self._give_back(claimant, claim, failure)

    async def _claim_in_turn(self, claimant: ClaimRequest) -> Claim:
        """Claim the code, and wait for another delivery that has it."""
        now = self._client.clock.time()
        # A store of logins holds a verifier, too. The right one comes with each message.
        record = LoginRecord(
            id=claimant.login_id, pkce=PKCEPair.generate(), expires_at=now + self._remember, binding=claimant.binding
        )
        await self._store.put(record, now=now)
        pause = _FIRST_PAUSE
        while (claim := await self._claim(claimant)).status is ClaimStatus.BUSY:
            await self._client.clock.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        return claim

    async def _claim(self, claimant: ClaimRequest) -> Claim:
        return await self._store.claim(claimant, now=self._client.clock.time(), lease=self._lease)

    async def _finish(self, claimant: ClaimRequest, said: Said) -> Said:
        record = KeyRecord(key="", user_id=None, code="", context=said)
        try:
            await self._store.finish(claimant, record, now=self._client.clock.time(), keep=self._remember)
        except OpenRouterError as failure:
            logger.warning("an exchange that is over could not be marked so: %s", failure)
        return said

    async def _give_back(self, claimant: ClaimRequest, claim: Claim, failure: Exception) -> Said:
        said = say(failure)
        # What may have been carried out stays claimed until the lease is over. Then its next claimant knows of that.
        if said["outcome"] != Outcome.UNKNOWN:
            try:
                await self._store.restore(claimant, now=self._client.clock.time())
            except OpenRouterError as trouble:
                logger.warning("a code could not be given back, and waits for the end of its lease: %s", trouble)
        return said


def _say_key(response: ExchangeAuthCodeForAPIKeyResponse, *, delivered: bool = False) -> Said:
    return {
        "key": None if delivered else response.key,
        "user_id": response.user_id,
        "key_hash": hashlib.sha256(response.key.encode()).hexdigest(),
    }


def say(failure: Exception) -> Said:
    """What is said of an error."""
    if not isinstance(failure, OpenRouterError):
        # A middleware of the app does not say whether it sent the request, nor what its message shows.
        return {"error": f"{type(failure).__name__} in the worker", "outcome": Outcome.UNKNOWN}
    said: Said = {"error": str(failure), "outcome": failure.outcome, "retry_after": failure.retry_after}
    if isinstance(failure, APIError):
        said |= {"status": failure.status_code, "message": failure.message}
    return said


def _said_before(claim: Claim) -> Said:
    if claim.result is None:
        return say(
            OpenRouterError(
                f"the code was exchanged before, and its result is not kept: {claim.status}", outcome=Outcome.COMPLETED
            )
        )
    said: Said = claim.result.context
    return said


def rebuild(said: Said) -> OpenRouterError:
    """The error of which this was said."""
    outcome, retry_after = Outcome(said["outcome"]), said.get("retry_after")
    if "status" not in said:
        return OpenRouterError(said["error"], outcome=outcome, retry_after=retry_after)
    status = said["status"]
    error = APIError.for_status(status)(said["message"], status_code=status, outcome=outcome, retry_after=retry_after)
    error.args = (said["error"],)
    return error
