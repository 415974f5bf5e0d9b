"""Sign-in with OpenRouter for FastAPI apps; needs the extra ``fastapi``.

::

    from openrouter_async.integrations import fastapi as openrouter

    async def on_login(request: Request, grant: Grant) -> None:
        ...  # keep grant.key

    app = FastAPI()
    openrouter.setup(app, callback_url="https://app.example/callback/{state}", on_login=on_login)

    @app.post("/bots/{bot}/connect", response_class=RedirectResponse, status_code=303)
    async def connect(request: Request, bot: int):
        return await openrouter.start(request, context={"bot": bot})

    @app.get("/pending")
    async def pending(flow: openrouter.Flow): ...

A link to ``/login?next=/settings`` signs a user in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias, Unpack

from openrouter_async._client.client import OpenRouter
from openrouter_async.integrations.web._framework import LoginOptions, spellings
from openrouter_async.integrations.web._login import WebLogin
from openrouter_async.login._flow import AuthorizationFlow

try:
    from fastapi import Depends, FastAPI, params
    from starlette.requests import Request
    from starlette.responses import Response

    from openrouter_async.integrations._fastapi_schema import describe
    from openrouter_async.integrations.starlette import (
        _add_routes,
        _attach,
        _bind,
        cancel,
        complete,
        exchange,
        finish,
        get_client,
        get_flow,
        redirect,
        sign_out,
        start,
        start_json,
        status,
    )
except ImportError as missing:
    raise ImportError("the integration needs fastapi: pip install 'openrouter-async[fastapi]'") from missing

__all__ = [
    "Client",
    "Flow",
    "cancel",
    "complete",
    "exchange",
    "finish",
    "get_client",
    "get_flow",
    "redirect",
    "setup",
    "sign_out",
    "start",
    "start_json",
    "status",
]

Client: TypeAlias = Annotated[OpenRouter, Depends(get_client)]
"""The dependency of an endpoint on the client of the app."""
Flow: TypeAlias = Annotated[AuthorizationFlow, Depends(get_flow)]
"""The dependency of an endpoint on the flow of the app."""


def setup(
    app: FastAPI,
    *,
    name: str = "openrouter",
    dependencies: Sequence[params.Depends] = (),
    **options: Unpack[LoginOptions[Request, Response]],
) -> WebLogin[Request, Response]:
    """Add the routes of the login and their OpenAPI descriptions to an app, and run the login within its lifespan.

    Args:
        app: The app.
        name: The name of the login, if the app has several.
        dependencies: The dependencies of every route of the login, as for an ``APIRouter``.
        options: As for `WebLogin`.

    Returns:
        The login, whose methods the verbs of this module call.

    Raises:
        RequestValidationError: An option is not valid, or clashes with another login of the app.
    """
    login = _attach(app, name, **options)
    for route in login.routes:
        for spelling in spellings(route.path):
            for method in route.handlers:
                app.add_api_route(
                    spelling,
                    _bind(login, route),
                    methods=[method],
                    name=f"{name}-{route.name}",
                    dependencies=dependencies,
                    include_in_schema=spelling == route.path,
                    **describe(route.name, method, route.path),
                )
    # Refuse the methods that a route does not have.
    _add_routes(app, login, name)
    return login
