"""The state of one login, and its changes."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
from collections.abc import Iterator
from typing import Any, Final

import attrs

from openrouter_async.errors import OpenRouterError
from openrouter_async.login._models import Grant
from openrouter_async.login._problems import kind_of, type_of
from openrouter_async.login.errors import LoginCancelledError

_UNEXPECTED: Final = "Something went wrong. Please try again."


class LoginStatus(enum.StrEnum):
    """The status of a login."""

    PENDING = "pending"
    """The login waits for the user."""
    EXCHANGING = "exchanging"
    """A code is being exchanged for a key."""
    FINISHED = "finished"
    """The user is signed in."""
    FAILED = "failed"
    """The login ended with an error."""
    CANCELLED = "cancelled"
    """The app cancelled the login."""


@attrs.frozen(kw_only=True)
class LoginState:
    """The state of a login at one moment.

    Attributes:
        status: The status.
        grant: The result of a finished login; None otherwise.
        error: The error of a failed login; while a login is pending, the error of its last code or callback.
    """

    status: LoginStatus
    grant: Grant | None = None
    error: Exception | None = attrs.field(default=None, eq=False)

    @property
    def is_over(self) -> bool:
        """Return whether this state is the last one."""
        return self.status not in (LoginStatus.PENDING, LoginStatus.EXCHANGING)

    @property
    def message(self) -> str | None:
        """Return a sentence about the error, or about a key that OpenRouter refuses, that is safe to show to the user.

        None if there is nothing to say.
        """
        error = self.grant.key_error if self.grant is not None else self.error
        if error is None:
            return None
        return error.user_message if isinstance(error, OpenRouterError) else _UNEXPECTED

    def to_dict(self) -> dict[str, Any]:
        """Return the state as values for JSON, without the key.

        The members of an ``error`` are those of a web login's problem (RFC 9457): ``type``, such as
        ``urn:openrouter-async:login-expired``, ``detail``, ``outcome``, ``restart_login`` and ``retry_after``.
        """
        error = self.grant.key_error if self.grant is not None else self.error
        described: dict[str, Any] | None = None
        if error is not None:
            described = {"type": type_of(kind_of(error)), "detail": self.message}
            if isinstance(error, OpenRouterError):
                described |= {
                    "outcome": error.outcome.value,
                    "restart_login": error.restart_login,
                    "retry_after": None if error.retry_after is None else math.ceil(error.retry_after),
                }
        return {
            "status": self.status.value,
            "user_id": None if self.grant is None else self.grant.user_id,
            "error": described,
        }


class LoginProgress:
    """The current state of a login, which the callback, pasted codes, the clock and the app compete to change.

    Attributes:
        state: The state. It is replaced as a whole, so that any thread may read it.
        is_closing: Whether the app is giving up the login, so that only those who listen already get its result.
    """

    def __init__(self) -> None:
        self.state = LoginState(status=LoginStatus.PENDING)
        self.is_closing = False
        self._listeners = 0
        self._changed = asyncio.Event()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Count the caller among those who get the result of the login."""
        self._listeners += 1
        try:
            yield
        finally:
            self._listeners -= 1

    def deliver(self, grant: Grant) -> bool:
        """Finish the login, and return whether anybody can still get the grant."""
        return self._tell(LoginState(status=LoginStatus.FINISHED, grant=grant))

    def fail(self, error: Exception) -> bool:
        """End the login with an error, and return whether anybody can still get the error."""
        return self._tell(LoginState(status=LoginStatus.FAILED, error=error))

    def cancel(self) -> bool:
        """Cancel the login, and return whether it was still open."""
        error = LoginCancelledError("the login was cancelled")
        return self._change(LoginState(status=LoginStatus.CANCELLED, error=error))

    def advance(self, status: LoginStatus, error: Exception | None = None) -> None:
        """Change the status of a login that is not over, and the error of its last attempt."""
        self._change(LoginState(status=status, error=error))

    async def next(self, seen: LoginState | None) -> LoginState:
        """Wait until the state is no longer the one that was seen, and return the new one."""
        with self.listening():
            while self.state is seen:
                await self._changed.wait()
        return self.state

    async def end(self) -> LoginState:
        """Wait until the login is over, and return its last state."""
        state = self.state
        while not state.is_over:
            state = await self.next(state)
        return state

    def _tell(self, state: LoginState) -> bool:
        if self._change(state):
            return self._listeners > 0 or not self.is_closing
        return self.state.status is not LoginStatus.CANCELLED

    def _change(self, state: LoginState) -> bool:
        if self.state.is_over:
            return False
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
        return True
