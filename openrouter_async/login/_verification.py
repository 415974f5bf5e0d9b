"""Asking OpenRouter whether a key that it has just issued is valid."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import attrs

from openrouter_async._http.options import RequestOptions
from openrouter_async.errors import APIError, OpenRouterError
from openrouter_async.events import Event
from openrouter_async.login._models import Grant
from openrouter_async.login.errors import KeyRefusedError

if TYPE_CHECKING:
    from openrouter_async._client.client import OpenRouter

logger = logging.getLogger("openrouter_async.login")

_TIMEOUT: Final = 10.0
_REFUSALS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


async def verify(client: OpenRouter, grant: Grant) -> Grant:
    """Ask OpenRouter once for the state of a key.

    An account can refuse a key that it has just issued: a maximum lifetime of keys forbids those that never expire, and
    a browser sign-in cannot set when a key expires; a list of allowed addresses may lack this one.

    Args:
        client: The client that got the key.
        grant: The grant with the key.

    Returns:
        The grant with ``current_key`` or ``key_error``; with neither if OpenRouter did not say.
    """
    try:
        response = await client.keys.current(grant.key, options=RequestOptions(timeout=_TIMEOUT, retry=None))
    except OpenRouterError as failure:
        if not isinstance(failure, APIError) or failure.status_code not in _REFUSALS:
            logger.info("a new key could not be verified: %s", failure, extra={"event": Event.KEY_NOT_VERIFIED})
            return grant
        error = KeyRefusedError(f"the new key is refused: {failure}")
        # The grant keeps the error, and a traceback would keep the variables of its frames alive.
        error.__cause__ = failure.with_traceback(None)
        return attrs.evolve(grant, key_error=error)
    return attrs.evolve(grant, current_key=response.data)
