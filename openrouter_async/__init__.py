"""The asyncio-native SDK for signing users in with OpenRouter."""

import typing as _typing

from openrouter_async import errors
from openrouter_async._client.client import OpenRouter
from openrouter_async._client.config import ApiKeySource, OnKey
from openrouter_async._client.keys import Keys
from openrouter_async._client.oauth import OAuth
from openrouter_async._client.stats import ClientStats
from openrouter_async._http.chain import Handler, Middleware, Request, Response
from openrouter_async._http.options import RequestOptions
from openrouter_async._http.retry import OnRetry, RetryMiddleware
from openrouter_async._http.retry_policy import RetryPolicy
from openrouter_async._values.clock import Clock
from openrouter_async._values.current_key import CurrentKey, GetCurrentKeyResponse
from openrouter_async._values.models import (
    UNSET,
    AuthKeysCode,
    CodeChallengeMethod,
    CreateAuthKeysCodeRequest,
    CreateAuthKeysCodeResponse,
    ExchangeAuthCodeForAPIKeyRequest,
    ExchangeAuthCodeForAPIKeyResponse,
    HttpMeta,
    Unset,
    UsageLimitType,
)
from openrouter_async._values.version import __version__ as __version__
from openrouter_async.batch import Batch, BatchProgress, ExchangeResult, Journal
from openrouter_async.errors import Attempt, OpenRouterError, Outcome
from openrouter_async.pkce import PKCEPair

__all__ = [
    "UNSET",
    "ApiKeySource",
    "Attempt",
    "AuthKeysCode",
    "Batch",
    "BatchProgress",
    "ClientStats",
    "Clock",
    "CodeChallengeMethod",
    "CreateAuthKeysCodeRequest",
    "CreateAuthKeysCodeResponse",
    "CurrentKey",
    "ExchangeAuthCodeForAPIKeyRequest",
    "ExchangeAuthCodeForAPIKeyResponse",
    "ExchangeResult",
    "GetCurrentKeyResponse",
    "Handler",
    "HttpMeta",
    "Journal",
    "Keys",
    "Middleware",
    "OAuth",
    "OnKey",
    "OnRetry",
    "OpenRouter",
    "OpenRouterError",
    "Outcome",
    "PKCEPair",
    "Request",
    "RequestOptions",
    "Response",
    "RetryMiddleware",
    "RetryPolicy",
    "Unset",
    "UsageLimitType",
    "errors",
]


def _take_home() -> None:
    """Make the public classes say where users import them from, as their pickles and tracebacks show."""
    # The models import the errors, so the errors can name a model only here.
    errors.__dict__.setdefault("ExchangeAuthCodeForAPIKeyResponse", ExchangeAuthCodeForAPIKeyResponse)
    for name in __all__:
        value = globals()[name]
        if isinstance(value, type):
            # Annotations that are strings can be resolved only by the names of the module that they stand in.
            value.__annotations__ = _typing.get_type_hints(value, include_extras=True)
            value.__module__ = __name__


_take_home()
