"""What can be set for one call, and the checks it shares with the client."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs
from yarl import URL

from openrouter_async._http.retry_policy import RetryPolicy, check_number
from openrouter_async.errors import RequestValidationError
from openrouter_async.redaction import mask, redact_headers

# Compiled when they are first needed.
_FIELD_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELD_VALUE: Final = r"[\x20-\x7e\x80-\xff]*"
_BEARER: Final = r"[\x21-\x7e]+"
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
# They describe the body and the connection, which are the transport's business.
_RESERVED_HEADERS: Final = frozenset(
    {"connection", "content-encoding", "content-length", "content-type", "expect", "host", "transfer-encoding"}
)


def to_base_url(field: str, value: object) -> URL:
    """Parse the address of the API.

    Raises:
        RequestValidationError: It is neither https nor http on a loopback host, or has a query, a fragment or
            credentials.
    """
    requirement = "must be an https URL without query, fragment or credentials (http only to a loopback host)"
    if not isinstance(value, (str, URL)):
        raise RequestValidationError(field, requirement)
    try:
        url = URL(value)
        secure = url.scheme == "https" or (url.scheme == "http" and url.host in _LOOPBACK)
        extra = url.raw_query_string or url.raw_fragment or url.raw_user is not None or url.raw_password is not None
    except ValueError:
        raise RequestValidationError(field, requirement) from None
    if not secure or not url.host or extra:
        raise RequestValidationError(field, requirement)
    return url


def to_headers(field: str, value: Mapping[str, str] | None) -> Mapping[str, str]:
    """Check headers that are sent beside the library's own.

    Raises:
        RequestValidationError: A name or value is not what RFC 9110, section 5.5, allows, or belongs to the transport.
    """
    headers = {} if value is None else dict(value)
    for name, text in headers.items():
        if not isinstance(name, str) or not re.fullmatch(_FIELD_NAME, name):
            raise RequestValidationError(field, "names must be tokens (RFC 9110, section 5.6.2)")
        if name.lower() in _RESERVED_HEADERS:
            raise RequestValidationError(field, f"{name} is set by the transport")
        check_header_value(f"{field}[{name!r}]", text)
    return headers


def check_header_value(field: str, value: object) -> None:
    """Refuse a header value that could not be sent, or would be sent as more than one line.

    Raises:
        RequestValidationError: It is not a string of visible characters, spaces and Latin-1.
    """
    if not isinstance(value, str) or not re.fullmatch(_FIELD_VALUE, value):
        raise RequestValidationError(field, "must be a string without line breaks or control characters")


def _is_bearer(_instance: object, _attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not re.fullmatch(_BEARER, value):
        raise RequestValidationError("api_key", "must be a string of visible ASCII characters")


@attrs.frozen
class Bearer:
    """A bearer token (RFC 6750) that does not show itself.

    Raises:
        RequestValidationError: It is not a string of visible ASCII characters.
    """

    token: str = attrs.field(repr=mask, validator=_is_bearer)


def _to_server_url(value: object) -> URL | None:
    return None if value is None else to_base_url("server_url", value)


def to_extra_headers(value: Mapping[str, str] | None) -> Mapping[str, str]:
    """Check the field ``headers``."""
    return to_headers("headers", value)


def check_timeout(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Refuse what is no time limit of an attempt."""
    check_number(attribute.name, value, least=0, exclusive=True)


def check_policy(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Refuse what is no `RetryPolicy`."""
    if not isinstance(value, RetryPolicy):
        raise RequestValidationError(attribute.name, "must be a RetryPolicy")


@attrs.frozen(kw_only=True)
class RequestOptions:
    """What one call does differently from its client.

    Attributes:
        server_url: The address of the API; None keeps the client's.
        timeout: Seconds for one attempt; None keeps the client's.
        retry: The retry policy; None keeps the client's.
        headers: Headers beside the client's; one of the same name goes before it.

    Raises:
        RequestValidationError: A field is not valid.
    """

    server_url: URL | None = attrs.field(default=None, converter=_to_server_url)
    timeout: float | None = attrs.field(default=None, validator=attrs.validators.optional(check_timeout))
    retry: RetryPolicy | None = attrs.field(default=None, validator=attrs.validators.optional(check_policy))
    headers: Mapping[str, str] = attrs.field(
        factory=dict[str, str],
        converter=to_extra_headers,
        repr=redact_headers,
        eq=lambda headers: tuple(sorted(headers.items())),
    )
