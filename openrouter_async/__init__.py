"""The asyncio-native SDK for signing users in with OpenRouter."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from openrouter_async import errors
    from openrouter_async.backoff import RetryPolicy
    from openrouter_async.batch import Batch, BatchProgress, ExchangeResult, Journal
    from openrouter_async.chain import Attempt, Handler, Middleware, Request, Response
    from openrouter_async.client import OpenRouter
    from openrouter_async.clock import Clock
    from openrouter_async.errors import Outcome
    from openrouter_async.models import (
        UNSET,
        AuthKeysCode,
        CodeChallengeMethod,
        CreateAuthKeysCodeRequest,
        CreateAuthKeysCodeResponse,
        ExchangeAuthCodeForAPIKeyRequest,
        ExchangeAuthCodeForAPIKeyResponse,
        HttpMeta,
        UsageLimitType,
    )
    from openrouter_async.options import RequestOptions
    from openrouter_async.stats import ClientStats

__version__ = "0.1.0"

# Every pytest run of whoever has the package installed imports it, for its plugin: it must cost nothing until it is
# used. Where each name lives is said a second time for that.
_MODULES: Final = {
    "backoff": ("RetryPolicy",),
    "batch": ("Batch", "BatchProgress", "ExchangeResult", "Journal"),
    "chain": ("Attempt", "Handler", "Middleware", "Request", "Response"),
    "client": ("OpenRouter",),
    "clock": ("Clock",),
    "errors": ("Outcome",),
    "models": (
        "UNSET",
        "AuthKeysCode",
        "CodeChallengeMethod",
        "CreateAuthKeysCodeRequest",
        "CreateAuthKeysCodeResponse",
        "ExchangeAuthCodeForAPIKeyRequest",
        "ExchangeAuthCodeForAPIKeyResponse",
        "HttpMeta",
        "UsageLimitType",
    ),
    "options": ("RequestOptions",),
    "stats": ("ClientStats",),
}
_HOMES: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("openrouter_async.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"openrouter_async.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


__all__ = [
    "UNSET",
    "Attempt",
    "AuthKeysCode",
    "Batch",
    "BatchProgress",
    "ClientStats",
    "Clock",
    "CodeChallengeMethod",
    "CreateAuthKeysCodeRequest",
    "CreateAuthKeysCodeResponse",
    "ExchangeAuthCodeForAPIKeyRequest",
    "ExchangeAuthCodeForAPIKeyResponse",
    "ExchangeResult",
    "Handler",
    "HttpMeta",
    "Journal",
    "Middleware",
    "OpenRouter",
    "Outcome",
    "Request",
    "RequestOptions",
    "Response",
    "RetryPolicy",
    "UsageLimitType",
    "errors",
]
