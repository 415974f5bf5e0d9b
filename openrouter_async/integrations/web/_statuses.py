"""The statuses of logins whose pages ask for them, shared by all workers through the store of the logins."""

from __future__ import annotations

import hmac
import logging
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal, TypeAlias, get_args

import attrs
from attrs.validators import in_, instance_of

from openrouter_async._values.clock import Clock
from openrouter_async.events import Event
from openrouter_async.integrations.web._browser import BrowserBinding
from openrouter_async.login._records import JSONRecord, digest, is_moment, is_path
from openrouter_async.login._store import TOMBSTONE_TTL, LeaseStore, LoginStore
from openrouter_async.login.errors import LoginStoreError
from openrouter_async.login.stores._cookie import CookieStore
from openrouter_async.login.stores._memory import MemoryStore
from openrouter_async.redaction._masks import mask

logger = logging.getLogger("openrouter_async.integrations.web")

StatusName: TypeAlias = Literal["pending", "finished", "failed"]

_PREFIX: Final = "status:"


def values_beside(store: LoginStore) -> LeaseStore:
    """Return the store of values that goes with a store of logins.

    For an app's own store that keeps no values, that is one in the memory of this process.

    Args:
        store: The store of the logins.
    """
    if isinstance(store, CookieStore):
        return values_beside(store.ledger)
    return store if isinstance(store, LeaseStore) else MemoryStore()


@attrs.frozen(kw_only=True)
class LoginStatus(JSONRecord):
    """The status of a login as it is stored, without a key or a code.

    Attributes:
        binding: The digest of the binding of the browser that started the login, keyed by the login's state.
        expires_at: The end of the login, in seconds since the epoch.
        status: The status.
        return_to: The path to which the user returns; None if the login has none.
        error: The problem (RFC 9457) of a login that failed.
    """

    complaint: ClassVar[str] = "the value in the store is not the status of a login"

    binding: str = attrs.field(repr=mask, validator=instance_of(str))
    expires_at: float = attrs.field(validator=is_moment)
    status: StatusName = attrs.field(default="pending", validator=in_(get_args(StatusName)))
    return_to: str | None = attrs.field(default=None, validator=is_path)
    error: dict[str, Any] | None = attrs.field(default=None, validator=instance_of(dict | None))


class Statuses:
    """Holds the statuses of logins, each for the browser that started it.

    Args:
        values: The store that all workers share.
        clock: The source of time.
    """

    def __init__(self, values: LeaseStore, clock: Clock) -> None:
        self._values = values
        self.clock = clock

    async def begin(self, login: str, binding: BrowserBinding, expires_at: float, return_to: str | None) -> None:
        """Record that a login is pending.

        Args:
            login: The `login_id` of the login.
            binding: The binding of its browser, with the state.
            expires_at: The end of the login, in seconds since the epoch.
            return_to: The path to which the user returns.

        Raises:
            LoginStoreError: The store cannot be reached.
        """
        await self._set(login, LoginStatus(binding=_digest(binding), expires_at=expires_at, return_to=return_to))

    async def find(self, login: str, binding: BrowserBinding | None) -> LoginStatus | None:
        """Return the status of a login to the browser that started it; None to any other, and of an unknown login.

        Args:
            login: The `login_id` of the login.
            binding: The binding of the browser that asks.

        Raises:
            LoginStoreError: The store cannot be reached.
        """
        if binding is None or binding.state is None:
            return None
        data = await self._values.get(_PREFIX + login, now=self.clock.time())
        status = None if data is None else LoginStatus.from_json(data)
        if status is None or not hmac.compare_digest(status.binding.encode(), _digest(binding).encode()):
            return None
        return status

    async def end(
        self,
        login: str,
        binding: BrowserBinding | None,
        status: StatusName,
        *,
        error: dict[str, Any] | None = None,
        return_to: str | None = None,
    ) -> None:
        """Record the end of a login, unless it has no status. A login that is finished stays so.

        A store that cannot be reached is only logged: the login itself must not fail because of it.

        Args:
            login: The `login_id` of the login.
            binding: The binding of the browser that ended it.
            status: The new status.
            error: The problem of a login that failed.
            return_to: The path to which the user returns.
        """
        try:
            before = await self.find(login, binding)
            if before is not None and before.status != "finished":
                await self._set(login, attrs.evolve(before, status=status, error=error, return_to=return_to))
        except LoginStoreError as failure:
            logger.warning(
                "the status of a login could not be recorded: %s", failure, extra={"event": Event.STORE_FAILED}
            )

    async def _set(self, login: str, status: LoginStatus) -> None:
        now = self.clock.time()
        await self._values.set(
            _PREFIX + login, status.to_json(), now=now, until=max(now, status.expires_at) + TOMBSTONE_TTL
        )


def format_time(seconds: float) -> str:
    """Return a time in seconds since the epoch in the format of RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _digest(binding: BrowserBinding) -> str:
    return digest(binding.state or "", "binding", binding.value)
