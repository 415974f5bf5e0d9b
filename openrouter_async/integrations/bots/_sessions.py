"""The pending login of each user of a bot, and the callbacks that are parked until their user comes."""

from __future__ import annotations

import logging
import re
import secrets
from collections import deque
from datetime import UTC, datetime
from typing import ClassVar, Final

import attrs
from attrs.validators import instance_of

from openrouter_async._values.clock import Clock
from openrouter_async.errors import RequestValidationError
from openrouter_async.events import Event
from openrouter_async.integrations.bots._prompts import LoginPrompt
from openrouter_async.login._records import JSONRecord, is_moment
from openrouter_async.login._store import TOMBSTONE_TTL, LeaseStore
from openrouter_async.login.errors import LoginError, LoginStoreError
from openrouter_async.redaction._masks import mask

logger = logging.getLogger("openrouter_async.integrations.bots")

TICKET: Final = re.compile(r"ticket-[A-Za-z0-9_-]{32}")
"""The form of the tickets that `BotLogin.park_callback` gives."""

MAX_TICKETS: Final = 1_000
"""The maximum number of tickets of one process, so that a flood of them cannot evict pending logins from the store."""

_MAX_USER_ID_LENGTH: Final = 256
_TICKET_LIFETIME: Final = 600.0


class UnknownTicketError(LoginError):
    """The ticket is unknown or has expired. A pending login of the user is not affected."""

    _user_message = "This link is no longer valid. Please sign in again, or send me the code."
    _restart_login = False


@attrs.frozen(kw_only=True)
class ChatLogin(JSONRecord):
    """The latest login of a user, as it is stored.

    Attributes:
        state: The state of the login.
        url: The page that the user opens.
        renew_at: The time when half of its lifetime is over, in seconds since the epoch.
        expires_at: The time when all of its lifetime is over.
        headless: Whether the page shows a code.
        finished: The hash of the key that the login gave; None if it has given none yet.
    """

    complaint: ClassVar[str] = "the stored value is not a login"

    state: str = attrs.field(repr=mask, validator=instance_of(str))
    url: str = attrs.field(repr=mask, validator=instance_of(str))
    renew_at: float = attrs.field(validator=is_moment)
    expires_at: float = attrs.field(validator=is_moment)
    headless: bool = attrs.field(validator=instance_of(bool))
    finished: str | None = attrs.field(default=None, validator=instance_of(str | None))

    @property
    def prompt(self) -> LoginPrompt:
        """The prompt to show to the user."""
        return LoginPrompt(
            url=self.url, expires_at=datetime.fromtimestamp(self.expires_at, UTC), headless=self.headless
        )


class ChatLogins:
    """The latest login of each user and the parked callbacks, in a key-value store.

    Args:
        store: The store.
        clock: The source of time.
    """

    def __init__(self, store: LeaseStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._tickets: deque[tuple[float, str]] = deque()

    async def find(self, name: str) -> ChatLogin | None:
        """Return the latest login of the user of this name; None if there is none."""
        data = await self._store.get(name, now=self._clock.time())
        try:
            return None if data is None else ChatLogin.from_json(data)
        finally:
            # A traceback that shows local variables would show the state.
            del data

    async def save(self, name: str, login: ChatLogin) -> None:
        """Store a login in place of an earlier one of this user."""
        # Kept slightly longer than the login is valid, to distinguish "expired" from "unknown".
        await self._store.set(name, login.to_json(), now=self._clock.time(), until=login.expires_at + TOMBSTONE_TTL)

    async def delete(self, name: str) -> None:
        """Forget the login of a user."""
        await self._store.delete(name)

    async def end(self, name: str, login: ChatLogin | None) -> None:
        """Store a finished login, or delete it if None is given. A failure of the store is logged, not raised."""
        try:
            await (self.delete(name) if login is None else self.save(name, login))
        except LoginStoreError as failure:
            logger.warning("the end of a login could not be stored: %s", failure, extra={"event": Event.STORE_FAILED})

    async def park(self, callback: str) -> str:
        """Store a callback for ten minutes and return a ticket for it."""
        now = self._clock.time()
        while self._tickets and self._tickets[0][0] <= now:
            self._tickets.popleft()
        until = now + _TICKET_LIFETIME
        ticket = f"ticket-{secrets.token_urlsafe(24)}"
        try:
            if len(self._tickets) >= MAX_TICKETS:
                await self._store.delete(self._tickets.popleft()[1])
            await self._store.set(ticket, callback.encode(), now=now, until=until)
            self._tickets.append((until, ticket))
            return ticket
        finally:
            # Tracebacks that show local variables would show the callback and the ticket.
            del callback, ticket

    async def parked(self, ticket: str) -> str:
        """Return the callback that is parked for a ticket.

        Raises:
            UnknownTicketError: No callback is parked for the ticket.
        """
        try:
            callback = await self._store.get(ticket, now=self._clock.time())
        finally:
            # Tracebacks that show local variables would show the code of the callback.
            del ticket
        if callback is None:
            raise UnknownTicketError("there is no callback for this ticket")
        return callback.decode()


def to_name(user_id: object) -> str:
    """Return the name that a user's login is stored by.

    Raises:
        RequestValidationError: The id is not an int, or a string of 1 to 256 printable characters.
    """
    # A bool is an int, but never a user's id.
    text = str(user_id) if isinstance(user_id, int | str) and not isinstance(user_id, bool) else ""
    if not 0 < len(text) <= _MAX_USER_ID_LENGTH or not text.isprintable():
        raise RequestValidationError(
            "user_id", f"must be an int, or a string of 1 to {_MAX_USER_ID_LENGTH} printable characters"
        )
    return f"user-{text}"
