"""Signing users in with OpenRouter by PKCE: in a web app, headless, or on the user's own computer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from openrouter_async.login.errors import (
    AuthorizationDeniedError,
    AuthorizationError,
    InvalidCallbackError,
    InvalidCookieError,
    LoginAlreadyUsedError,
    LoginBindingError,
    LoginError,
    LoginExpiredError,
    LoginInProgressError,
    LoginLostError,
    LoginStoreError,
    LoginTimeoutError,
    LoopbackUnavailableError,
    StateMismatchError,
    UnknownLoginError,
)
from openrouter_async.login.flow import AuthorizationFlow
from openrouter_async.login.models import Grant, LoginCookie, PendingLogin
from openrouter_async.login.records import Claim, Claimant, ClaimStatus, KeyRecord, LoginRecord, Store
from openrouter_async.login.stores.memory import MemoryStore
from openrouter_async.login.urls import AUTHORIZATION_URL, authorization_url, validate_return_to

if TYPE_CHECKING:
    from openrouter_async.login.loopback import LoopbackLogin
    from openrouter_async.login.stores.cookie import CookieStore
    from openrouter_async.login.stores.redis import RedisStore
    from openrouter_async.sealing import generate_key

# They need an extra, or aiohttp's server, which not every login does.
_ON_DEMAND: Final = {
    "CookieStore": "openrouter_async.login.stores.cookie",
    "LoopbackLogin": "openrouter_async.login.loopback",
    "RedisStore": "openrouter_async.login.stores.redis",
    "generate_key": "openrouter_async.sealing",
}


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return getattr(import_module(_ON_DEMAND[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AUTHORIZATION_URL",
    "AuthorizationDeniedError",
    "AuthorizationError",
    "AuthorizationFlow",
    "Claim",
    "ClaimStatus",
    "Claimant",
    "CookieStore",
    "Grant",
    "InvalidCallbackError",
    "InvalidCookieError",
    "KeyRecord",
    "LoginAlreadyUsedError",
    "LoginBindingError",
    "LoginCookie",
    "LoginError",
    "LoginExpiredError",
    "LoginInProgressError",
    "LoginLostError",
    "LoginRecord",
    "LoginStoreError",
    "LoginTimeoutError",
    "LoopbackLogin",
    "LoopbackUnavailableError",
    "MemoryStore",
    "PendingLogin",
    "RedisStore",
    "StateMismatchError",
    "Store",
    "UnknownLoginError",
    "authorization_url",
    "generate_key",
    "validate_return_to",
]
