"""Calls of redis-py: connecting, running scripts, repeating what a new connection can save, and mapping errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from openrouter_async.errors import RequestValidationError
from openrouter_async.login.errors import LoginStoreError

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

_T = TypeVar("_T")

_MAX_ATTEMPTS: Final = 4
_INITIAL_PAUSE: Final = 0.05
_MAX_CONNECTIONS: Final = 50
_TIMEOUT: Final = 5.0


def connect(url: str) -> Redis:
    """Return a client that waits for a free connection when all of its connections are busy."""
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
    except ImportError as missing:
        raise ImportError("RedisStore needs redis: pip install 'openrouter-async[redis]'") from missing
    try:
        # The default pool fails at once when every connection is busy; this one waits up to `timeout`.
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=_TIMEOUT,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
        )
    except ValueError:
        # redis-py quotes the URL, and its password with it.
        raise RequestValidationError("url", "must be a redis://, rediss:// or unix:// URL") from None
    return Redis.from_pool(pool)


def bind_script(
    client: Redis | RedisCluster, script: str, names: tuple[str, ...], *arguments: str | bytes | int
) -> Callable[[], Awaitable[Any]]:
    """Return a function that runs the script. Unlike that of a partial, its repr shows no arguments."""
    # EVAL rather than EVALSHA: a restarted server does not know the digest, and EVAL compiles a script only once, too.
    run: Callable[..., Awaitable[Any]] = client.eval
    return lambda: run(script, len(names), *names, *arguments)


async def call(client: Redis | RedisCluster, operation: Callable[[], Awaitable[_T]]) -> _T:
    """Await an idempotent operation, repeat it while that can help, and map the errors of redis-py.

    Args:
        client: The client that the operation uses.
        operation: Makes the awaitable for one attempt.

    Returns:
        The result of the operation.

    Raises:
        LoginStoreError: Redis cannot be reached, or refused the operation.
    """
    from redis import exceptions

    for attempt in range(1, _MAX_ATTEMPTS + 1):
        try:
            return await operation()
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as failure:
            problem, is_final = f"Redis cannot be reached: {type(failure).__name__}", False
        except (exceptions.RedisError, exceptions.RedisClusterException, UnicodeError) as failure:
            # A client with `decode_responses` raises UnicodeError. The messages of all of them can quote the arguments.
            problem = f"Redis refused the operation: {type(failure).__name__}"
            is_final = not _can_new_connection_help(failure)
        # Raised outside of the handlers, as the frames of a foreign exception hold the arguments.
        if is_final or attempt == _MAX_ATTEMPTS:
            raise LoginStoreError(problem)
        await _drop_connections(client)
        await asyncio.sleep(_INITIAL_PAUSE * 2 ** (attempt - 1))
    raise AssertionError  # pragma: no cover - the last attempt returns or raises


def _can_new_connection_help(failure: Exception) -> bool:
    """Return whether a new connection may reach a server that carries out the operation."""
    from redis import exceptions

    # MOVED and ASK reach a client that was not made for a cluster. A script that writes on a replica fails with an
    # error that only quotes READONLY.
    kinds = (
        *(exceptions.ReadOnlyError, exceptions.MasterDownError),
        *(exceptions.AskError, exceptions.MovedError, exceptions.TryAgainError, exceptions.ClusterDownError),
    )
    return isinstance(failure, kinds) or "READONLY" in str(failure)


async def _drop_connections(client: Redis | RedisCluster) -> None:
    # A demoted master keeps its connections open, and refuses every write on them. The client of a cluster follows its
    # nodes by itself.
    pool = getattr(client, "connection_pool", None)
    if pool is not None:
        await pool.disconnect(inuse_connections=False)


def to_bytes(value: bytes | str) -> bytes:
    """Return bytes, even if a client with ``decode_responses`` returned a string."""
    return value.encode() if isinstance(value, str) else value
