"""The values that a login gives to the app: the pending login, its cookie, and the grant."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, Final

import attrs

from openrouter_async._values.current_key import CurrentKey
from openrouter_async.errors import OpenRouterError
from openrouter_async.redaction._masks import mask, mask_key

LOGS_URL: Final = "https://openrouter.ai/logs?api_key_hash="
SETTINGS_URL: Final = "https://openrouter.ai/keys/"


@attrs.frozen(kw_only=True)
class LoginCookie:
    """A cookie to set in the user's browser, always ``HttpOnly`` and ``SameSite=Lax``, for the whole host.

    ``Strict`` would not work: the browser comes back from another site, and has to send the cookie then.

    Attributes:
        name: The name; that of a secure cookie starts with ``__Host-``, so that no other host can set it (RFC 6265bis).
        value: The value; empty to delete the cookie.
        max_age: The seconds for which the browser keeps the cookie; 0 deletes it.
        secure: Whether the cookie is sent over https alone.
    """

    name: str
    value: str = attrs.field(repr=mask)
    max_age: int
    secure: bool = True

    @property
    def header(self) -> str:
        """Return the value of a ``Set-Cookie`` header."""
        secure = "; Secure" if self.secure else ""
        return f"{self.name}={self.value}; Max-Age={self.max_age}; Path=/; HttpOnly; SameSite=Lax{secure}"


@attrs.frozen(kw_only=True)
class PendingLogin:
    """A login that was started. Its verifier stays in the store.

    Attributes:
        url: The URL of the page that the user opens.
        state: The random 256-bit identifier of the login; `AuthorizationFlow.finish_code` takes it.
        expires_at: The end of the login, in UTC.
        headless: Whether the page shows the code instead of sending the browser back.
        cookie: The cookie to set beside the redirect; None when the store needs none.
    """

    url: str = attrs.field(repr=mask)
    state: str = attrs.field(repr=mask)
    expires_at: datetime
    headless: bool = False
    cookie: LoginCookie | None = None


@attrs.frozen(kw_only=True)
class Grant:
    """The result of a finished login.

    Attributes:
        key: The user's API key.
        user_id: The user's id; None when OpenRouter does not send it.
        context: The ``context`` of `AuthorizationFlow.start`, after a round trip through JSON.
        return_to: The ``return_to`` of `AuthorizationFlow.start`, a path on the app's own site; None if there was none.
        cookie: The cookie to set beside the answer, in place of the login's; None when the store needs none.
        current_key: The state of the key, if the flow was to ``verify`` it; None otherwise, and if it is not known.
        key_error: Why OpenRouter refuses the key, if the flow was to ``verify`` it; None if it does not.
    """

    key: str = attrs.field(repr=mask_key)
    user_id: str | None = None
    context: Any = attrs.field(default=None, repr=False)
    return_to: str | None = None
    cookie: LoginCookie | None = attrs.field(default=None, eq=False)
    current_key: CurrentKey | None = attrs.field(default=None, eq=False)
    key_error: OpenRouterError | None = attrs.field(default=None, eq=False)

    @property
    def key_hash(self) -> str:
        """Return the SHA-256 of the key in lowercase hex, by which OpenRouter's pages name it."""
        return hashlib.sha256(self.key.encode()).hexdigest()

    @property
    def logs_url(self) -> str:
        """Return the URL of the page with the requests that this key made."""
        return LOGS_URL + self.key_hash

    @property
    def settings_url(self) -> str:
        """Return the URL of the page where the user limits or deletes this key."""
        return SETTINGS_URL + self.key_hash
