"""The asyncio-native SDK for signing users in with OpenRouter."""

from openrouter_async import errors
from openrouter_async.backoff import RetryPolicy
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

__version__ = "0.1.0"

__all__ = [
    "UNSET",
    "Attempt",
    "AuthKeysCode",
    "Clock",
    "CodeChallengeMethod",
    "CreateAuthKeysCodeRequest",
    "CreateAuthKeysCodeResponse",
    "ExchangeAuthCodeForAPIKeyRequest",
    "ExchangeAuthCodeForAPIKeyResponse",
    "Handler",
    "HttpMeta",
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
