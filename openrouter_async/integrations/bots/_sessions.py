"""Which login each user of a bot has under way, and the callbacks that wait for their user."""

from __future__ import annotations

import json
import logging
import re
import secrets
from datetime import UTC, datetime
from typing import Final, Self

import attrs

from openrouter_async._values.clock import Clock
from openrouter_async.errors import RequestValidationError
from openrouter_async.integrations.bots._prompts import LoginPrompt
from openrouter_async.integrations.bots._storage import Shelf
from openrouter_async.login._records import TOMBSTONE_TTL, read_fields
from openrouter_async.login.errors import LoginStoreError
from openrouter_async.redaction import mask

logger = logging.getLogger("openrouter_async.integrations.bots")

TICKET: Final = re.compile(r"ticket-[A-Za-z0-9_-]{32}")
"""What `BotLogin.hold` gives."""

_USER_ID_LENGTH: Final = 256
_TICKET_LIFETIME: Final = 600.0


@attrs.frozen(kw_only=True)
class ChatLogin:
    """The latest login of a user, as a shelf holds it.

    Attributes:
        state: Its handle.
        url: The page that the user opens.
        renew_at: When half of its time is over, in seconds since the epoch.
        expires_at: When all of it is.
        headless: Whether the page shows a code.
        finished: The hash of the key that it gave; None when it gave none yet.
    """

    state: str = attrs.field(repr=mask)
    url: str = attrs.field(repr=mask)
    renew_at: float
    expires_at: float
    headless: bool
    finished: str | None = None

    @property
    def prompt(self) -> LoginPrompt:
        """What the user is shown."""
        return LoginPrompt(
            url=self.url, expires_at=datetime.fromtimestamp(self.expires_at, UTC), headless=self.headless
        )

    def to_json(self) -> bytes:
        """The login as bytes; they hold its state."""
        return json.dumps(attrs.asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The login of bytes that `to_json` made.

        Raises:
            LoginStoreError: They are something else.
        """
        return read_fields(cls, data, "what the shelf holds is not a login")


class ChatLogins:
    """The latest login of each user, and callbacks for a while, on a shelf.

    Args:
        shelf: Where they are.
        clock: Where time comes from.
    """

    def __init__(self, shelf: Shelf, clock: Clock) -> None:
        self._shelf = shelf
        self._clock = clock

    def __repr__(self) -> str:
        return repr(self._shelf)

    async def find(self, name: str) -> ChatLogin | None:
        """The latest login of the user of this name."""
        data = await self._shelf.get(name, now=self._clock.time())
        return None if data is None else ChatLogin.from_json(data)

    async def keep(self, name: str, login: ChatLogin) -> None:
        """Keep a login in place of the one before."""
        # A moment longer than the login, so that "expired" can be told from "unknown".
        await self._shelf.put(name, login.to_json(), now=self._clock.time(), until=login.expires_at + TOMBSTONE_TTL)

    async def remove(self, name: str) -> None:
        """Forget the login of a user."""
        await self._shelf.remove(name)

    async def mark(self, name: str, login: ChatLogin | None) -> None:
        """Keep a login that is over, or none; that it is over is worth more than the record of it."""
        try:
            await (self.remove(name) if login is None else self.keep(name, login))
        except LoginStoreError as failure:
            logger.warning("a login that is over could not be marked so: %s", failure)

    async def hold(self, callback: str) -> str:
        """Hold a callback, and give a ticket for it."""
        ticket = f"ticket-{secrets.token_urlsafe(24)}"
        now = self._clock.time()
        await self._shelf.put(ticket, callback.encode(errors="replace"), now=now, until=now + _TICKET_LIFETIME)
        return ticket

    async def held(self, ticket: str) -> str | None:
        """The callback that is held for a ticket; None when there is none, or it is no ticket."""
        held = await self._shelf.get(ticket, now=self._clock.time()) if TICKET.fullmatch(ticket) else None
        return None if held is None else held.decode()


def to_name(user_id: object) -> str:
    """The name by which a user's login is found.

    Raises:
        RequestValidationError: It is not an int, or a string of 1 to 256 printable characters.
    """
    # A bool is an int, and a user's id is never one.
    text = str(user_id) if isinstance(user_id, int | str) and not isinstance(user_id, bool) else ""
    if not 0 < len(text) <= _USER_ID_LENGTH or not text.isprintable():
        raise RequestValidationError(
            "user_id", f"must be an int, or a string of 1 to {_USER_ID_LENGTH} printable characters"
        )
    return f"user-{text}"
