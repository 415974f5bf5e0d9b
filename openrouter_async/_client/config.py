"""What is set for a client, and how it is checked."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, TypedDict, cast

import attrs
from yarl import URL

from openrouter_async._http.chain import Middleware
from openrouter_async._http.options import (
    Bearer,
    check_header_value,
    check_policy,
    check_timeout,
    to_base_url,
    to_extra_headers,
)
from openrouter_async._http.retry import OnRetry
from openrouter_async._http.retry_policy import RetryPolicy
from openrouter_async._values.models import ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse
from openrouter_async._values.version import __version__
from openrouter_async.errors import RequestValidationError
from openrouter_async.redaction import mask_optional, redact_headers

DEFAULT_BASE_URL: Final = "https://openrouter.ai/api/v1"

ApiKeySource: TypeAlias = Callable[[], "str | None | Awaitable[str | None]"]
"""Gives the API key for one call; it may be a coroutine function."""


OnKey: TypeAlias = Callable[[ExchangeAuthCodeForAPIKeyRequest, ExchangeAuthCodeForAPIKeyResponse], Awaitable[object]]
"""Puts a key into its safe place. It is awaited before any caller gets the key, and also when no caller is left."""


class ClientOptions(TypedDict, total=False):
    """What `OpenRouter.with_options` takes; each as for `OpenRouter`."""

    api_key: str | ApiKeySource | None
    base_url: str | URL
    timeout: float
    retry: RetryPolicy
    middlewares: Iterable[Middleware]
    attempt_middlewares: Iterable[Middleware]
    http_referer: str | None
    x_open_router_title: str | None
    x_open_router_categories: str | None
    headers: Mapping[str, str] | None
    on_key: OnKey | None
    on_retry: OnRetry | None


def _to_api_key(value: object) -> Bearer | ApiKeySource | None:
    if value is None or isinstance(value, Bearer):
        return value
    if callable(value):
        return cast(ApiKeySource, value)
    return Bearer(cast(str, value))


def _to_base_url(value: object) -> URL:
    return to_base_url("base_url", value)


def _to_middlewares(value: Iterable[Middleware]) -> tuple[Middleware, ...]:
    return tuple(value)


def _is_header_value(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        check_header_value(attribute.name, value)


def _is_callable(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not callable(value):
        raise RequestValidationError(attribute.name, "must be callable")


def _is_hook(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (not callable(value) or inspect.iscoroutinefunction(value)):
        raise RequestValidationError(attribute.name, "must be callable, and not async: it is not awaited")


@attrs.frozen(kw_only=True, eq=False)
class Settings:
    """What is set for a client, or for one made from it."""

    api_key: Bearer | ApiKeySource | None = attrs.field(converter=_to_api_key, repr=mask_optional)
    base_url: URL = attrs.field(converter=_to_base_url)
    timeout: float = attrs.field(validator=check_timeout)
    retry: RetryPolicy = attrs.field(validator=check_policy)
    middlewares: tuple[Middleware, ...] = attrs.field(converter=_to_middlewares)
    attempt_middlewares: tuple[Middleware, ...] = attrs.field(converter=_to_middlewares)
    http_referer: str | None = attrs.field(validator=_is_header_value)
    x_open_router_title: str | None = attrs.field(validator=_is_header_value)
    x_open_router_categories: str | None = attrs.field(validator=_is_header_value)
    headers: Mapping[str, str] = attrs.field(converter=to_extra_headers, repr=redact_headers)
    on_key: OnKey | None = attrs.field(validator=_is_callable)
    on_retry: OnRetry | None = attrs.field(validator=_is_hook)

    def request_headers(self) -> dict[str, str]:
        """The headers that all requests have in common, but for the bearer token."""
        own = {
            "Accept": "application/json",
            # A key is shorter than what compression would cost, and a bomb needs compression.
            "Accept-Encoding": "identity",
            "User-Agent": f"openrouter-async/{__version__}",
            "HTTP-Referer": self.http_referer,
            "X-OpenRouter-Title": self.x_open_router_title,
            "X-OpenRouter-Categories": self.x_open_router_categories,
        }
        return merge_headers({name: value for name, value in own.items() if value}, self.headers)


def merge_headers(headers: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Headers with others put in their place, whatever the case of their names."""
    replaced = {name.lower() for name in others}
    return {name: value for name, value in headers.items() if name.lower() not in replaced} | dict(others)


def to_proxy(value: str | URL | None) -> URL | None:
    """Parse the URL of a proxy.

    Raises:
        RequestValidationError: It is not an http or https URL.
    """
    if value is None:
        return None
    try:
        url = URL(value)
    except (ValueError, TypeError):
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise RequestValidationError("proxy", "must be an http or https URL")
    return url


def from_environment(name: str) -> str | None:
    """An environment variable; None when it is not set, or empty."""
    return os.environ.get(name) or None


def base_url_from_environment() -> str:
    """Return ``OPENROUTER_BASE_URL``, or the address of OpenRouter's API."""
    return from_environment("OPENROUTER_BASE_URL") or DEFAULT_BASE_URL
