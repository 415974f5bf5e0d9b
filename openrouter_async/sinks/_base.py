"""The interface of all sinks, and a sink that calls a function of the app."""

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
from openrouter_async._values.frames import hide_arguments, without_secrets
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async.errors import OpenRouterError, RequestValidationError
from openrouter_async.redaction._masks import mask_key


class KeySinkError(OpenRouterError):
    """A key could not be stored, read or deleted."""

    @property
    def user_message(self) -> str:
        """Return a sentence that is safe to show to the user."""
        return "The key could not be stored, read or removed. Please tell the operator of this app."

    @property
    def restart_login(self) -> bool:
        """Return False: another login would fail in the same way."""
        return False


@attrs.frozen(kw_only=True)
class StoredKey:
    """A stored key.

    Its text form is a JSON object with ``key``, ``user_id`` and ``created_at``; other fields are ignored.

    Attributes:
        key: The user's API key.
        user_id: The user's id; None if OpenRouter did not send it.
        created_at: When it was stored, in UTC, to the second.
    """

    key: str = attrs.field(repr=mask_key)
    user_id: str | None = None
    created_at: datetime

    @classmethod
    def make(cls, key: str, user_id: str | None, clock: Clock) -> Self:
        """Create a key with the current time.

        Args:
            key: The user's API key.
            user_id: The user's id; None if OpenRouter did not send it.
            clock: The source of time.

        Raises:
            RequestValidationError: The key is not a string, or empty, or the user's id is not a string.
        """
        if not isinstance(key, str) or not key:
            raise RequestValidationError("key", "must be a string that is not empty")
        if not isinstance(user_id, str | None):
            raise RequestValidationError("user_id", "must be a string or None")
        return cls(key=key, user_id=user_id, created_at=datetime.fromtimestamp(int(clock.time()), UTC))

    def to_json(self) -> str:
        """Return the key as a JSON object, in ASCII."""
        created_at = self.created_at.isoformat().replace("+00:00", "Z")
        return json.dumps({"key": self.key, "user_id": self.user_id, "created_at": created_at})

    @classmethod
    @hide_arguments
    def from_json(cls, text: str | bytes) -> Self:
        """Parse a text that `to_json` made.

        Raises:
            KeySinkError: The text was not made by `to_json`.
        """
        try:
            fields = json.loads(text)
            key, user_id = fields["key"], fields["user_id"]
            created_at = datetime.fromisoformat(fields["created_at"])
            if not key or not isinstance(key, str) or not isinstance(user_id, str | None) or created_at.tzinfo is None:
                raise ValueError
            created_at = created_at.astimezone(UTC)
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            # These errors quote their input, which may hold the key.
            raise KeySinkError("the stored value is not a key that was stored by this library") from None
        return cls(key=key, user_id=user_id, created_at=created_at)


class KeySink(Protocol):
    """Store keys, as ``OpenRouter(on_key=…)`` or by hand."""

    async def __call__(
        self, request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse
    ) -> None:
        """Store the key of an exchange."""
        ...

    async def save(self, key: str, *, user_id: str | None = None) -> None:
        """Store a key, replacing the one before.

        Args:
            key: The user's API key.
            user_id: The user's id.

        Raises:
            RequestValidationError: The key is empty or not a string.
            KeySinkError: It could not be stored.
        """
        ...


class KeyVault(KeySink, Protocol):
    """A sink whose key can be read and deleted."""

    async def load(self) -> StoredKey | None:
        """Read the key.

        Returns:
            The key; None if there is none.

        Raises:
            KeySinkError: It could not be read.
        """
        ...

    async def delete(self) -> bool:
        """Delete the key.

        Returns:
            Whether there was one.

        Raises:
            KeySinkError: It could not be deleted.
        """
        ...


class BaseKeySink(abc.ABC):
    """Base class of all sinks: as ``on_key``, it saves the key of an exchange."""

    async def __call__(
        self, request: ExchangeAuthCodeForAPIKeyRequest, response: ExchangeAuthCodeForAPIKeyResponse
    ) -> None:
        """Store the key of an exchange; see `KeySink`."""
        await self.save(response.key, user_id=response.user_id)

    @abc.abstractmethod
    async def save(self, key: str, *, user_id: str | None = None) -> None:
        """Store a key; see `KeySink.save`."""


Save: TypeAlias = Callable[[StoredKey], Awaitable[object]] | Callable[[StoredKey], object]
"""Stores a key. One that is not a coroutine function runs in a thread, so it may block."""


class CallbackSink(BaseKeySink):
    """Pass keys to a callable of the app.

    ::

        client = OpenRouter(on_key=CallbackSink(lambda stored: database.insert(stored.user_id, stored.key)))

    Args:
        callback: See `Save`.
        clock: The source of time.

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
        """Pass a key to the callable; see `KeySink.save`.

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
        except Exception as failure:  # noqa: BLE001 - it becomes the cause of the error
            error = KeySinkError(f"the callback raised {type(failure).__name__}")
            error.__cause__ = without_secrets(failure, (stored.key,))
        else:
            return
        # Raised outside of the handler, so that `__context__` does not hold the callback's exception.
        raise error
