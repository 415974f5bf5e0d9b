"""Sign-in with OpenRouter for any ASGI app, without a framework and without an extra.

::

    from openrouter_async.integrations import asgi as openrouter

    async def on_login(request, grant):
        ...  # keep grant.key

    app = openrouter.create_app(app, callback_url="https://app.example/callback/{state}", on_login=on_login)

A link to ``/login?next=/settings`` signs a user in, and all other requests go to the wrapped app. Without a wrapped
app, `create_app` returns an app to mount in another one.

A login runs within the lifespan of its app, or within `lifespan`. If neither runs, it starts with the first request,
and ends with the event loop.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from typing import Final, TypeAlias, Unpack
from urllib.parse import quote

from openrouter_async._client.client import OpenRouter
from openrouter_async.integrations._asgi import App, Receive, Request, Response, Scope, Send, locate
from openrouter_async.integrations._lifespan import Life
from openrouter_async.integrations.web._framework import LoginOptions, RequestInfo, Route, StartOptions
from openrouter_async.integrations.web._login import WebLogin
from openrouter_async.integrations.web._registry import add_login, find_login
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant, LoginCookie
from openrouter_async.sinks._base import KeyVault

__all__ = [
    "LoginApp",
    "Request",
    "Response",
    "cancel",
    "complete",
    "create_app",
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

_Login: TypeAlias = WebLogin[Request, Response]

_LOGINS: Final = "openrouter_logins"
_BOUND: Final = "openrouter_login"
_MOUNT: Final = "openrouter_mount"
_PARAMETERS: Final = "openrouter_parameters"


class LoginApp:
    """An ASGI app with the routes of logins, which `setup` adds.

    The paths of a login may be given as browsers request them, or relative to the path at which this app is mounted.

    Args:
        app: The app that gets all other requests; None answers them with a 404.
    """

    def __init__(self, app: App | None = None) -> None:
        self._app = app
        self._logins: dict[str, _Login] = {}
        self._routes: list[tuple[re.Pattern[str], _Login, Route[Request, Response]]] = []
        self._life = Life(self._logins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on to the wrapped app."""
        if scope["type"] == "lifespan":
            await self._life.serve(scope, receive, send, self._app)
            return
        await self._life.begin()
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif self._app is not None:
            await self._app({**scope, _LOGINS: self._logins}, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            raise NotImplementedError(f"this app has no {scope['type']} connections")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        public, below = locate(scope)
        scope = {**scope, _LOGINS: self._logins, _MOUNT: public.removesuffix(below)}
        for path in (public, below):
            for pattern, login, route in self._routes:
                if (match := pattern.fullmatch(path)) is not None:
                    request = Request({**scope, _BOUND: login, _PARAMETERS: match.groupdict()}, receive)
                    response = await route.handle(request, request.method)
                    await response(scope, receive, send)
                    return
        app = Response(404, "Not Found", {"Content-Type": "text/plain"}) if self._app is None else self._app
        await app(scope, receive, send)

    def add(self, name: str, login: WebLogin[Request, Response]) -> None:
        """Add the routes of a login.

        Args:
            name: The name of the login.
            login: The login.

        Raises:
            RequestValidationError: The app has another login of this name, or with one of these paths.
        """
        add_login(self._logins, name, login)
        for route in login.routes:
            path = re.escape(route.path.removesuffix("/"))
            pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", path) + "/?"
            self._routes.append((re.compile(pattern), login, route))

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Run the logins, and wait for pending exchanges at the end."""
        await self._life.begin()
        try:
            yield
        finally:
            await self._life.end()


def create_app(app: App | None = None, **options: Unpack[LoginOptions[Request, Response]]) -> LoginApp:
    """Return an ASGI app with the routes of a login.

    Args:
        app: The app that gets all other requests; None answers them with a 404, for an app that is mounted in another.
        options: As for `WebLogin`.

    Raises:
        RequestValidationError: An option is not valid.
    """
    login_app = LoginApp(app)
    setup(login_app, **options)
    return login_app


def setup(app: LoginApp, *, name: str = "openrouter", **options: Unpack[LoginOptions[Request, Response]]) -> _Login:
    """Add the routes of a login to an app.

    Args:
        app: The app.
        name: The name of the login, if the app has several.
        options: As for `WebLogin`.

    Returns:
        The login, whose methods the verbs of this module call.

    Raises:
        RequestValidationError: An option is not valid, or clashes with another login of the app.
    """
    login: _Login = WebLogin(_Framework(), **options)
    app.add(name, login)
    return login


def lifespan(app: LoginApp) -> contextlib.AbstractAsyncContextManager[None]:
    """Return the lifespan of a mounted app, which the outer app should enter at its start and leave at its end.

    Most frameworks do not run the lifespan of mounted apps. Without it the logins start with the first request, and
    exchanges whose browsers have disconnected are cut off at the end of the event loop.
    """
    return app.lifespan()


def get_client(request: Request) -> OpenRouter:
    """Return the client of the app."""
    return _get_login(request).client


def get_flow(request: Request) -> AuthorizationFlow:
    """Return the flow of the app."""
    return _get_login(request).flow


async def start(request: Request, **options: Unpack[StartOptions]) -> Response:
    """Start a login; see `WebLogin.start`. It is also the handler of ``login_path``."""
    return await _get_login(request).start(request, **options)


async def start_json(request: Request, **options: Unpack[StartOptions]) -> Response:
    """Start a login for a page of the app; see `WebLogin.start_json`."""
    return await _get_login(request).start_json(request, **options)


async def finish(request: Request) -> Response:
    """Finish a login; see `WebLogin.finish`. It is also the handler of ``callback_path``."""
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


def _get_login(request: Request) -> _Login:
    return find_login(request.scope.get(_BOUND), request.scope.get(_LOGINS, {}))


class _Framework:
    def read_request(self, request: Request) -> RequestInfo:
        scope, headers = request.scope, request.headers
        mount: str = scope.get(_MOUNT, "")
        paths = [route.path for route in _get_login(request).routes if route.name != "callback"]
        if all(path.startswith(f"{mount}/") for path in paths):
            # The paths were given as browsers request them.
            mount = ""
        return RequestInfo(
            method=request.method,
            path=quote(locate(scope)[0], safe="/%:@!$&'()*+,;=-._~"),
            query=scope["query_string"].decode("latin-1"),
            headers=headers,
            cookie_headers=headers.getall("Cookie", ()),
            path_params=scope.get(_PARAMETERS, {}),
            root_path=mount,
            address=scope["client"][0] if scope.get("client") else None,
        )

    async def read_body(self, request: Request, max_size: int) -> bytes:
        return await request.read(max_size)

    def respond(self, status: int, body: str, content_type: str = "text/html") -> Response:
        return Response(status, body, {"Content-Type": f"{content_type}; charset=utf-8"} if body else {})

    def add_headers(self, response: Response, headers: Mapping[str, str], cookies: Sequence[LoginCookie]) -> None:
        response.headers.update(headers)
        for cookie in cookies:
            response.headers.add("Set-Cookie", cookie.header)

    async def stream(
        self, request: Request, headers: Mapping[str, str], chunks: AsyncGenerator[bytes, None]
    ) -> Response:
        return Response(200, chunks, headers)
