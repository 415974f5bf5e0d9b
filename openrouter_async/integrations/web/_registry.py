"""The logins of an app, which may have several with different routes and hooks."""

from __future__ import annotations

from collections.abc import Mapping

from openrouter_async.errors import RequestValidationError
from openrouter_async.integrations.web._framework import RequestT, ResponseT
from openrouter_async.integrations.web._login import WebLogin


def add_login(
    logins: dict[str, WebLogin[RequestT, ResponseT]], name: str, login: WebLogin[RequestT, ResponseT]
) -> None:
    """Register a login of an app under its name.

    Raises:
        RequestValidationError: The app has another login of this name, or with one of these paths.
    """
    if name in logins:
        raise RequestValidationError("name", "is that of another login of this app")
    taken = {route.path.rstrip("/") for other in logins.values() for route in other.routes}
    for route in login.routes:
        if route.path.rstrip("/") in taken:
            raise RequestValidationError(f"{route.name}_path", "is the path of another route of a login of this app")
        taken.add(route.path.rstrip("/"))
    logins[name] = login


def find_login(
    bound: WebLogin[RequestT, ResponseT] | None, logins: Mapping[str, WebLogin[RequestT, ResponseT]]
) -> WebLogin[RequestT, ResponseT]:
    """Return the login of the route that is called, or else the only login of the app.

    Raises:
        RuntimeError: The app has no login, or more than one.
    """
    if bound is not None:
        return bound
    if len(logins) != 1:
        raise RuntimeError(f"the app has {len(logins)} logins: call the methods of the one that setup returned")
    return next(iter(logins.values()))
