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

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeAlias, Unpack

from aiohttp import web

from openrouter_async._client.client import OpenRouter
from openrouter_async.integrations.web._framework import LoginOptions, RequestInfo, StartOptions, spellings
from openrouter_async.integrations.web._login import WebLogin
from openrouter_async.integrations.web._registry import add_login, find_login
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant, LoginCookie
from openrouter_async.login._pages import PRIVACY_HEADERS

__all__ = ["finish", "get_client", "get_flow", "redirect", "setup", "start"]

CLIENT: Final = web.AppKey("openrouter_client", OpenRouter)
"""The key of the client in the app, while the app runs."""
FLOW: Final = web.AppKey("openrouter_flow", AuthorizationFlow)
"""The key of the flow in the app, while the app runs."""
_Login: TypeAlias = WebLogin[web.Request, web.StreamResponse]
_LOGINS: Final[web.AppKey[dict[str, _Login]]] = web.AppKey("openrouter_logins", dict)
_BOUND: Final[web.RequestKey[_Login]] = web.RequestKey("openrouter_login", WebLogin)


def setup(
    app: web.Application, *, name: str = "openrouter", **options: Unpack[LoginOptions[web.Request, web.StreamResponse]]
) -> WebLogin[web.Request, web.StreamResponse]:
    """Add the routes of a login to an app, with `CLIENT` and `FLOW`.

    Contexts that were registered in ``app.cleanup_ctx`` earlier stay open until pending exchanges have ended.

    Args:
        app: The app, or a sub-app.
        name: The name of the login, if the app has several; `CLIENT` and `FLOW` are those of the first.
        options: As for `WebLogin`.

    Returns:
        The login, whose methods the verbs of this module call.

    Raises:
        RequestValidationError: An option is not valid, or clashes with another login of the app.
    """
    login: _Login = WebLogin(_Framework(app, f"{name}-login"), **options)
    if _LOGINS not in app:
        app[_LOGINS] = {}
    add_login(app[_LOGINS], name, login)
    is_first = len(app[_LOGINS]) == 1
    _add_route(app, login, login.login_path, f"{name}-login", start)
    _add_route(app, login, login.callback_path, f"{name}-callback", finish)

    async def running(app: web.Application) -> AsyncIterator[None]:
        async with login.run():
            if is_first:
                app[CLIENT], app[FLOW] = login.client, login.flow
            yield

    app.cleanup_ctx.append(running)
    return login


def _add_route(
    app: web.Application,
    login: _Login,
    path: str | None,
    name: str,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        request[_BOUND] = login
        return await handler(request) if request.method in {"GET", "HEAD"} else login.refuse_method()

    for number, spelling in enumerate(() if path is None else spellings(path)):
        app.router.add_route("*", spelling, handle, name=None if number else name)


def _get_login(request: web.Request) -> _Login:
    logins: dict[str, _Login] = request.config_dict.get(_LOGINS, {})
    return find_login(request.get(_BOUND), logins)


def get_client(request: web.Request) -> OpenRouter:
    """Return the client of the app."""
    return _get_login(request).client


def get_flow(request: web.Request) -> AuthorizationFlow:
    """Return the flow of the app."""
    return _get_login(request).flow


async def start(request: web.Request, **options: Unpack[StartOptions]) -> web.StreamResponse:
    """Start a login; see `WebLogin.start`. It is also the handler of ``login_path``."""
    return await _get_login(request).start(request, **options)


async def finish(request: web.Request) -> web.StreamResponse:
    """Finish a login; see `WebLogin.finish`. It is also the handler of ``callback_path``."""
    try:
        return await _get_login(request).finish(request)
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
    return _get_login(request).redirect(grant)


class _Framework:
    def __init__(self, app: web.Application, route: str) -> None:
        self._app = app
        self._route = route

    def read_request(self, request: web.Request, login_path: str | None) -> RequestInfo:
        route = self._app.router.get(self._route)
        return RequestInfo(
            method=request.method,
            path=request.raw_path.partition("?")[0],
            query=request.raw_path.partition("?")[2],
            headers=request.headers,
            cookie_headers=request.headers.getall("Cookie", ()),
            state=request.match_info.get("state"),
            # Not the configured path: the app may be a sub-app.
            login_url=None if route is None else route.canonical,
            address=request.remote,
        )

    def respond(self, status: int, page: str) -> web.StreamResponse:
        return web.Response(status=status, text=page or None, content_type="text/html" if page else None)

    def add_headers(
        self, response: web.StreamResponse, headers: Mapping[str, str], cookies: Sequence[LoginCookie]
    ) -> None:
        response.headers.update(headers)
        for cookie in cookies:
            response.headers.add("Set-Cookie", cookie.header)
