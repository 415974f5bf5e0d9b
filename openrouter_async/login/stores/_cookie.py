"""Logins in the browser that they belong to; needs the extra ``cookie``."""

from __future__ import annotations

import math
from typing import Final

import attrs

from openrouter_async.encryption import DecryptionError, Encryptor, Keys
from openrouter_async.errors import RequestValidationError
from openrouter_async.login._models import LoginCookie
from openrouter_async.login._records import Claim, ClaimRequest, ClaimStatus, KeyRecord, LoginRecord, LoginStore
from openrouter_async.login.errors import InvalidCookieError, LoginExpiredError
from openrouter_async.login.stores._memory import MemoryStore

# Browsers must keep 4096 bytes of name, value and attributes (RFC 6265, section 6.1).
_LARGEST: Final = 4000


class CookieStore:
    """Holds a pending login in the browser, encrypted and authenticated, so that nothing is stored by the app.

    Each login has a cookie of its own: logins in two tabs do not overwrite each other. Having the cookie shows that it
    is the same browser, also without a ``binding``.

    A cookie cannot know that it was used. That is in the ledger: by default the memory of this process, so that a
    second callback that meets another worker is refused by OpenRouter, which takes a code once. With a `RedisStore` as
    the ledger all workers know, and Redis holds only logins that came back.

    Args:
        keys: Fernet keys, by `generate_encryption_key`. The first one seals, all of them open: to rotate, put a new one
            in front, and drop the old one when the lifetime of a login has passed.
        ledger: The store for logins that came back.
        name: What the cookies' names start with.
        secure: Whether the cookies are for https alone. Turn it off only to try an app over plain http.

    Raises:
        RequestValidationError: An argument is not valid.
    """

    def __init__(
        self, keys: Keys, *, ledger: LoginStore | None = None, name: str = "openrouter-login", secure: bool = True
    ) -> None:
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise RequestValidationError("name", "must be of letters, digits, - and _")
        self._encryptor = Encryptor(keys)
        self._ledger: LoginStore = MemoryStore() if ledger is None else ledger
        self._prefix = f"__Host-{name}-" if secure else f"{name}-"
        self._secure = secure

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._prefix}*>"

    async def put(self, login: LoginRecord, *, now: float) -> LoginCookie | None:
        """Give the login as a cookie; see `LoginStore.put`.

        Raises:
            RequestValidationError: The cookie would be too large for browsers.
        """
        cookie = self._cookie(
            login.id, self._encryptor.encrypt(f"cookie {login.id}", login.to_json()).decode(), login.expires_at - now
        )
        if len(cookie.header) > _LARGEST:
            raise RequestValidationError("context", f"must be smaller: the cookie may have {_LARGEST} bytes")
        return cookie

    async def claim(self, claimant: ClaimRequest, *, now: float, lease: float) -> Claim:
        """Give the login to the claimant, or say why not; see `LoginStore.claim`.

        Raises:
            InvalidCookieError: The cookie is not one that was made here for this login.
            LoginExpiredError: It is older than any ledger remembers.
        """
        value = claimant.cookies.get(self._name(claimant.login_id))
        if value is None:
            return Claim(status=ClaimStatus.UNKNOWN)
        login = self._open(claimant.login_id, value)
        await self._ledger.put(login, now=now)
        claim = await self._ledger.claim(claimant, now=now, lease=lease)
        if claim.status is ClaimStatus.UNKNOWN and login.expires_at <= now:
            # The ledger forgot at once what was put there: it is over since long.
            raise LoginExpiredError("the login took longer than its lifetime")
        return attrs.evolve(claim, same_browser=True)

    async def restore(self, claimant: ClaimRequest, *, now: float) -> None:
        """Make the claimant's login pending again; see `LoginStore.restore`."""
        await self._ledger.restore(claimant, now=now)

    async def finish(
        self, claimant: ClaimRequest, result: KeyRecord | None, *, now: float, keep: float
    ) -> LoginCookie | None:
        """Make the login spent; see `LoginStore.finish`.

        The cookie stays as long as the result does: the browser needs it to ask again.
        """
        await self._ledger.finish(claimant, result, now=now, keep=keep)
        kept = 0.0 if result is None else keep
        value = claimant.cookies.get(self._name(claimant.login_id), "") if kept else ""
        return self._cookie(claimant.login_id, value, kept)

    def _name(self, login_id: str) -> str:
        return self._prefix + login_id[:16]

    def _cookie(self, login_id: str, value: str, seconds: float) -> LoginCookie:
        return LoginCookie(
            name=self._name(login_id), value=value, max_age=max(0, math.ceil(seconds)), secure=self._secure
        )

    def _open(self, login_id: str, value: str) -> LoginRecord:
        if len(value) <= _LARGEST and value.isascii():
            try:
                return LoginRecord.from_json(self._encryptor.decrypt(f"cookie {login_id}", value.encode()))
            except DecryptionError:
                pass
        raise InvalidCookieError("the login's cookie is altered, cut off, or sealed with a key that is not in use")
