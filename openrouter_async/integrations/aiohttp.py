"""Sign-in with OpenRouter for apps of aiohttp.

::

    from openrouter_async.integrations import aiohttp as openrouter

    async def on_login(request, grant):
        ...  # keep grant.key

    app = web.Application()
    openrouter.setup(app, callback_url="https://app.example/callback/{state}", on_login=on_login)

A link to ``/login?next=/settings`` signs a user in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, Unpack

from aiohttp import web

from openrouter_async._client.client import OpenRouter
from openrouter_async.integrations.web._framework import LoginOptions, RequestInfo, StartOptions
from openrouter_async.integrations.web._login import WebLogin
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant, LoginCookie
from openrouter_async.login._pages import PRIVACY_HEADERS

CLIENT: Final = web.AppKey("openrouter_client", OpenRouter)
"""The key of the client in the app, while the app runs."""
FLOW: Final = web.AppKey("openrouter_flow", AuthorizationFlow)
"""The key of the flow in the app, while the app runs."""
_LOGIN: Final[web.AppKey[WebLogin[web.Request, web.StreamResponse]]] = web.AppKey("openrouter_login", WebLogin)
_LOGIN_ROUTE: Final = "openrouter-login"
_CALLBACK_ROUTE: Final = "openrouter-callback"


def setup(app: web.Application, **options: Unpack[LoginOptions[web.Request, web.StreamResponse]]) -> None:
    """Add the login to an app: its two routes, `CLIENT` and `FLOW`.

    Contexts that were registered in ``app.cleanup_ctx`` earlier stay open until pending exchanges have ended.

    Args:
        app: The app, or a sub-app.
        options: As for `WebLogin`.

    Raises:
        RequestValidationError: An option is not valid.
    """
    login = app[_LOGIN] = WebLogin(_Framework(app), **options)
    if login.login_path is not None:
        app.router.add_get(login.login_path, start, name=_LOGIN_ROUTE, allow_head=False)
    if login.callback_path is not None:
        app.router.add_get(login.callback_path, finish, name=_CALLBACK_ROUTE, allow_head=False)

    async def running(app: web.Application) -> AsyncIterator[None]:
        async with login.run():
            app[CLIENT], app[FLOW] = login.client, login.flow
            yield

    app.cleanup_ctx.append(running)


def get_client(request: web.Request) -> OpenRouter:
    """Return the client of the app."""
    return request.config_dict[_LOGIN].client


def get_flow(request: web.Request) -> AuthorizationFlow:
    """Return the flow of the app."""
    return request.config_dict[_LOGIN].flow


async def start(request: web.Request, **options: Unpack[StartOptions]) -> web.StreamResponse:
    """Start a login; see `WebLogin.start`. It is also the handler of ``login_path``."""
    return await request.config_dict[_LOGIN].start(request, **options)


async def finish(request: web.Request) -> web.StreamResponse:
    """Finish a login; see `WebLogin.finish`. It is also the handler of ``callback_path``."""
    try:
        return await request.config_dict[_LOGIN].finish(request)
    except web.HTTPException as raised:
        # aiohttp handlers may raise their responses.
        raised.headers.update(PRIVACY_HEADERS)
        raise


def redirect(request: web.Request, grant: Grant) -> web.StreamResponse:
    """Return the redirect of a signed-in user back into the app; see `WebLogin.redirect`.

    Args:
        request: The request of the callback.
        grant: The grant that ``on_login`` received.
    """
    return request.config_dict[_LOGIN].redirect(grant)


class _Framework:
    def __init__(self, app: web.Application) -> None:
        self._app = app

    def read_request(self, request: web.Request, login_path: str | None) -> RequestInfo:
        route = self._app.router.get(_LOGIN_ROUTE)
        return RequestInfo(
            method=request.method,
            query=request.raw_path.partition("?")[2],
            headers=request.headers,
            cookies=request.cookies,
            state=request.match_info.get("state"),
            # Not the configured path: the app may be a sub-app.
            login_url=None if route is None else route.canonical,
        )

    def respond(self, status: int, page: str) -> web.StreamResponse:
        return web.Response(status=status, text=page or None, content_type="text/html" if page else None)

    def add_headers(
        self, response: web.StreamResponse, headers: Mapping[str, str], cookies: Sequence[LoginCookie]
    ) -> None:
        response.headers.update(headers)
        for cookie in cookies:
            response.headers.add("Set-Cookie", cookie.header)
