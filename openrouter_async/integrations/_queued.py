"""Exchange of codes from a queue that may deliver them more than once: each is claimed before it is sent.

The result is a JSON payload that can be kept, encrypted, and sent to another machine.
"""

from __future__ import annotations

import json
import logging
import secrets
from typing import Any, TypeAlias

import attrs

from openrouter_async._client.client import OpenRouter
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async._values.tasks import ShieldedTasks
from openrouter_async.batch import request_digest
from openrouter_async.errors import APIError, KeyDeliveryError, OpenRouterError, Outcome
from openrouter_async.events import Event
from openrouter_async.login._lease import LeaseRunner
from openrouter_async.login._models import Grant
from openrouter_async.login._store import ClaimRequest, ClaimStatus, LeaseItem, LoginStore

logger = logging.getLogger("openrouter_async.integrations.taskiq")

ResultPayload: TypeAlias = dict[str, Any]
"""The result of an exchange as a JSON object: a key, or an error."""


class QueuedExchanges:
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
        self._result_ttl = result_ttl
        self._leases = LeaseRunner(
            store, client.clock, claim_ttl=claim_ttl, result_ttl=result_ttl, retry_uncertain=True
        )
        self._under_way: ShieldedTasks[ResultPayload] = ShieldedTasks()

    async def drain(self) -> None:
        """Wait for the exchanges under way."""
        await self._under_way.drain()

    async def exchange(self, request: ExchangeAuthCodeForAPIKeyRequest) -> ResultPayload:
        """Exchange a code, even if the caller is cancelled, because a code that was sent cannot be sent again."""
        return await self._under_way.run(self._exchange(request))

    async def _exchange(self, request: ExchangeAuthCodeForAPIKeyRequest) -> ResultPayload:
        now = self._client.clock.time()
        item = LeaseItem(id=request_digest(request), value=b"", binding="", expires_at=now + self._result_ttl)
        claim_request = ClaimRequest(id=item.id, binding="", is_bound=True, token=secrets.token_urlsafe(16))
        try:
            await self._store.put(item, now=now)
            result = await self._leases.run(claim_request, _QueuedExchange(self._client, request))
        except KeyDeliveryError as failure:
            logger.error(  # noqa: TRY400 - the error is in the result
                "on_key failed in a worker: %s", failure, extra={"event": Event.HOOK_FAILED}
            )
            return key_to_payload(failure.response)
        except Exception as failure:  # noqa: BLE001 - it is the result
            return error_to_payload(failure)
        if result.claim.status is ClaimStatus.FINISHED:
            payload: ResultPayload = json.loads(result.claim.value)
            return payload
        return error_to_payload(
            result.rejection
            or OpenRouterError(
                f"the code was exchanged before, and its result is not kept: {result.claim.status}",
                outcome=Outcome.COMPLETED,
            )
        )


@attrs.frozen
class _QueuedExchange:
    """The exchange of a message."""

    _client: OpenRouter
    _request: ExchangeAuthCodeForAPIKeyRequest

    async def exchange(self, _value: bytes, /) -> ExchangeAuthCodeForAPIKeyResponse:
        return await self._client.oauth.exchange_auth_code_for_api_key(self._request)

    def to_result(self, response: ExchangeAuthCodeForAPIKeyResponse, *, delivered: bool) -> bytes:
        payload = key_to_payload(response, delivered=delivered and self._client.on_key is not None)
        return json.dumps(payload).encode()


def key_to_payload(response: ExchangeAuthCodeForAPIKeyResponse, *, delivered: bool = False) -> ResultPayload:
    """Return the payload of a key, without the key itself if ``on_key`` received it."""
    return {
        "key": None if delivered else response.key,
        "user_id": response.user_id,
        "key_hash": Grant(key=response.key).key_hash,
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
