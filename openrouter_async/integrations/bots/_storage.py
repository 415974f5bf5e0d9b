"""Where a bot keeps which login each of its users has under way."""

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


class Shelf(Protocol):
    """Holds small values by their names, each until a time.

    The values hold the states of logins and, for a moment, codes; never a verifier or a key. ``now`` and ``until`` are
    in seconds since the epoch. A shelf that cannot be reached raises `LoginStoreError`.
    """

    async def put(self, name: str, value: bytes, *, now: float, until: float) -> None:
        """Hold a value, in place of the one before.

        Args:
            name: What it is found by.
            value: It.
            now: The time.
            until: When it may be forgotten.
        """
        ...

    async def get(self, name: str, *, now: float) -> bytes | None:
        """The value; None when there is none, or its time is over.

        Args:
            name: What it was put by.
            now: The time.
        """
        ...

    async def remove(self, name: str) -> None:
        """Hold it no longer."""
        ...


class MemoryShelf:
    """Holds values in this process: after a restart, users who had begun a login begin again.

    Args:
        max_values: The most values to hold; beyond it the ones that were put first are forgotten.

    Raises:
        RequestValidationError: ``max_values`` is not an integer from 1.
    """

    def __init__(self, *, max_values: int = 10_000) -> None:
        if isinstance(max_values, bool) or not isinstance(max_values, int) or max_values < 1:
            raise RequestValidationError("max_values", "must be an integer from 1")
        self._max_values = max_values
        self._values: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    def __len__(self) -> int:
        """How many values are held."""
        return len(self._values)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self)}/{self._max_values}>"

    async def put(self, name: str, value: bytes, *, now: float, until: float) -> None:
        """Hold a value; see `Shelf.put`."""
        self._values.pop(name, None)
        while self._values and next(iter(self._values.values()))[0] <= now:
            self._values.popitem(last=False)
        self._values[name] = until, value
        if len(self._values) > self._max_values:
            self._values.popitem(last=False)

    async def get(self, name: str, *, now: float) -> bytes | None:
        """The value; see `Shelf.get`."""
        until, value = self._values.get(name, (now, b""))
        return value if until > now else None

    async def remove(self, name: str) -> None:
        """Hold it no longer."""
        self._values.pop(name, None)


class RedisShelf:
    """Holds values in Redis or Valkey, for a bot of several processes, or one whose logins outlive a restart.

    Beside a `RedisStore`, which holds the logins themselves. Who reads this database reads states, not verifiers when
    that store has ``keys``: neither a state nor a code gives a key without its verifier.

    Args:
        client: A client of redis-py's asyncio side. It is borrowed: closing it is up to the caller.
        prefix: What the names of all keys in the database start with.
    """

    def __init__(self, client: Redis, *, prefix: str = "openrouter-bot") -> None:
        self._client = client
        self._prefix = prefix

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._prefix}>"

    async def put(self, name: str, value: bytes, *, now: float, until: float) -> None:
        """Hold a value; see `Shelf.put`."""
        with _explained():
            await self._client.set(self._name(name), value, px=max(1, math.ceil((until - now) * 1000)))

    async def get(self, name: str, *, now: float) -> bytes | None:
        """The value; see `Shelf.get`. The time is the server's."""
        with _explained():
            value: bytes | str | None = await self._client.get(self._name(name))
        # The caller's client may decode answers.
        return value.encode() if isinstance(value, str) else value

    async def remove(self, name: str) -> None:
        """Hold it no longer."""
        with _explained():
            await self._client.delete(self._name(name))

    def _name(self, name: str) -> str:
        return f"{self._prefix}:{name}"


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError) as failure:
        # Their messages can quote the arguments of the command.
        raise LoginStoreError(f"Redis cannot be used: {type(failure).__name__}") from None
