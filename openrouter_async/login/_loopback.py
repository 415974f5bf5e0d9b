"""Signing in on the user's own computer: the browser comes back to a local port (RFC 8252, section 7.3)."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import socket
import threading
import webbrowser
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

from aiohttp import web
from yarl import URL

from openrouter_async._client.client import OpenRouter
from openrouter_async._values.clock import Clock
from openrouter_async._values.tasks import ShieldedTasks
from openrouter_async.errors import KeyDeliveryError, OpenRouterError, RequestValidationError
from openrouter_async.login._callbacks import read_callback
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant, PendingLogin
from openrouter_async.login._pages import PAGE_HEADERS, render
from openrouter_async.login._sockets import listen
from openrouter_async.login._urls import AUTHORIZATION_URL, CallbackTemplate
from openrouter_async.login.errors import (
    InvalidCallbackError,
    LoginError,
    LoginTimeoutError,
    StateMismatchError,
)
from openrouter_async.login.stores._memory import MemoryStore

logger = logging.getLogger("openrouter_async.login")

Prompt: TypeAlias = Callable[[OpenRouterError | None], Awaitable[str]]
"""Asks the user for a code or the browser's final URL; it is told what was wrong with the last answer."""

_MOST_CONNECTIONS: Final = 64
_SHUTDOWN: Final = 2.0
# A request that is not HTTP is nobody's business, and its line may hold a code.
_SILENT: Final = logging.Logger("silent", logging.CRITICAL + 1)


class _Server(web.Server):
    """A server whose slow visitors cannot keep others out.

    Attributes:
        guest: The connection that brought the callback, which is not closed in favour of others.
    """

    guest: object = None

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        connections = self.connections
        if len(connections) > _MOST_CONNECTIONS:
            next(connection for connection in connections if connection is not self.guest).force_close()


class LoopbackLogin:
    """Signs the user of this computer in.

    ::

        async with LoopbackLogin(client) as login:
            login.open_browser()
            print("Or open this page yourself:", login.url)
            grant = await login.wait()

    It listens before the URL exists, on the loopback interface alone, and takes one request seriously: the one whose
    path holds the login's nonce. Whatever else comes is refused and changes nothing.

    Args:
        client: The client that exchanges the code.
        port: The port to listen on; 0 takes a free one.
        host: How the callback URL names this computer. ``localhost`` may mean 127.0.0.1 or ::1: both are listened on.
        key_label: The name that the key will have, at most 100 characters.
        limit: The credit limit that the page proposes, in US dollars.
        app_name: The name to show on the final page.
        auth_url: OpenRouter's page.
        lifetime: Seconds that the login may take.
        opener: What opens a browser; by default ``webbrowser.open``.
        clock: Where time comes from; by default the client's.

    Raises:
        RequestValidationError: An argument is not valid.

    See Also:
        RFC 8252, sections 7.3 and 8.3.
    """

    def __init__(
        self,
        client: OpenRouter,
        *,
        port: int = 0,
        host: Literal["127.0.0.1", "localhost"] = "127.0.0.1",
        key_label: str | None = None,
        limit: float | None = None,
        app_name: str = "the app",
        auth_url: str | URL = AUTHORIZATION_URL,
        lifetime: float = 600.0,
        opener: Callable[[str], object] = webbrowser.open,
        clock: Clock | None = None,
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise RequestValidationError("port", "must be an integer from 0 to 65535")
        if host not in ("127.0.0.1", "localhost"):
            raise RequestValidationError("host", "must be 127.0.0.1 or localhost")
        self._client = client
        self._port = port
        self._host = host
        self._key_label = key_label
        self._limit = limit
        self._app_name = app_name
        self._auth_url = auth_url
        self._lifetime = lifetime
        self._opener = opener
        self._clock = clock
        self._binding = secrets.token_urlsafe(16)
        self._finishing: ShieldedTasks[OpenRouterError | None] = ShieldedTasks()
        self._cleanup = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as cleanup:
            sockets = listen(self._port)
            for listener in sockets:
                cleanup.callback(listener.close)
            self._port = sockets[0].getsockname()[1]
            self._hosts = host_headers(self._port)
            self._template = CallbackTemplate(f"http://{self._host}:{self._port}/callback/{{state}}")
            self._flow = AuthorizationFlow(
                self._client,
                callback_url=self._template.callback_url,
                store=MemoryStore(max_logins=1),
                auth_url=self._auth_url,
                lifetime=self._lifetime,
                clock=self._clock,
            )
            self._pending = await self._flow.start(key_label=self._key_label, limit=self._limit, binding=self._binding)
            self._path = f"/callback/{self._pending.state}"
            self._outcome: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
            cleanup.callback(self._forget_outcome)
            await self._serve(sockets, cleanup)
            self._cleanup = cleanup.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._cleanup.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._host}:{self._port}>"

    @property
    def pending(self) -> PendingLogin:
        """The login."""
        return self._pending

    @property
    def url(self) -> str:
        """The page that the user opens."""
        return self._pending.url

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._port

    def open_browser(self) -> None:
        """Open the page in the user's browser, without waiting for it: some browsers return when they are closed."""

        def run() -> None:
            # There is no way to tell whether a browser came up; the user has the URL, too.
            with contextlib.suppress(Exception):
                self._opener(self.url)

        threading.Thread(target=run, name="openrouter-async-browser", daemon=True).start()

    async def wait(self, *, timeout: float | None = 300.0, prompt: Prompt | None = None) -> Grant:
        """Wait until the user comes back.

        Args:
            timeout: Seconds to wait; None waits as long as it takes. An exchange that is under way is not cut off.
            prompt: Asks for a code, or for the URL on which a browser on another computer ended. What comes first
                counts, the answer or the callback.

        Raises:
            LoginTimeoutError: Nobody came.
            AuthorizationDeniedError: The user said no.
            OpenRouterError: The login failed, as `AuthorizationFlow.finish` tells.
        """
        prompting = asyncio.get_running_loop().create_task(self._ask(prompt))
        try:
            await asyncio.wait((self._outcome, prompting), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not self._outcome.done():
                await self._finishing.drain()
            if self._outcome.done():
                return self._outcome.result()
            if prompting.done():
                prompting.result()
            raise LoginTimeoutError("nobody finished the login in time")
        finally:
            prompting.cancel()
            await asyncio.wait((prompting,))
            if not prompting.cancelled():
                # What it failed of came too late to matter.
                prompting.exception()

    async def _ask(self, prompt: Prompt | None) -> None:
        error: OpenRouterError | None = None
        while prompt is not None and not self._outcome.done():
            text = await prompt(error)
            error = await self._take(self._flow.finish_code(self._pending.state, text, binding=self._binding))
        # Not by awaiting it: this task is cancelled in the end, and would cancel what it awaits.
        await asyncio.wait((self._outcome,))

    async def _take(self, finishing: Coroutine[Any, Any, Grant]) -> OpenRouterError | None:
        """Finish the login; give what was wrong when it can still go on."""
        return await self._finishing.run(self._settle(finishing))

    async def _settle(self, finishing: Coroutine[Any, Any, Grant]) -> OpenRouterError | None:
        try:
            grant = await finishing
        except (InvalidCallbackError, StateMismatchError) as stray:
            return stray
        except Exception as failure:  # noqa: BLE001 - who waits gets it
            if isinstance(failure, OpenRouterError) and not failure.restart_login:
                return failure
            if not self._outcome.done():
                self._outcome.set_exception(failure)
            elif self._outcome.cancelled() and isinstance(failure, KeyDeliveryError):
                logger.warning("a key is lost: the login was given up while it was finished, and on_key raised")
        else:
            if not self._outcome.done():
                self._outcome.set_result(grant)
            elif self._outcome.cancelled() and self._client.on_key is None:
                logger.warning("a key is lost: the login was given up while it was finished, and no on_key is set")
        return None

    async def _serve(self, sockets: Sequence[socket.socket], cleanup: contextlib.AsyncExitStack) -> None:
        server = self._server = _Server(
            self._handle, access_log=None, logger=_SILENT, lingering_time=0.0, keepalive_timeout=5.0
        )

        async def shut_down() -> None:
            server.pre_shutdown()
            await server.shutdown(_SHUTDOWN)

        cleanup.push_async_callback(shut_down)
        for listener in sockets:
            listening = await asyncio.get_running_loop().create_server(server, sock=listener)
            cleanup.callback(listening.close)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        if request.headers.getall("Host", []) not in self._hosts:
            # DNS rebinding: a page whose name was made to point here.
            return _page(421, "Not here", "This address is not served here.")
        if not hmac.compare_digest(path.encode(errors="replace"), self._path.encode()):
            return _page(404, "Not found", "There is nothing here.")
        if request.method != "GET":
            return _page(405, "Not allowed", "This address can only be read.")
        target = f"{path}?{query}"
        try:
            # What is no callback must not be in the way of one that comes at the same time.
            read_callback(target, self._template)
        except LoginError as stray:
            return _page(400, "Not signed in yet", stray.user_message)
        if self._outcome.done():
            return _page(409, "Already finished", "This sign-in is already finished. You can close this window.")
        if self._finishing:
            return _page(409, "Already under way", "This sign-in is being finished. You can close this window.")
        self._server.guest = request.protocol
        error = await self._take(self._flow.finish(target, binding=self._binding))
        if error is not None:
            return _page(503, "Not signed in yet", error.user_message)
        failure = self._outcome.exception()
        if isinstance(failure, OpenRouterError):
            return _page(200, "Not signed in", failure.user_message)
        if failure is not None:
            return _page(500, "Not signed in", f"Something went wrong in {self._app_name}.")
        return _page(200, "Signed in", f"You are signed in to {self._app_name}. You can close this window.")

    def _forget_outcome(self) -> None:
        # An outcome that nobody waited for is no mistake.
        if not self._outcome.cancel() and not self._outcome.cancelled():
            self._outcome.exception()


def host_headers(port: int) -> list[list[str | None]]:
    """The ``Host`` headers of who came by the callback URL; browsers leave out the port that is http's own."""
    names = (URL(f"http://{name}:{port}") for name in ("127.0.0.1", "localhost", "[::1]"))
    return [[name.host_port_subcomponent] for name in names]


def _page(status: int, title: str, text: str) -> web.Response:
    headers = PAGE_HEADERS | {"Connection": "close"}
    return web.Response(status=status, text=render(title, text), content_type="text/html", headers=headers)
