"""The settings of a client, and their validation."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, TypedDict, cast

import attrs
from multidict import istr
from yarl import URL

from openrouter_async._http.chain import Middleware
from openrouter_async._http.options import (
    Bearer,
    check_header_value,
    to_base_url,
    to_extra_headers,
    to_policy,
)
from openrouter_async._http.retry import OnRetry
from openrouter_async._http.retry_policy import RetryPolicy
from openrouter_async._values.models import (
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    Unset,
)
from openrouter_async._values.validation import check_hook, is_duration, is_flag
from openrouter_async._values.version import __version__
from openrouter_async.errors import RequestValidationError

DEFAULT_BASE_URL: Final = "https://openrouter.ai/api/v1"

ApiKeySource: TypeAlias = Callable[[], str | None | Awaitable[str | None]]
"""A function or coroutine function that returns the API key for one call."""


OnKey: TypeAlias = Callable[
    [ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse], Awaitable[object] | object
]
"""A function or coroutine function of ``(request, response)`` that saves a key.

It has finished before any caller gets the key, and it is called even if every caller was cancelled. If it raises, or
takes longer than ``hook_timeout``, the caller gets a `KeyDeliveryError` that holds the key. It must not wait for its
own exchange: exchanging the same request again raises, and `OpenRouter.aclose` returns at once.
"""


class ClientOptions(TypedDict, total=False):
    """The options of `OpenRouter.with_options`, as for `OpenRouter`; `UNSET` keeps the client's value."""

    api_key: str | ApiKeySource | None | Unset
    base_url: str | URL | Unset
    timeout: float | Unset
    retry: RetryPolicy | None | Unset
    middlewares: Iterable[Middleware] | Unset
    attempt_middlewares: Iterable[Middleware] | Unset
    http_referer: str | None | Unset
    x_open_router_title: str | None | Unset
    x_open_router_categories: str | None | Unset
    headers: Mapping[str, str] | None | Unset
    on_key: OnKey | None | Unset
    on_retry: OnRetry | None | Unset
    authenticate_exchange: bool | Unset
    hook_timeout: float | None | Unset


def _to_api_key(value: object) -> Bearer | ApiKeySource | None:
    if value is None or isinstance(value, Bearer):
        return value
    if callable(value):
        check_hook("api_key", value)
        return cast(ApiKeySource, value)
    return Bearer(cast(str, value))


def _to_base_url(value: object) -> URL:
    return to_base_url("base_url", value)


def _to_middlewares(value: Iterable[Middleware]) -> tuple[Middleware, ...]:
    return tuple(value)


def _is_header_value(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        check_header_value(attribute.name, value)


def _check_on_key(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_hook(attribute.name, value, "request", "response")


def _to_policy(value: RetryPolicy | None) -> RetryPolicy:
    return cast(RetryPolicy, to_policy(value))


def _check_on_retry(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_hook(attribute.name, value, "request", "attempt")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Settings:
    """The settings of one client, some of them secret; a client made by ``with_options`` has its own."""

    api_key: Bearer | ApiKeySource | None = attrs.field(converter=_to_api_key)
    base_url: URL = attrs.field(converter=_to_base_url)
    timeout: float = attrs.field(validator=is_duration)
    retry: RetryPolicy = attrs.field(converter=_to_policy)
    middlewares: tuple[Middleware, ...] = attrs.field(converter=_to_middlewares)
    attempt_middlewares: tuple[Middleware, ...] = attrs.field(converter=_to_middlewares)
    http_referer: str | None = attrs.field(validator=_is_header_value)
    x_open_router_title: str | None = attrs.field(validator=_is_header_value)
    x_open_router_categories: str | None = attrs.field(validator=_is_header_value)
    headers: Mapping[str, str] = attrs.field(converter=to_extra_headers)
    on_key: OnKey | None = attrs.field(validator=_check_on_key)
    on_retry: OnRetry | None = attrs.field(validator=_check_on_retry)
    authenticate_exchange: bool = attrs.field(validator=is_flag)
    hook_timeout: float | None = attrs.field(validator=attrs.validators.optional(is_duration))

    def request_headers(self) -> dict[str, str]:
        """Return the headers that all requests share, without the bearer token."""
        own = {
            "Accept": "application/json",
            # Compression would make such a short response longer, and would allow decompression bombs.
            "Accept-Encoding": "identity",
            "User-Agent": f"openrouter-async/{__version__}",
            "HTTP-Referer": self.http_referer,
            "X-OpenRouter-Title": self.x_open_router_title,
            "X-OpenRouter-Categories": self.x_open_router_categories,
        }
        return merge_headers({name: value for name, value in own.items() if value}, self.headers)


def merge_headers(headers: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Merge headers; an added one replaces those of the same name, regardless of case."""
    replaced = {name.lower() for name in others}
    merged = {name: value for name, value in headers.items() if name.lower() not in replaced} | dict(others)
    # Of an `istr`, multidict does not have to compute the lower-case form for each request.
    return {istr(name): value for name, value in merged.items()}


def from_environment(name: str) -> str | None:
    """Return an environment variable without surrounding whitespace; None when it is not set, or empty.

    Raises:
        RequestValidationError: The value contains a line break or another control character, also an invisible one.
    """
    # Files that programs of Windows wrote may start with a byte order mark.
    value = os.environ.get(name, "").removeprefix("\ufeff").strip()
    if any(unicodedata.category(character).startswith("C") for character in value):
        raise RequestValidationError(name, "must not contain line breaks or other control characters")
    return value or None


def base_url_from_environment() -> str:
    """Return ``OPENROUTER_BASE_URL``, or the address of OpenRouter's API."""
    return from_environment("OPENROUTER_BASE_URL") or DEFAULT_BASE_URL
