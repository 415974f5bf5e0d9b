"""The parameters of the authorization page, and its redirects: rules without HTTP."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from typing import Final, Self
from urllib.parse import quote, urlencode, urlsplit

import attrs
from yarl import URL

from openrouter_async._values.models import MAX_KEY_LABEL_LENGTH, CodeChallengeMethod
from openrouter_async.errors import RequestValidationError
from openrouter_async.redaction._masks import mask_optional
from openrouter_async.testing._authority import to_method

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1"})


class BadAuthorizationError(RequestValidationError):
    """An authorization URL for which OpenRouter would not show a consent page.

    Attributes:
        reason: The fault of the URL.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("url", reason)
        self.reason = reason


@attrs.frozen(kw_only=True)
class Authorization:
    """An app's request for authorization by the user.

    Attributes:
        callback_url: The URL that the user is sent to afterwards; None in a headless login, whose page shows the code.
        code_challenge: The PKCE challenge; None if there is none.
        code_challenge_method: How the challenge was derived; None if the URL does not say.
        state: A value that is returned to the app after consent.
        key_label: The name of the key.
        limit: The credit limit of the key in US dollars.
    """

    callback_url: str | None = attrs.field(default=None, repr=mask_optional)
    code_challenge: str | None = attrs.field(default=None, repr=mask_optional)
    code_challenge_method: CodeChallengeMethod | None = None
    state: str | None = attrs.field(default=None, repr=mask_optional)
    key_label: str | None = None
    limit: float | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Parse an authorization URL; its host does not matter.

        Raises:
            BadAuthorizationError: OpenRouter would not show the page.
        """
        try:
            query = URL(url).query
        except ValueError:
            raise BadAuthorizationError("it is not a URL") from None
        return cls.from_query(query)

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """Parse the parameters of the page.

        Raises:
            BadAuthorizationError: OpenRouter would not show the page.
        """
        callback_url = query.get("callback_url")
        challenge = query.get("code_challenge")
        try:
            method = to_method(query.get("code_challenge_method"))
        except ValueError:
            raise BadAuthorizationError("code_challenge_method must be S256 or plain") from None
        if callback_url is None:
            if challenge is None:
                raise BadAuthorizationError("without a callback_url, a code_challenge is required")
            if method is not CodeChallengeMethod.S256:
                raise BadAuthorizationError("without a callback_url, code_challenge_method must be S256")
        else:
            check_callback_url(callback_url)
        label = query.get("key_label")
        if label is not None and len(label) > MAX_KEY_LABEL_LENGTH:
            raise BadAuthorizationError(f"key_label must have at most {MAX_KEY_LABEL_LENGTH} characters")
        return cls(
            callback_url=callback_url,
            code_challenge=challenge,
            code_challenge_method=method,
            state=query.get("state"),
            key_label=label,
            limit=_to_limit(query.get("limit")),
        )

    @property
    def callback_host(self) -> str | None:
        """The host and port that the user is sent to; None in a headless login."""
        return None if self.callback_url is None else urlsplit(self.callback_url).netloc

    def granted(self, code: str) -> str:
        """Return the callback URL with the code and the state; in a headless login, the bare code."""
        if self.callback_url is None:
            return code
        return _add(self.callback_url, {"code": code} | ({} if self.state is None else {"state": self.state}))

    def denied(self) -> str:
        """Return the callback URL after a denial, without the state, which OpenRouter does not return then.

        Raises:
            BadAuthorizationError: The login is headless, so the browser stays.
        """
        if self.callback_url is None:
            raise BadAuthorizationError("without a callback_url, nobody is told that the user said no")
        return _add(self.callback_url, {"error": "access_denied"})


def check_callback_url(callback_url: str) -> None:
    """Raise unless OpenRouter would send users to a callback URL.

    Raises:
        BadAuthorizationError: The URL is neither https nor http on localhost or 127.0.0.1.
    """
    requirement = "callback_url must be an https URL, or http on localhost or 127.0.0.1"
    try:
        parts = urlsplit(callback_url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise BadAuthorizationError(requirement) from None
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)):
        raise BadAuthorizationError(requirement)
    if any(character <= " " or character == "\x7f" for character in callback_url):
        raise BadAuthorizationError(requirement)
    if "#" in callback_url:
        raise BadAuthorizationError("callback_url must not have a fragment")


def _add(url: str, parameters: Mapping[str, str]) -> str:
    # Apps compare the URL, so its spelling is kept; only non-ASCII characters, which cannot be sent, are encoded.
    ascii_url = quote(url, safe=string.punctuation, errors="replace")
    return f"{ascii_url}{'&' if '?' in url else '?'}{urlencode(parameters)}"


def _to_limit(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not (math.isfinite(limit) and limit >= 0):
        raise BadAuthorizationError("limit must be a number of US dollars, 0 or more")
    return limit
