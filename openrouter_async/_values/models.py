"""Requests and responses: immutable values, validated on construction.

Source: the operations ``exchangeAuthCodeForAPIKey`` and ``createAuthKeysCode`` of OpenRouter's API reference,
https://openrouter.ai/docs/api-reference; RFC 7636 for the verifier and the challenge.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal
from uuid import UUID

import attrs
from yarl import URL

from openrouter_async._values.frames import hide_init_arguments
from openrouter_async._values.validation import is_finite_number
from openrouter_async.errors import RequestValidationError
from openrouter_async.redaction._masks import mask, mask_key, mask_optional

LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1"})
"""The hosts that OpenRouter accepts with plain http in a callback URL."""

MAX_KEY_LABEL_LENGTH: Final = 100
"""The maximum number of characters of a ``key_label``."""

_VERIFIER: Final = re.compile(r"[A-Za-z0-9\-._~]{43,128}")
_INVISIBLE: Final = re.compile(r"[\x00-\x20\x7f]")


class Unset(enum.Enum):
    """The type of `UNSET`."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> Literal[False]:
        return False


UNSET: Final = Unset.UNSET
"""Marks a field to leave out of the request; None is sent as null."""


class CodeChallengeMethod(enum.StrEnum):
    """The method by which a code challenge is derived from its verifier (RFC 7636, section 4.2)."""

    S256 = "S256"
    PLAIN = "plain"


class UsageLimitType(enum.StrEnum):
    """The interval at which the credit limit of a key resets."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


# Looking a method up in a dict takes a fifth of the time of calling the enum.
_METHODS: Final[Mapping[object, CodeChallengeMethod | None | Unset]] = {
    **{method.value: method for method in CodeChallengeMethod},
    None: None,
    UNSET: UNSET,
}
_USAGE_LIMIT_TYPES: Final[Mapping[object, UsageLimitType | None]] = {
    **{limit_type.value: limit_type for limit_type in UsageLimitType},
    None: None,
}


def _to_method(value: object) -> CodeChallengeMethod | None | Unset:
    try:
        return _METHODS[value]
    except (KeyError, TypeError):
        raise RequestValidationError("code_challenge_method", "must be one of S256, plain") from None


def _to_usage_limit_type(value: object) -> UsageLimitType | None:
    try:
        return _USAGE_LIMIT_TYPES[value]
    except (KeyError, TypeError):
        raise RequestValidationError("usage_limit_type", "must be one of daily, weekly, monthly") from None


def _to_workspace_id(value: object) -> str | None:
    if value is None:
        return None
    try:
        return str(value if isinstance(value, UUID) else UUID(value))  # type: ignore[arg-type]
    except (ValueError, AttributeError, TypeError):
        raise RequestValidationError("workspace_id", "must be a UUID") from None


def _to_utc(value: object) -> datetime | None | Unset:
    if value is None or isinstance(value, Unset):
        return value
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise RequestValidationError("expires_at", "must be a datetime with a time zone")
    try:
        return value.astimezone(UTC).replace(microsecond=0)
    except OverflowError:
        raise RequestValidationError("expires_at", "must be a time between the years 1 and 9999 in UTC") from None


def _to_url_text(value: str | URL) -> str:
    return str(value) if isinstance(value, URL) else value


def parse_url(value: str | URL) -> URL:
    """Parse a URL and its host.

    Raises:
        ValueError: There is no host, or one that cannot be decoded, or the text is not valid Unicode.
    """
    # yarl drops lone surrogates silently, and looks at hosts such as "xn--a" or "[::g]" only when they are asked for.
    str(value).encode()
    url = URL(value)
    if not URL(str(url)).host:
        raise ValueError("no host")
    return url


def _is_text(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not value:
        raise RequestValidationError(attribute.name, "must be a string that is not empty")
    if not value.isascii():
        _is_valid_unicode(_instance, attribute, value)


def _is_valid_unicode(_instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RequestValidationError(attribute.name, "must not contain lone surrogates") from None


def to_code_challenge_method(value: object) -> CodeChallengeMethod:
    """Parse a challenge method; it is case-sensitive, because servers do not know ``s256``.

    Raises:
        RequestValidationError: The method is neither ``S256`` nor ``plain``.
    """
    try:
        return CodeChallengeMethod(value)  # type: ignore[arg-type]
    except ValueError:
        raise RequestValidationError("code_challenge_method", "must be S256 or plain; the case matters") from None


def validate_code_verifier(field: str, value: object) -> str:
    """Check a code verifier.

    Args:
        field: The name to use in the message.
        value: The verifier.

    Raises:
        RequestValidationError: The verifier does not match RFC 7636, section 4.1.
    """
    if not isinstance(value, str) or not _VERIFIER.fullmatch(value):
        raise RequestValidationError(field, "must be 43 to 128 characters of A-Z a-z 0-9 - . _ ~ (RFC 7636)")
    return value


def _is_verifier(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        validate_code_verifier(attribute.name, value)


def validate_callback_url(field: str, value: object) -> URL:
    """Parse and check a callback URL.

    Args:
        field: The name to use in the message.
        value: The URL as a string.

    Returns:
        The parsed URL.

    Raises:
        RequestValidationError: The URL is neither https nor http on localhost or 127.0.0.1, or has a fragment or
            credentials.
    """
    requirement = "must be an https URL, or http on localhost or 127.0.0.1"
    # URL parsers drop control characters and spaces silently, so the checked URL would differ from the one sent.
    if not isinstance(value, str) or _INVISIBLE.search(value):
        raise RequestValidationError(field, requirement)
    try:
        url = parse_url(value)
        has_credentials = (url.raw_user, url.raw_password) != (None, None)
        accepted = url.scheme == "https" or (url.scheme == "http" and url.raw_host in LOOPBACK_HOSTS)
    except ValueError:
        raise RequestValidationError(field, requirement) from None
    if not accepted:
        raise RequestValidationError(field, requirement)
    if has_credentials:
        raise RequestValidationError(field, "must not carry a user name or password")
    if "#" in value:
        raise RequestValidationError(field, "must not have a fragment (RFC 6749, section 3.1.2)")
    return url


def _is_callback_url(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    validate_callback_url(attribute.name, value)


def _is_limit(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not is_finite_number(value) or value < 0:
        raise RequestValidationError(attribute.name, "must be a finite number of US dollars, 0 or more")


def _is_key_label(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_KEY_LABEL_LENGTH):
        raise RequestValidationError(attribute.name, f"must be a string of at most {MAX_KEY_LABEL_LENGTH} characters")
    if value is not None:
        _is_valid_unicode(_instance, attribute, value)


def _is_challenge(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        _is_text(_instance, attribute, value)


@hide_init_arguments
@attrs.frozen(kw_only=True)
class ExchangeAuthCodeForAPIKeyRequest:
    """The body of ``POST /auth/keys``.

    Attributes:
        code: The authorization code, from the redirect or pasted by the user.
        code_verifier: The verifier whose challenge started the login (RFC 7636); None leaves it out.
        code_challenge_method: How the challenge was derived; `UNSET` leaves it out, None is sent as null.

    Raises:
        RequestValidationError: A field does not match the API's documentation.
    """

    code: str = attrs.field(repr=mask, validator=_is_text)
    code_verifier: str | None = attrs.field(default=None, repr=mask_optional, validator=_is_verifier)
    code_challenge_method: CodeChallengeMethod | None | Unset = attrs.field(default=UNSET, converter=_to_method)


@hide_init_arguments
@attrs.frozen(kw_only=True)
class CreateAuthKeysCodeRequest:
    """The body of ``POST /auth/keys/code``.

    Attributes:
        callback_url: The URL that the user is sent to after consent: https, or http on localhost or 127.0.0.1.
        code_challenge: The PKCE challenge; None leaves it out.
        code_challenge_method: How the challenge was derived; needs a challenge. None leaves it out.
        limit: The credit limit of the key in US dollars; None leaves it out: no limit.
        usage_limit_type: When the limit resets; None leaves it out: never.
        expires_at: When the key expires, a datetime with a time zone, sent in UTC to the second;
            `UNSET` leaves it out, None is sent as null.
        key_label: The name of the key, at most 100 characters; None leaves it out: the app's name.
        workspace_id: The UUID of the workspace that the key belongs to; None leaves it out.

    Raises:
        RequestValidationError: A field does not match the API's documentation.
    """

    callback_url: str = attrs.field(converter=_to_url_text, validator=_is_callback_url)
    code_challenge: str | None = attrs.field(default=None, validator=_is_challenge)
    code_challenge_method: CodeChallengeMethod | None | Unset = attrs.field(default=UNSET, converter=_to_method)
    limit: float | None = attrs.field(default=None, validator=_is_limit)
    usage_limit_type: UsageLimitType | None = attrs.field(default=None, converter=_to_usage_limit_type)
    expires_at: datetime | None | Unset = attrs.field(default=UNSET, converter=_to_utc)
    key_label: str | None = attrs.field(default=None, validator=_is_key_label)
    workspace_id: str | None = attrs.field(default=None, converter=_to_workspace_id)

    def __attrs_post_init__(self) -> None:
        if self.code_challenge_method and self.code_challenge is None:
            raise RequestValidationError("code_challenge_method", "must come with a code_challenge")


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """Return the id of an answer, to quote to support: its ``X-Request-Id``, else its ``CF-Ray``."""
    return headers.get("X-Request-Id") or headers.get("CF-Ray")


# Creating an instance of a frozen class with slots takes three times as long. The classes that hold secrets have slots
# nevertheless: some loggers write the `__dict__` of objects.
@attrs.frozen(kw_only=True, slots=False)
class HttpMeta:
    """The HTTP metadata of an answer.

    Attributes:
        status_code: The HTTP status.
        headers: The headers of the answer.
        attempts: How often the request was sent, including the attempt that got this answer.
        elapsed: Seconds from the call to the answer, including waits.
    """

    status_code: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False, hash=False)
    attempts: int = 1
    elapsed: float = 0.0

    @property
    def request_id(self) -> str | None:
        """The id to quote to OpenRouter's support: ``X-Request-Id``, else ``CF-Ray``; None without either."""
        return request_id_of(self.headers)


@attrs.frozen(kw_only=True)
class ExchangeAuthCodeForAPIKeyResponse:
    """The answer of ``POST /auth/keys``.

    Attributes:
        key: The user's API key.
        user_id: The user's id; None if the answer has none, or an invalid one.
        http_meta: The HTTP metadata of the answer; ignored by ``==``.
    """

    key: str = attrs.field(repr=mask_key)
    user_id: str | None = None
    http_meta: HttpMeta = attrs.field(factory=HttpMeta, eq=False, repr=False)


@attrs.frozen(kw_only=True)
class AuthKeysCode:
    """A created authorization code.

    Attributes:
        id: The authorization code.
        app_id: The id of the app that it belongs to.
        created_at: The time of creation, with its time zone.
    """

    id: str = attrs.field(repr=mask)
    app_id: int
    created_at: datetime


@attrs.frozen(kw_only=True)
class CreateAuthKeysCodeResponse:
    """The answer of ``POST /auth/keys/code``.

    Attributes:
        data: The created code.
        http_meta: The HTTP metadata of the answer; ignored by ``==``.
    """

    data: AuthKeysCode
    http_meta: HttpMeta = attrs.field(factory=HttpMeta, eq=False, repr=False)
