"""What a login gives to the app: the way in, and the key."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, Final

import attrs

from openrouter_async.redaction import mask, mask_key

_LOGS_URL: Final = "https://openrouter.ai/logs?api_key_hash="
_SETTINGS_URL: Final = "https://openrouter.ai/keys/"


@attrs.frozen(kw_only=True)
class LoginCookie:
    """A cookie to set in the user's browser, always ``HttpOnly`` and ``SameSite=Lax``, for the whole host.

    ``Lax`` is as strict as it may be: the browser comes back from another site, and has to bring the cookie along.

    Attributes:
        name: Its name; a secure one starts with ``__Host-``, so that no other host can set it (RFC 6265bis).
        value: Its value; empty to delete it.
        max_age: Seconds that the browser keeps it; 0 deletes it.
        secure: Whether it is sent over https alone.
    """

    name: str
    value: str = attrs.field(repr=mask)
    max_age: int
    secure: bool = True

    @property
    def header(self) -> str:
        """The value of a ``Set-Cookie`` header."""
        secure = "; Secure" if self.secure else ""
        return f"{self.name}={self.value}; Max-Age={self.max_age}; Path=/; HttpOnly; SameSite=Lax{secure}"


@attrs.frozen(kw_only=True)
class PendingLogin:
    """A login that was started. Its verifier stays in the store.

    Attributes:
        url: The page that the user opens.
        state: The login's handle, 256 bits of chance; `AuthorizationFlow.finish_code` takes it.
        expires_at: When it is over, in UTC.
        headless: Whether the page shows the code, instead of sending the browser back.
        cookie: The cookie to set beside the redirect; None when the store needs none.
    """

    url: str = attrs.field(repr=mask)
    state: str = attrs.field(repr=mask)
    expires_at: datetime
    headless: bool = False
    cookie: LoginCookie | None = None


@attrs.frozen(kw_only=True)
class Grant:
    """What a finished login gives.

    Attributes:
        key: The user's API key.
        user_id: The user's id; None when OpenRouter does not tell it.
        context: What the app gave to `AuthorizationFlow.start`, as JSON carries it.
        return_to: The path on the app's own site that it gave; None without.
        cookie: The cookie to set beside the answer, in place of the login's; None when the store needs none.
    """

    key: str = attrs.field(repr=mask_key)
    user_id: str | None = None
    context: Any = attrs.field(default=None, repr=False)
    return_to: str | None = None
    cookie: LoginCookie | None = attrs.field(default=None, eq=False)

    @property
    def key_hash(self) -> str:
        """What OpenRouter's pages name the key by: its SHA-256 in lowercase hex."""
        return hashlib.sha256(self.key.encode()).hexdigest()

    @property
    def logs_url(self) -> str:
        """The page with the requests that this key made."""
        return _LOGS_URL + self.key_hash

    @property
    def settings_url(self) -> str:
        """The page where the user limits or deletes this key."""
        return _SETTINGS_URL + self.key_hash
