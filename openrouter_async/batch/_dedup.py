"""Deduplication: of the equal requests in a batch only one is sent, and the others share its result."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeAlias

import attrs

from openrouter_async._values.models import (
    CodeChallengeMethod,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    Unset,
)
from openrouter_async.batch._results import ExchangeFailure, ExchangeResult, ExchangeSuccess

Identity: TypeAlias = str | tuple[str, str | None, CodeChallengeMethod | str | None]
"""A value that is equal for equal requests only. It is as secret as the request."""

_Shared: TypeAlias = ExchangeFailure | tuple[str, str | None]
"""The strings of a result with a key: unlike other objects, strings are not tracked by the garbage collector."""


def identify(request: ExchangeAuthCodeForAPIKeyRequest) -> Identity:
    """Return the identity of a request. Hashing the request itself would take ten times as long."""
    method = request.code_challenge_method
    if isinstance(method, Unset):
        return request.code if request.code_verifier is None else (request.code, request.code_verifier, "")
    return request.code, request.code_verifier, method


class DedupCache:
    """The requests that are in flight or were resolved recently.

    The methods take the request and not its identity, which tracebacks with local variables would show.

    Args:
        size: The number of results to remember; None for all.
    """

    def __init__(self, size: int | None) -> None:
        self._size = size
        # None while a request is in flight, or a future if an equal one waits for it.
        self._known: dict[Identity, asyncio.Future[ExchangeResult | None] | _Shared | None] = {}
        self._resolved: deque[Identity] = deque()

    def reserve(self, request: ExchangeAuthCodeForAPIKeyRequest) -> bool:
        """Register a request that is about to be sent.

        Returns:
            False if an equal one is known; then use `get`.
        """
        identity = identify(request)
        if identity in self._known:
            return False
        self._known[identity] = None
        return True

    def resolve(self, request: ExchangeAuthCodeForAPIKeyRequest, result: ExchangeResult | None) -> None:
        """Set the result for equal requests, now and later; None if there is no result and another one may be sent."""
        identity = identify(request)
        waiter = self._known.pop(identity)
        if isinstance(waiter, asyncio.Future):
            waiter.set_result(result)
        if result is None:
            return
        self._known[identity] = result if result.error is not None else (result.response.key, result.response.user_id)
        if self._size is not None:
            self._resolved.append(identity)
            if len(self._resolved) > self._size:
                del self._known[self._resolved.popleft()]

    async def get(self, index: int, request: ExchangeAuthCodeForAPIKeyRequest) -> ExchangeResult | None:
        """Return the result of an equal request for another index, or None if that ended without a result."""
        known = self._known[identify(request)]
        if known is None:
            known = self._known[identify(request)] = asyncio.get_running_loop().create_future()
        if isinstance(known, asyncio.Future):
            # Awaiting the future itself would cancel it, and every other waiter, together with this worker.
            await asyncio.wait((known,))
            result = known.result()
            return None if result is None else attrs.evolve(result, index=index)
        if isinstance(known, ExchangeFailure):
            return attrs.evolve(known, index=index)
        key, user_id = known
        response = ExchangeAuthCodeForAPIKeyResponse(key=key, user_id=user_id)
        return ExchangeSuccess(index=index, request=request, response=response)
