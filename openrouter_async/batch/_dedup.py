"""Requests of a batch that are equal: one is sent, and the others share what it comes to."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import attrs

from openrouter_async._values.models import (
    CodeChallengeMethod,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    Unset,
)
from openrouter_async.batch._results import ExchangeResult

Identity: TypeAlias = str | tuple[str, str | None, CodeChallengeMethod | str | None]
"""What equal requests have in common, and no others. It is as secret as they are."""

_Known: TypeAlias = ExchangeResult | tuple[str, str | None]
"""Of a key, no more is kept than strings, which cost no garbage collection."""


def identify(request: ExchangeAuthCodeForAPIKeyRequest) -> Identity:
    """The identity of a request. To hash the request itself would cost ten times as much."""
    method = request.code_challenge_method
    if isinstance(method, Unset):
        return request.code if request.code_verifier is None else (request.code, request.code_verifier, "")
    return request.code, request.code_verifier, method


class Repeats:
    """What is under way, and what was lately. Requests go by their identity.

    Args:
        remembered: How many results are remembered at the least; twice as many at the most. None for all.
    """

    def __init__(self, remembered: int | None) -> None:
        self._remembered = remembered
        # A future only where somebody waits for it.
        self._under_way: dict[Identity, asyncio.Future[ExchangeResult | None] | None] = {}
        # Two generations: to drop one at a time costs less than one result at a time.
        self._recent: dict[Identity, _Known] = {}
        self._older: dict[Identity, _Known] = {}

    def claim(self, identity: Identity) -> bool:
        """Take note that a request is under way; False when an equal one is, or was."""
        if identity in self._under_way or identity in self._recent or identity in self._older:
            return False
        self._under_way[identity] = None
        return True

    def land(self, identity: Identity, result: ExchangeResult | None) -> None:
        """Give a result to those that wait for it and to those that come later; None when there is none."""
        landed = self._under_way.pop(identity)
        if landed is not None:
            landed.set_result(result)
        if result is None:
            return
        response = result.response
        self._recent[identity] = result if response is None else (response.key, response.user_id)
        if len(self._recent) == self._remembered:
            self._older, self._recent = self._recent, {}

    async def share(
        self, index: int, request: ExchangeAuthCodeForAPIKeyRequest, identity: Identity
    ) -> ExchangeResult | None:
        """The result of an equal request, as one of this place in the input; None when that ended without one."""
        if identity in self._under_way:
            landed = self._under_way[identity]
            if landed is None:
                landed = self._under_way[identity] = asyncio.get_running_loop().create_future()
            # Not the future itself: if this worker were cancelled, so would be all that wait for it.
            await asyncio.wait((landed,))
            known: _Known | None = landed.result()
        else:
            known = self._recent.get(identity) or self._older[identity]
        if known is None:
            return None
        if isinstance(known, ExchangeResult):
            return attrs.evolve(known, index=index)
        key, user_id = known
        response = ExchangeAuthCodeForAPIKeyResponse(key=key, user_id=user_id)
        return ExchangeResult(index=index, request=request, response=response)
