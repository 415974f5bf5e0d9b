"""Key-value stores for the pending logins of a bot's users."""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from openrouter_async.errors import RequestValidationError
from openrouter_async.login.errors import LoginStoreError

if TYPE_CHECKING:
    from redis.asyncio import Redis
else:
    # Optional at run time, where `typing.get_type_hints` resolves the name.
    Redis = Any


class KeyValueStore(Protocol):
    """A store of small values, each with a name and a time until which it is kept.

    The values hold the states of logins and, for at most ten minutes, codes; never a verifier or a key. ``now`` and
    ``until`` are in seconds since the epoch. A store that cannot be reached raises `LoginStoreError`.
    """

    async def set(self, name: str, value: bytes, *, now: float, until: float) -> None:
        """Store a value, in place of an earlier one of the same name.

        Args:
            name: The name of the value.
            value: The value.
            now: The current time.
            until: The time after which the value may be dropped.
        """
        ...

    async def get(self, name: str, *, now: float) -> bytes | None:
        """Return the value of this name; None if there is none or its time is over.

        Args:
            name: The name of the value.
            now: The current time.
        """
        ...

    async def delete(self, name: str) -> None:
        """Delete the value of this name, if there is one."""
        ...


class MemoryKeyValueStore:
    """A store in the memory of this process: after a restart, users who were signing in start again.

    Args:
        max_values: The maximum number of values. When it is exceeded, the value that was set first is dropped.

    Raises:
        RequestValidationError: ``max_values`` is not an integer >= 1.
    """

    def __init__(self, *, max_values: int = 10_000) -> None:
        if isinstance(max_values, bool) or not isinstance(max_values, int) or max_values < 1:
            raise RequestValidationError("max_values", "must be an integer from 1")
        self._max_values = max_values
        self._values: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self)}/{self._max_values}>"

    async def set(self, name: str, value: bytes, *, now: float, until: float) -> None:
        """Store a value; see `KeyValueStore.set`."""
        self._values.pop(name, None)
        while self._values and next(iter(self._values.values()))[0] <= now:
            self._values.popitem(last=False)
        self._values[name] = until, value
        if len(self._values) > self._max_values:
            self._values.popitem(last=False)

    async def get(self, name: str, *, now: float) -> bytes | None:
        """Return a value; see `KeyValueStore.get`."""
        until, value = self._values.get(name, (now, b""))
        return value if until > now else None

    async def delete(self, name: str) -> None:
        """Delete a value."""
        self._values.pop(name, None)


class RedisKeyValueStore:
    """A store in Redis or Valkey, for a bot of several processes, or one whose logins outlive a restart.

    Use it together with a `RedisStore`, which holds the logins themselves. A reader of this database sees states and
    codes, but no verifiers if that store has ``encryption_keys``; without its verifier, a code gives no key.

    Args:
        client: A client of redis-py's asyncio side. It is borrowed: the caller closes it.
        prefix: The prefix of all names in the database.
    """

    def __init__(self, client: Redis, *, prefix: str = "openrouter-bot") -> None:
        self._client = client
        self._prefix = prefix

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._prefix}>"

    async def set(self, name: str, value: bytes, *, now: float, until: float) -> None:
        """Store a value; see `KeyValueStore.set`."""
        with _redis_errors():
            await self._client.set(self._name(name), value, px=max(1, math.ceil((until - now) * 1000)))

    async def get(self, name: str, *, now: float) -> bytes | None:
        """Return a value; see `KeyValueStore.get`. Redis itself decides whether its time is over."""
        with _redis_errors():
            value: bytes | str | None = await self._client.get(self._name(name))
        # A client with decode_responses=True returns str.
        return value.encode() if isinstance(value, str) else value

    async def delete(self, name: str) -> None:
        """Delete a value."""
        with _redis_errors():
            await self._client.delete(self._name(name))

    def _name(self, name: str) -> str:
        return f"{self._prefix}:{name}"


@contextlib.contextmanager
def _redis_errors() -> Iterator[None]:
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError) as failure:
        # Redis errors can quote the arguments of the command, and with them a code.
        raise LoginStoreError(f"Redis cannot be used: {type(failure).__name__}") from None
