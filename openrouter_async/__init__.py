"""The asyncio-native SDK for signing users in with OpenRouter."""

import inspect as _inspect

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
    """Set the module of the public classes to the one that users import them from, for pickles and tracebacks."""
    # The models import the errors, so the annotations of the errors can be completed only here.
    errors.__dict__.setdefault("ExchangeAuthCodeForAPIKeyResponse", ExchangeAuthCodeForAPIKeyResponse)
    for name in __all__:
        value = globals()[name]
        if isinstance(value, type):
            # String annotations are resolved with the names of the module in which they are written.
            value.__annotations__ = _inspect.get_annotations(value, eval_str=True)
            value.__module__ = __name__


_take_home()
