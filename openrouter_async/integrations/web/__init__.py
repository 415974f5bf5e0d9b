"""Sign-in for web apps of any framework. Each supported framework has a module of its own beside this package."""

from openrouter_async.integrations.web._cookies import read_cookies
from openrouter_async.integrations.web._failures import LoginFailure, describe
from openrouter_async.integrations.web._framework import (
    FlowOptions,
    Framework,
    LoginOptions,
    OnError,
    OnLogin,
    RequestInfo,
    Route,
    StartOptions,
)
from openrouter_async.integrations.web._login import WebLogin

__all__ = [
    "FlowOptions",
    "Framework",
    "LoginFailure",
    "LoginOptions",
    "OnError",
    "OnLogin",
    "RequestInfo",
    "Route",
    "StartOptions",
    "WebLogin",
    "describe",
    "read_cookies",
]
