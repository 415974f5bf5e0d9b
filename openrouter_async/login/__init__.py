"""Signing users in with OpenRouter by PKCE: in a web app, headless, or on the user's own computer."""

from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._loopback import LoopbackLogin
from openrouter_async.login._models import Grant, LoginCookie, PendingLogin
from openrouter_async.login._progress import LoginState, LoginStatus
from openrouter_async.login._session import LoginSession
from openrouter_async.login._terminal import TerminalPrompt
from openrouter_async.login._urls import AUTHORIZATION_URL, authorization_url, validate_return_to
from openrouter_async.login.errors import (
    AuthorizationDeniedError,
    AuthorizationError,
    CodeRejectedError,
    InvalidCallbackError,
    InvalidCookieError,
    KeyRefusedError,
    LoginAlreadyUsedError,
    LoginBindingError,
    LoginCancelledError,
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
from openrouter_async.login.stores._cookie import CookieStore
from openrouter_async.login.stores._memory import MemoryStore, MemoryStoreStats
from openrouter_async.login.stores._redis import RedisStore, RedisStoreStats

__all__ = [
    "AUTHORIZATION_URL",
    "AuthorizationDeniedError",
    "AuthorizationError",
    "AuthorizationFlow",
    "CodeRejectedError",
    "CookieStore",
    "Grant",
    "InvalidCallbackError",
    "InvalidCookieError",
    "KeyRefusedError",
    "LoginAlreadyUsedError",
    "LoginBindingError",
    "LoginCancelledError",
    "LoginCookie",
    "LoginError",
    "LoginExpiredError",
    "LoginInProgressError",
    "LoginLostError",
    "LoginSession",
    "LoginState",
    "LoginStatus",
    "LoginStoreError",
    "LoginTimeoutError",
    "LoopbackLogin",
    "LoopbackUnavailableError",
    "MemoryStore",
    "MemoryStoreStats",
    "PendingLogin",
    "RedisStore",
    "RedisStoreStats",
    "StateMismatchError",
    "TerminalPrompt",
    "UnknownLoginError",
    "authorization_url",
    "validate_return_to",
]
