"""Options for one call, and the checks that they share with the client's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs
from yarl import URL

from openrouter_async._http.retry_policy import RetryPolicy
from openrouter_async._values.frames import hide_init_arguments
from openrouter_async._values.models import UNSET, Unset, parse_url
from openrouter_async._values.validation import is_duration
from openrouter_async.errors import RequestValidationError
from openrouter_async.redaction._masks import mask, redact_headers

# Strings, which `re` compiles and caches on first use.
_FIELD_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELD_VALUE: Final = r"[\x20-\x7e\x80-\xff]*"
_CONTROL_OR_SPACE: Final = r"[\x00-\x20\x7f]"
_BEARER: Final = r"[\x21-\x7e]+"
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
# The transport sets these headers: they describe the body and the connection.
_RESERVED_HEADERS: Final = frozenset(
    {"connection", "content-encoding", "content-length", "content-type", "expect", "host", "transfer-encoding"}
)


def to_base_url(field: str, value: object) -> URL:
    """Parse the address of the API.

    Raises:
        RequestValidationError: The URL is neither https nor http to a loopback host, or has a query, a fragment or
            credentials.
    """
    requirement = "must be an https URL without query, fragment or credentials (http only to a loopback host)"
    # yarl would drop tabs and line breaks, also from the middle of a host.
    if not isinstance(value, (str, URL)) or re.search(_CONTROL_OR_SPACE, str(value)):
        raise RequestValidationError(field, requirement)
    try:
        url = parse_url(value)
        secure = url.scheme == "https" or (url.scheme == "http" and url.host in _LOOPBACK)
        has_credentials = (url.raw_user, url.raw_password) != (None, None)
        extra = url.raw_query_string or url.raw_fragment or has_credentials
    except ValueError:
        raise RequestValidationError(field, requirement) from None
    if not secure or extra:
        raise RequestValidationError(field, requirement)
    return url


def to_headers(field: str, value: Mapping[str, str] | None) -> Mapping[str, str]:
    """Check headers that are added to the library's own.

    Raises:
        RequestValidationError: RFC 9110, section 5.5, does not allow a name or value, or the transport sets the header.
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
    """Raise if a header value cannot be sent, or would be sent as more than one line.

    Raises:
        RequestValidationError: The value is not a string of visible characters, spaces and Latin-1.
    """
    if not isinstance(value, str) or not re.fullmatch(_FIELD_VALUE, value):
        raise RequestValidationError(field, "must be a string without line breaks or control characters")


def _is_bearer(_instance: object, _attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not re.fullmatch(_BEARER, value):
        raise RequestValidationError("api_key", "must be a string of visible ASCII characters")


@hide_init_arguments
@attrs.frozen
class Bearer:
    """A bearer token (RFC 6750) whose repr is masked.

    Raises:
        RequestValidationError: The token is not a string of visible ASCII characters.
    """

    token: str = attrs.field(repr=mask, validator=_is_bearer)


def _to_server_url(value: object) -> URL | Unset:
    return value if isinstance(value, Unset) else to_base_url("server_url", value)


def to_extra_headers(value: Mapping[str, str] | None) -> Mapping[str, str]:
    """Check the field ``headers``."""
    return to_headers("headers", value)


def to_policy(value: RetryPolicy | None | Unset) -> RetryPolicy | Unset:
    """Return the policy for an argument ``retry``: None stands for no retries.

    Raises:
        RequestValidationError: The value is not a policy.
    """
    if value is None:
        return RetryPolicy.none()
    if not isinstance(value, (RetryPolicy, Unset)):
        raise RequestValidationError("retry", "must be a RetryPolicy")
    return value


def _check_timeout_if_set(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Unset):
        is_duration(_instance, attribute, value)


@hide_init_arguments
@attrs.frozen(kw_only=True)
class RequestOptions:
    """The options in which one call differs from its client.

    Attributes:
        server_url: The address of the API; by default the client's.
        timeout: Seconds for one attempt; by default the client's.
        retry: The retry policy; by default the client's. None retries nothing.
        headers: More headers; each replaces the client's header of the same name.

    Raises:
        RequestValidationError: A field is not valid.
    """

    server_url: URL | Unset = attrs.field(default=UNSET, converter=_to_server_url)
    timeout: float | Unset = attrs.field(default=UNSET, validator=_check_timeout_if_set)
    retry: RetryPolicy | Unset = attrs.field(default=UNSET, converter=to_policy)
    headers: Mapping[str, str] = attrs.field(
        factory=dict[str, str],
        converter=to_extra_headers,
        repr=redact_headers,
        eq=lambda headers: tuple(sorted(headers.items())),
    )
