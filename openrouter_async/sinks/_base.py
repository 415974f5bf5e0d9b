"""What a safe place for a key is, and the simplest one: a callable of the app."""

from __future__ import annotations

import abc
import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol, Self, TypeAlias, cast

import attrs

from openrouter_async._values.clock import SYSTEM_CLOCK, Clock
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.errors import OpenRouterError, RequestValidationError
from openrouter_async.redaction import mask_key


class KeySinkError(OpenRouterError):
    """A key could not be put into its safe place, or read from it, or taken out of it."""

    @property
    def user_message(self) -> str:
        """A sentence that is safe to show to the person who signs in."""
        return "The key could not be stored, read or removed. Please tell the operator of this app."

    @property
    def restart_login(self) -> bool:
        """Whether the login has to start anew: no other login would fare better."""
        return False


@attrs.frozen(kw_only=True)
class StoredKey:
    """A key as a safe place holds it.

    As text it is a JSON object of ``key``, ``user_id`` and ``created_at``; other fields are ignored.

    Attributes:
        key: The user's API key.
        user_id: The user's id; None when OpenRouter did not tell it.
        created_at: When it was put there, in UTC, to the second.
    """

    key: str = attrs.field(repr=mask_key)
    user_id: str | None = None
    created_at: datetime

    @classmethod
    def make(cls, key: str, user_id: str | None, clock: Clock) -> Self:
        """A key that is stored now.

        Args:
            key: The user's API key.
            user_id: The user's id; None when OpenRouter did not tell it.
            clock: Where the time comes from.

        Raises:
            RequestValidationError: The key is not a string, or empty, or the user's id is not a string.
        """
        if not isinstance(key, str) or not key:
            raise RequestValidationError("key", "must be a string that is not empty")
        if not isinstance(user_id, str | None):
            raise RequestValidationError("user_id", "must be a string or None")
        return cls(key=key, user_id=user_id, created_at=datetime.fromtimestamp(int(clock.time()), UTC))

    def to_json(self) -> str:
        """The key as text, in ASCII."""
        created_at = self.created_at.isoformat().replace("+00:00", "Z")
        return json.dumps({"key": self.key, "user_id": self.user_id, "created_at": created_at})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The key of a text that `to_json` made.

        Raises:
            KeySinkError: It is something else.
        """
        try:
            fields = json.loads(text)
            key, user_id = fields["key"], fields["user_id"]
            created_at = datetime.fromisoformat(fields["created_at"])
            if not key or not isinstance(key, str) or not isinstance(user_id, str | None) or created_at.tzinfo is None:
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            # The errors of these quote what they were given.
            raise KeySinkError("what is stored there is not a key that was stored by this library") from None
        return cls(key=key, user_id=user_id, created_at=created_at.astimezone(UTC))


class KeySink(Protocol):
    """Takes keys, for ``OpenRouter(on_key=…)`` or by hand."""

    async def __call__(
        self, request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse
    ) -> None:
        """Put the key of an exchange into its safe place."""
        ...

    async def save(self, key: str, *, user_id: str | None = None) -> None:
        """Put a key into its safe place; it takes the place of the one before.

        Args:
            key: The user's API key.
            user_id: The user's id.

        Raises:
            RequestValidationError: The key is empty or not a string.
            KeySinkError: It could not be put there.
        """
        ...


class KeyVault(KeySink, Protocol):
    """A sink that gives back what it took."""

    async def load(self) -> StoredKey | None:
        """The key; None when there is none.

        Raises:
            KeySinkError: It could not be read.
        """
        ...

    async def delete(self) -> bool:
        """Take the key out.

        Returns:
            Whether there was one.

        Raises:
            KeySinkError: It could not be taken out.
        """
        ...


class BaseKeySink(abc.ABC):
    """What all sinks have in common: an exchange's key is saved."""

    async def __call__(
        self, request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse
    ) -> None:
        """Put the key of an exchange into its safe place; see `KeySink`."""
        await self.save(response.key, user_id=response.user_id)

    @abc.abstractmethod
    async def save(self, key: str, *, user_id: str | None = None) -> None:
        """Put a key into its safe place; see `KeySink.save`."""


Save: TypeAlias = Callable[[StoredKey], Awaitable[object]] | Callable[[StoredKey], object]
"""Stores a key. One that is not a coroutine function runs in a thread, so it may block."""


class CallbackSink(BaseKeySink):
    """Gives keys to a callable of the app.

    ::

        client = OpenRouter(on_key=CallbackSink(lambda stored: database.insert(stored.user_id, stored.key)))

    Args:
        callback: See `Save`.
        clock: Where time comes from.

    Raises:
        RequestValidationError: The callback is not callable.
    """

    def __init__(self, callback: Save, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if not callable(callback):
            raise RequestValidationError("callback", "must be callable")
        self._callback = callback
        self._clock = clock
        self._is_async = inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(
            getattr(callback, "__call__", None)  # noqa: B004 - the method of an object, which may be async
        )

    async def save(self, key: str, *, user_id: str | None = None) -> None:
        """Give a key to the callable.

        Args:
            key: The user's API key.
            user_id: The user's id.

        Raises:
            RequestValidationError: The key is empty or not a string.
            KeySinkError: The callable raised.
        """
        stored = StoredKey.make(key, user_id, self._clock)
        del key
        try:
            if self._is_async:
                saving: object = self._callback(stored)
            else:
                saving = await asyncio.to_thread(self._callback, stored)
            if inspect.isawaitable(saving):
                await cast("Awaitable[object]", saving)
        except Exception as failure:
            raise KeySinkError(f"the callback raised {type(failure).__name__}") from failure
