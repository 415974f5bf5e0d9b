"""The client and the store of an app: borrowed ones, or those that a callable makes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from openrouter_async._client.client import OpenRouter
from openrouter_async.login._store import LoginStore


async def open_client(cleanup: contextlib.AsyncExitStack, client: OpenRouter | Callable[[], OpenRouter]) -> OpenRouter:
    """Return a client that is bound to this event loop.

    Args:
        cleanup: Closes a client that a callable made.
        client: A borrowed client, or a callable that makes one.
    """
    if not isinstance(client, OpenRouter):
        client = await cleanup.enter_async_context(client())
    client.bind()
    return client


def open_store(cleanup: contextlib.AsyncExitStack, store: LoginStore | Callable[[], LoginStore]) -> LoginStore:
    """Return a store.

    Args:
        cleanup: Closes a store that a callable made, if it has an ``aclose``.
        store: A borrowed store, or a callable that makes one.
    """
    if not callable(store):
        return store
    made = store()
    if (close := getattr(made, "aclose", None)) is not None:
        cleanup.push_async_callback(close)
    return made
