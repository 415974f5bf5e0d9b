"""Signing users in with OpenRouter by PKCE: in a web app, headless, or on the user's own computer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant, LoginCookie, PendingLogin
from openrouter_async.login._urls import AUTHORIZATION_URL, authorization_url, validate_return_to
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
from openrouter_async.login.stores._memory import MemoryStore

if TYPE_CHECKING:
    from openrouter_async.encryption import generate_encryption_key
    from openrouter_async.login._loopback import LoopbackLogin
    from openrouter_async.login.stores._cookie import CookieStore
    from openrouter_async.login.stores._redis import RedisStore

# They need an extra, or aiohttp's server, which not every login does.
_ON_DEMAND: Final = {
    "CookieStore": "openrouter_async.login.stores._cookie",
    "LoopbackLogin": "openrouter_async.login._loopback",
    "RedisStore": "openrouter_async.login.stores._redis",
    "generate_encryption_key": "openrouter_async.encryption",
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
    "CookieStore",
    "Grant",
    "InvalidCallbackError",
    "InvalidCookieError",
    "LoginAlreadyUsedError",
    "LoginBindingError",
    "LoginCookie",
    "LoginError",
    "LoginExpiredError",
    "LoginInProgressError",
    "LoginLostError",
    "LoginStoreError",
    "LoginTimeoutError",
    "LoopbackLogin",
    "LoopbackUnavailableError",
    "MemoryStore",
    "PendingLogin",
    "RedisStore",
    "StateMismatchError",
    "UnknownLoginError",
    "authorization_url",
    "generate_encryption_key",
    "validate_return_to",
]
