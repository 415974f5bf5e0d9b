"""Sign-in with OpenRouter for apps of FastAPI; needs the extra ``fastapi``.

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

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias, Unpack

from openrouter_async._client.client import OpenRouter
from openrouter_async.integrations.starlette import (
    _add_routes,
    _bind,
    attach,
    finish,
    get_client,
    get_flow,
    redirect,
    start,
)
from openrouter_async.integrations.web._framework import LoginOptions
from openrouter_async.integrations.web._login import WebLogin
from openrouter_async.login._flow import AuthorizationFlow

try:
    from fastapi import Depends, FastAPI
    from starlette.requests import Request
    from starlette.responses import RedirectResponse, Response
except ImportError as missing:
    raise ImportError("the integration needs fastapi: pip install 'openrouter-async[fastapi]'") from missing

__all__ = ["Client", "Flow", "finish", "get_client", "get_flow", "redirect", "setup", "start"]

Client: TypeAlias = Annotated[OpenRouter, Depends(get_client)]
"""The dependency of an endpoint on the client of the app."""
Flow: TypeAlias = Annotated[AuthorizationFlow, Depends(get_flow)]
"""The dependency of an endpoint on the flow of the app."""

_TAGS: Final = ["sign-in"]
_HTML: Final[Mapping[str, Any]] = {"content": {"text/html": {"schema": {"type": "string"}}}}
_AFTER_START: Final = {
    200: "A page with a link that starts the sign-in, if another site sent the browser",
    303: "To OpenRouter's page, where the user consents",
    503: "Sign-in is not possible at the moment",
}
_AFTER_CALLBACK: Final = {
    303: "Signed in; back into the app",
    400: "The callback is not valid, or not of this browser",
    403: "The user said no",
    409: "The sign-in is finished already, or just being finished",
    410: "The sign-in took too long",
    429: "OpenRouter rejected too many codes of this address",
    500: "Sign-in is not possible",
    502: "OpenRouter's answer was of no use",
    503: "OpenRouter cannot be reached, or is busy",
}


def setup(
    app: FastAPI, *, name: str = "openrouter", **options: Unpack[LoginOptions[Request, Response]]
) -> WebLogin[Request, Response]:
    """Add the routes of the login and their OpenAPI descriptions to an app, and run the login within its lifespan.

    Args:
        app: The app.
        name: The name of the login, if the app has several.
        options: As for `WebLogin`.

    Returns:
        The login, whose methods the verbs of this module call.

    Raises:
        RequestValidationError: An option is not valid, or clashes with another login of the app.
    """
    login = attach(app, name=name, **options)
    bound = {route.name: _bind(login, route) for route in login.routes}

    async def start_openrouter_login(request: Request) -> Response:
        return await bound["login"](request)

    async def finish_openrouter_login(request: Request) -> Response:
        return await bound["callback"](request)

    if login.login_path is not None:
        app.add_api_route(
            login.login_path,
            start_openrouter_login,
            summary="Sign in with OpenRouter",
            openapi_extra={"parameters": [_parameter("next", "The path on this site to return to", maxLength=512)]},
            **_description(_AFTER_START),
        )
    if login.callback_path is not None:
        parameters = [
            _parameter("code", "The authorization code"),
            _parameter("state", "The state, as it was sent"),
            _parameter("error", "Why there is no code, such as `access_denied`"),
        ]
        if "{state}" in login.callback_path:
            parameters.insert(0, {**_parameter("state", "The state"), "in": "path", "required": True})
        app.add_api_route(
            login.callback_path,
            finish_openrouter_login,
            summary="Come back from OpenRouter",
            openapi_extra={"parameters": parameters},
            **_description(_AFTER_CALLBACK),
        )
    # The other methods and the spellings with another slash, which the description leaves out.
    _add_routes(app, login, name)
    return login


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": description,
        "schema": {"type": "string", **schema},
    }


def _description(answers: Mapping[int, str]) -> dict[str, Any]:
    responses = {status: {"description": text, **_HTML} for status, text in answers.items()}
    location = {"description": "Where to go", "schema": {"type": "string"}}
    responses[303] = {"description": answers[303], "headers": {"Location": location}}
    return {
        "methods": ["GET"],
        "tags": list(_TAGS),
        "status_code": 303,
        "response_class": RedirectResponse,
        "response_model": None,
        "responses": responses,
    }
