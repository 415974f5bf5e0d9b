"""Pending logins in cookies; needs the extra ``cookie``."""

from __future__ import annotations

import contextlib
import math
from typing import Final

import attrs

from openrouter_async._values.encryptor import DecryptionError, EncryptionKeys, Encryptor
from openrouter_async._values.frames import hide_arguments
from openrouter_async.errors import RequestValidationError
from openrouter_async.login._models import LoginCookie
from openrouter_async.login._store import Claim, ClaimRequest, ClaimStatus, LeaseItem, LoginStore
from openrouter_async.login.errors import InvalidCookieError, LoginExpiredError
from openrouter_async.login.stores._memory import MemoryStore

# Browsers must keep 4096 bytes of name, value and attributes (RFC 6265, section 6.1).
_MAX_SIZE: Final = 4000


class CookieStore:
    """Holds a pending login in the browser, encrypted and authenticated, so that the app stores nothing.

    Each login has a cookie of its own, so logins in two tabs do not overwrite each other. The cookie itself shows that
    the callback comes from the same browser, even without a ``binding``.

    A cookie cannot record that it was used; the ledger does. By default that is the memory of this process, so a second
    callback on another worker is refused by OpenRouter, which accepts a code only once. With a `RedisStore` as the
    ledger all workers share this knowledge, and Redis holds only logins whose browser came back. Public sites should
    have one: a flood of callbacks can evict records from a ledger in memory.

    Args:
        encryption_keys: Fernet keys, by `openrouter_async.encryption.generate_encryption_key`. The first one encrypts,
            all of them decrypt: to rotate, put a new one in front, and drop the old one after the lifetime of a login.
        ledger: The store for logins whose browser came back.
        name: The start of the names of the cookies.
        secure: Whether the cookies are for https alone. Turn it off only to try an app over plain http.

    Raises:
        ImportError: cryptography is not installed.
        RequestValidationError: An argument is not valid.
    """

    @hide_arguments
    def __init__(
        self,
        encryption_keys: EncryptionKeys,
        *,
        ledger: LoginStore | None = None,
        name: str = "openrouter-login",
        secure: bool = True,
    ) -> None:
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise RequestValidationError("name", "must consist of letters, digits, - and _")
        self._encryptor = Encryptor(encryption_keys)
        self._ledger: LoginStore = MemoryStore() if ledger is None else ledger
        self._prefix = f"__Host-{name}-" if secure else f"{name}-"
        self._secure = secure

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._prefix}*>"

    @property
    def ledger(self) -> LoginStore:
        """Return the store for logins whose browser came back."""
        return self._ledger

    async def put(self, item: LeaseItem, *, now: float) -> LoginCookie | None:
        """Encrypt the login into a cookie; see `LoginStore.put`.

        Raises:
            RequestValidationError: The cookie would be too large for browsers.
        """
        data = b" ".join((repr(item.expires_at).encode(), item.binding.encode(), item.value))
        value = self._encryptor.encrypt(f"cookie {item.id}", data).decode()
        cookie = self._cookie(item.id, value, item.expires_at - now)
        if len(cookie.header) > _MAX_SIZE:
            raise RequestValidationError("context", f"must be smaller: the cookie may have at most {_MAX_SIZE} bytes")
        return cookie

    async def claim(self, claim_request: ClaimRequest, *, now: float, claim_ttl: float) -> Claim:
        """Claim the login of a cookie; see `LoginStore.claim`.

        Raises:
            InvalidCookieError: The cookie was not made by this store for this login.
            LoginExpiredError: The login is older than any ledger remembers.
        """
        value = claim_request.cookies.get(self._name(claim_request.id))
        if value is None:
            return Claim(status=ClaimStatus.UNKNOWN)
        item = self._open(claim_request.id, value)
        await self._ledger.put(item, now=now)
        claim = await self._ledger.claim(claim_request, now=now, claim_ttl=claim_ttl)
        if claim.status is ClaimStatus.UNKNOWN and item.expires_at <= now:
            # The ledger dropped the record at once, because it expired long ago.
            raise LoginExpiredError("the login took longer than its lifetime")
        return attrs.evolve(claim, same_browser=True)

    async def release(self, claim_request: ClaimRequest, *, now: float) -> None:
        """Make the login pending again; see `LoginStore.release`."""
        await self._ledger.release(claim_request, now=now)

    async def finish(
        self, claim_request: ClaimRequest, result: bytes | None, *, now: float, result_ttl: float
    ) -> LoginCookie | None:
        """End the login; see `LoginStore.finish`.

        The cookie stays for as long as the result, because a repeated callback needs it.
        """
        await self._ledger.finish(claim_request, result, now=now, result_ttl=result_ttl)
        kept = 0.0 if result is None else result_ttl
        value = claim_request.cookies.get(self._name(claim_request.id), "") if kept else ""
        return self._cookie(claim_request.id, value, kept)

    def _name(self, login_id: str) -> str:
        return self._prefix + login_id[:16]

    def _cookie(self, login_id: str, value: str, seconds: float) -> LoginCookie:
        return LoginCookie(
            name=self._name(login_id), value=value, max_age=max(0, math.ceil(seconds)), secure=self._secure
        )

    def _open(self, login_id: str, value: str) -> LeaseItem:
        if len(value) <= _MAX_SIZE and value.isascii():
            with contextlib.suppress(DecryptionError):
                data = self._encryptor.decrypt(f"cookie {login_id}", value.encode())
                expires_at, binding, data = data.split(b" ", 2)
                return LeaseItem(id=login_id, value=data, binding=binding.decode(), expires_at=float(expires_at))
        raise InvalidCookieError("the login's cookie was altered, cut off, or encrypted with a key that is not in use")
