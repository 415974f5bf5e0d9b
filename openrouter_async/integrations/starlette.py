"""Sign-in with OpenRouter for Starlette apps; needs the extra ``starlette``.

::

    from openrouter_async.integrations import starlette as openrouter

    async def on_login(request, grant):
        ...  # keep grant.key

    app = Starlette()
    openrouter.setup(app, callback_url="https://app.example/callback/{state}", on_login=on_login)

A link to ``/login?next=/settings`` signs a user in.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Unpack
from urllib.parse import quote

from openrouter_async._client.client import OpenRouter
from openrouter_async.integrations.web._framework import LoginOptions, RequestInfo, Route, StartOptions, spellings
from openrouter_async.integrations.web._login import WebLogin
from openrouter_async.integrations.web._registry import add_login, find_login
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant, LoginCookie
from openrouter_async.sinks._base import KeyVault

try:
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response, StreamingResponse
except ImportError as missing:
    raise ImportError("the integration needs starlette: pip install 'openrouter-async[starlette]'") from missing

__all__ = [
    "cancel",
    "complete",
    "exchange",
    "finish",
    "get_client",
    "get_flow",
    "lifespan",
    "redirect",
    "setup",
    "sign_out",
    "start",
    "start_json",
    "status",
]

_LOGINS: Final = "openrouter_logins"
_BOUND: Final = "openrouter_login"
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def setup(
    app: Starlette, *, name: str = "openrouter", **options: Unpack[LoginOptions[Request, Response]]
) -> WebLogin[Request, Response]:
    """Add the routes of a login to an app, and run the login within the app's lifespan.

    Args:
        app: The app.
        name: The name of the login, if the app has several.
        options: As for `WebLogin`.

    Returns:
        The login, whose methods the verbs of this module call.

    Raises:
        RequestValidationError: An option is not valid, or clashes with another login of the app.
    """
    login = _attach(app, name, **options)
    _add_routes(app, login, name)
    return login


def _add_routes(app: Starlette, login: WebLogin[Request, Response], name: str) -> None:
    """Add the routes of a login that was attached to an app.

    Args:
        app: The app.
        login: The login.
        name: The prefix of the names of the routes.
    """
    for route in login.routes:
        for spelling in spellings(route.path):
            app.router.add_route(spelling, _bind(login, route), methods=_METHODS, name=f"{name}-{route.name}")


def _bind(
    login: WebLogin[Request, Response], route: Route[Request, Response]
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of a route, in which the verbs of this module use `login`."""

    async def handle(request: Request) -> Response:
        request.scope[_BOUND] = login
        return await route.handle(request, request.method)

    return handle


def lifespan(app: Starlette) -> contextlib.AbstractAsyncContextManager[object]:
    """Return the lifespan of a mounted app, which the outer app must enter at its start and leave at its end."""
    return app.router.lifespan_context(app)


def _attach(
    app: Starlette, name: str, **options: Unpack[LoginOptions[Request, Response]]
) -> WebLogin[Request, Response]:
    """Run a login within the lifespan of an app, without adding routes."""
    login = WebLogin(_Framework(), **options)
    logins = getattr(app.state, _LOGINS, None)
    if logins is None:
        logins = {}
        setattr(app.state, _LOGINS, logins)
    add_login(logins, name, login)
    outer = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def running(app: Any) -> AsyncIterator[Any]:
        async with outer(app) as state, login.run():
            yield state

    app.router.lifespan_context = running
    return login


def get_client(request: HTTPConnection) -> OpenRouter:
    """Return the client of the app."""
    return _get_login(request).client


def get_flow(request: HTTPConnection) -> AuthorizationFlow:
    """Return the flow of the app."""
    return _get_login(request).flow


async def start(request: Request, **options: Unpack[StartOptions]) -> Response:
    """Start a login; see `WebLogin.start`. It is also the endpoint of ``login_path``."""
    return await _get_login(request).start(request, **options)


async def start_json(request: Request, **options: Unpack[StartOptions]) -> Response:
    """Start a login for a page of the app; see `WebLogin.start_json`."""
    return await _get_login(request).start_json(request, **options)


async def finish(request: Request) -> Response:
    """Finish a login; see `WebLogin.finish`. It is also the endpoint of ``callback_path``."""
    return await _get_login(request).finish(request)


async def status(request: Request) -> Response:
    """Return the status of a login; see `WebLogin.status`."""
    return await _get_login(request).status(request)


async def cancel(request: Request) -> Response:
    """Cancel a login; see `WebLogin.cancel`."""
    return await _get_login(request).cancel(request)


async def complete(request: Request) -> Response:
    """Finish a login with a code that the user pasted; see `WebLogin.complete`."""
    return await _get_login(request).complete(request)


async def exchange(request: Request) -> Response:
    """Exchange the code of a page that does PKCE itself; see `WebLogin.exchange`."""
    return await _get_login(request).exchange(request)


async def sign_out(request: Request, *, key: str | None = None, vaults: Iterable[KeyVault] = ()) -> Response:
    """Forget a user's key, and say where the user can delete it; see `WebLogin.sign_out`."""
    signing_out = _get_login(request).sign_out(request, key=key, vaults=vaults)
    # A traceback that shows local variables would show the key.
    del key
    return await signing_out


def redirect(request: Request, grant: Grant) -> Response:
    """Return the answer that leads a signed-in user back into the app; see `WebLogin.redirect`.

    Args:
        request: The request that ``on_login`` received.
        grant: The grant that ``on_login`` received.
    """
    return _get_login(request).redirect(request, grant)


def _get_login(request: HTTPConnection) -> WebLogin[Request, Response]:
    return find_login(request.scope.get(_BOUND), getattr(request.app.state, _LOGINS, {}))


class _Framework:
    def read_request(self, request: Request) -> RequestInfo:
        return RequestInfo(
            method=request.method,
            path=quote(request.scope["path"], safe="/%:@!$&'()*+,;=-._~"),
            query=request.scope["query_string"].decode("latin-1"),
            headers=request.headers,
            cookie_headers=request.headers.getlist("cookie"),
            path_params=request.path_params,
            root_path=request.scope.get("root_path", ""),
            address=None if request.client is None else request.client.host,
        )

    async def read_body(self, request: Request, max_size: int) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_size:
                break
        return bytes(body)

    def respond(self, status: int, body: str, content_type: str = "text/html") -> Response:
        return Response(body, status, media_type=content_type) if body else Response(None, status)

    def add_headers(self, response: Response, headers: Mapping[str, str], cookies: Sequence[LoginCookie]) -> None:
        response.headers.update(headers)
        for cookie in cookies:
            response.headers.append("Set-Cookie", cookie.header)

    async def stream(
        self, request: Request, headers: Mapping[str, str], chunks: AsyncGenerator[bytes, None]
    ) -> Response:
        async def closing() -> AsyncGenerator[bytes, None]:
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    yield chunk

        return StreamingResponse(closing(), headers=headers)
