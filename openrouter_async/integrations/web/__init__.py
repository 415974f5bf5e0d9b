"""Sign-in for web apps of any framework. Each supported framework has a module of its own beside this package."""

from openrouter_async.integrations.web._browser import Display
from openrouter_async.integrations.web._cookies import read_cookies
from openrouter_async.integrations.web._failures import LoginFailure, describe
from openrouter_async.integrations.web._framework import (
    FlowOptions,
    Framework,
    LoginOptions,
    OnError,
    OnLogin,
    OnLogout,
    RequestInfo,
    Route,
    StartOptions,
)
from openrouter_async.integrations.web._login import WebLogin
from openrouter_async.integrations.web._results import RenderPage, ResultPage

__all__ = [
    "Display",
    "FlowOptions",
    "Framework",
    "LoginFailure",
    "LoginOptions",
    "OnError",
    "OnLogin",
    "OnLogout",
    "RenderPage",
    "RequestInfo",
    "ResultPage",
    "Route",
    "StartOptions",
    "WebLogin",
    "describe",
    "read_cookies",
]
