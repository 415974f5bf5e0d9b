"""Sign-in with OpenRouter for aiohttp apps.

::

    from openrouter_async.integrations import aiohttp as openrouter

    async def on_login(request, grant):
        ...  # keep grant.key

    app = web.Application()
    openrouter.setup(app, callback_url="https://app.example/callback/{state}", on_login=on_login)

A link to ``/login?next=/settings`` signs a user in.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias, Unpack

from aiohttp import web

from openrouter_async._client.client import OpenRouter
from openrouter_async.integrations.web._framework import LoginOptions, RequestInfo, Route, StartOptions, spellings
from openrouter_async.integrations.web._login import WebLogin
from openrouter_async.integrations.web._registry import add_login, find_login
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant, LoginCookie
from openrouter_async.login._pages import PRIVACY_HEADERS
from openrouter_async.sinks._base import KeyVault

__all__ = [
    "CLIENT",
    "FLOW",
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
    framework = _Framework()
    login: _Login = WebLogin(framework, **options)
    if _LOGINS not in app:
        app[_LOGINS] = {}
    add_login(app[_LOGINS], name, login)
    is_first = len(app[_LOGINS]) == 1
    for route in login.routes:
        handler = _bind(login, route)
        for number, spelling in enumerate(spellings(route.path)):
            # Names are unique, so only the first spelling has one.
            added = app.router.add_route("*", spelling, handler, name=None if number else f"{name}-{route.name}")
            framework.note_mount_point(added)

    async def running(app: web.Application) -> AsyncIterator[None]:
        async with login.run():
            if is_first:
                app[CLIENT], app[FLOW] = login.client, login.flow
            yield

    app.cleanup_ctx.append(running)
    return login


def _bind(
    login: _Login, route: Route[web.Request, web.StreamResponse]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        request[_BOUND] = login
        with _private_exceptions():
            return await route.handle(request, request.method)

    return handle


@contextlib.contextmanager
def _private_exceptions() -> Iterator[None]:
    """Add the privacy headers of callbacks to a response that a handler raises, as aiohttp allows."""
    try:
        yield
    except web.HTTPException as raised:
        raised.headers.update(PRIVACY_HEADERS)
        raise


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


async def start_json(request: web.Request, **options: Unpack[StartOptions]) -> web.StreamResponse:
    """Start a login for a page of the app; see `WebLogin.start_json`."""
    return await _get_login(request).start_json(request, **options)


async def finish(request: web.Request) -> web.StreamResponse:
    """Finish a login; see `WebLogin.finish`. It is also the handler of ``callback_path``."""
    with _private_exceptions():
        return await _get_login(request).finish(request)


async def status(request: web.Request) -> web.StreamResponse:
    """Return the status of a login; see `WebLogin.status`."""
    return await _get_login(request).status(request)


async def cancel(request: web.Request) -> web.StreamResponse:
    """Cancel a login; see `WebLogin.cancel`."""
    return await _get_login(request).cancel(request)


async def complete(request: web.Request) -> web.StreamResponse:
    """Finish a login with a code that the user pasted; see `WebLogin.complete`."""
    with _private_exceptions():
        return await _get_login(request).complete(request)


async def exchange(request: web.Request) -> web.StreamResponse:
    """Exchange the code of a page that does PKCE itself; see `WebLogin.exchange`."""
    with _private_exceptions():
        return await _get_login(request).exchange(request)


async def sign_out(
    request: web.Request, *, key: str | None = None, vaults: Iterable[KeyVault] = ()
) -> web.StreamResponse:
    """Forget a user's key, and say where the user can delete it; see `WebLogin.sign_out`."""
    signing_out = _get_login(request).sign_out(request, key=key, vaults=vaults)
    # A traceback that shows local variables would show the key.
    del key
    return await signing_out


def redirect(request: web.Request, grant: Grant) -> web.StreamResponse:
    """Return the answer that leads a signed-in user back into the app; see `WebLogin.redirect`.

    Args:
        request: The request that ``on_login`` received.
        grant: The grant that ``on_login`` received.
    """
    return _get_login(request).redirect(request, grant)


class _Framework:
    def __init__(self) -> None:
        self._resource: web.AbstractResource | None = None
        self._length = 0

    def note_mount_point(self, route: web.AbstractRoute) -> None:
        """Remember a route: its path grows when its app is mounted in another one."""
        self._resource = route.resource
        self._length = 0 if self._resource is None else len(self._resource.canonical)

    def read_request(self, request: web.Request) -> RequestInfo:
        canonical = "" if self._resource is None else self._resource.canonical
        return RequestInfo(
            method=request.method,
            path=request.raw_path.partition("?")[0],
            query=request.raw_path.partition("?")[2],
            headers=request.headers,
            cookie_headers=request.headers.getall("Cookie", ()),
            path_params=request.match_info,
            root_path=canonical[: len(canonical) - self._length],
            address=request.remote,
        )

    async def read_body(self, request: web.Request, max_size: int) -> bytes:
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > max_size:
                return bytes(body)
        # A middleware may have read the body before.
        return bytes(body) or await request.read()

    def respond(self, status: int, body: str, content_type: str = "text/html") -> web.StreamResponse:
        return web.Response(status=status, text=body or None, content_type=content_type if body else None)

    def add_headers(
        self, response: web.StreamResponse, headers: Mapping[str, str], cookies: Sequence[LoginCookie]
    ) -> None:
        response.headers.update(headers)
        for cookie in cookies:
            response.headers.add("Set-Cookie", cookie.header)

    async def stream(
        self, request: web.Request, headers: Mapping[str, str], chunks: AsyncGenerator[bytes, None]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        async with contextlib.aclosing(chunks):
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                async for chunk in chunks:
                    await response.write(chunk)
        return response
