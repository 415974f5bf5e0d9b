"""Signing in on the user's own computer: the browser comes back to a local port (RFC 8252, section 7.3)."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

from aiohttp import web
from yarl import URL

from openrouter_async._client.client import OpenRouter
from openrouter_async._values.clock import Clock
from openrouter_async._values.models import UNSET, Unset
from openrouter_async._values.tasks import ShieldedTasks
from openrouter_async._values.threads import run_in_daemon_thread
from openrouter_async.errors import KeyDeliveryError, OpenRouterError, RequestValidationError
from openrouter_async.login._browser import RedirectFile, open_browser
from openrouter_async.login._callbacks import read_callback
from openrouter_async.login._flow import AuthorizationFlow
from openrouter_async.login._models import Grant, PendingLogin
from openrouter_async.login._pages import PAGE_HEADERS, render
from openrouter_async.login._peers import is_foreign
from openrouter_async.login._sockets import listen
from openrouter_async.login._urls import CallbackTemplate
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

MAX_CONNECTIONS: Final = 64
SHUTDOWN_TIMEOUT: Final = 2.0
# aiohttp logs the first line of a malformed request, which may hold a code.
_SILENT: Final = logging.Logger("silent", logging.CRITICAL + 1)
# Any port: a browser outside of a container reaches this one by the port that is mapped to it.
_LOOPBACK_HOST: Final = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_TLS_HANDSHAKE: Final = b"\x16\x03"


class _Server(web.Server):
    """A server that closes its oldest connection when there are too many, so that idle ones keep nobody out.

    Attributes:
        guest: The connection that brought the callback, which is not closed in favour of others.
        on_tls: Called when a connection starts with a TLS handshake.
    """

    guest: object = None
    on_tls: Callable[[], object]

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        connections = self.connections
        if len(connections) > MAX_CONNECTIONS:
            next(connection for connection in connections if connection is not self.guest).force_close()


class _Connection(web.RequestHandler):
    __slots__ = ("_is_new", "_server")

    def __init__(self, server: _Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._is_new = True

    def data_received(self, data: bytes) -> None:
        if self._is_new and data.startswith(_TLS_HANDSHAKE):
            self._server.on_tls()
            self.force_close()
            return
        self._is_new = False
        super().data_received(data)


class _Result:
    """The result of a login, which the callback and the prompt compete to deliver.

    Attributes:
        future: Resolves to the grant or the error; cancelled when the login is given up.
    """

    def __init__(self) -> None:
        self.future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()

    @property
    def is_abandoned(self) -> bool:
        return self.future.cancelled()

    def deliver(self, grant: Grant) -> bool:
        """Set the grant. Returns: whether somebody can still get it."""
        if not self.future.done():
            self.future.set_result(grant)
        return not self.is_abandoned

    def fail(self, error: Exception) -> bool:
        """Set the error. Returns: whether somebody can still get it."""
        if not self.future.done():
            self.future.set_exception(error)
        return not self.is_abandoned

    def abandon(self) -> None:
        """Give the login up; an error that nobody waited for is not reported by asyncio."""
        if not self.future.cancel() and not self.future.cancelled():
            self.future.exception()


class LoopbackLogin:
    """Sign in the user of this computer.

    ::

        async with LoopbackLogin(client) as login:
            login.open_browser()
            print("Or open this page yourself:", login.url)
            grant = await login.wait()

    It listens before the URL exists, on the loopback interface alone, and accepts one request: the one whose path holds
    the login's nonce, on Linux only from a process of the same user or of root. Any other request is refused and
    changes nothing. The browser is opened on a file that only this user can read and that redirects to the URL, since
    all users of a computer can read the arguments of a process.

    Args:
        client: The client that exchanges the code.
        port: The port to listen on; 0 takes a free one.
        host: How the callback URL names this computer. ``localhost`` may mean 127.0.0.1 or ::1: both are listened on.
        key_label: The name that the key will have, at most 100 characters.
        limit: The credit limit that the page proposes, in US dollars.
        app_name: The name shown on the final page.
        auth_url: As for `AuthorizationFlow`.
        lifetime: Seconds that the login may take.
        opener: Opens a URL in a browser, in a thread; None opens the default browser in a process of its own, which
            inherits neither the standard input nor the outputs.
        on_tls: Called once, when a browser first speaks TLS to the port, as it does for an ``https`` address.
        clock: Source of the current time; None uses the client's.

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
        auth_url: str | URL | Unset = UNSET,
        lifetime: float = 600.0,
        opener: Callable[[str], object] | None = None,
        on_tls: Callable[[], object] | None = None,
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
        self._on_tls = on_tls
        self._saw_tls = False
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
            self._result = _Result()
            cleanup.callback(self._result.abandon)
            await self._serve(sockets, cleanup)
            self._cleanup = cleanup.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening and give up the login, unless it is finished; a second call does nothing."""
        await self._cleanup.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._host}:{self._port}>"

    @property
    def pending(self) -> PendingLogin:
        """Return the login."""
        return self._pending

    @property
    def url(self) -> str:
        """Return the page that the user opens."""
        return self._pending.url

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        return self._port

    def open_browser(self) -> asyncio.Future[bool]:
        """Open the page in the user's browser, without waiting for it: some browsers return when they are closed.

        Returns:
            A future of whether a browser came up, as far as that can be told. It never raises, and may be ignored.
        """
        url, opener = self.url, self._opener
        if opener is None:
            opener = open_browser
            with contextlib.suppress(OSError, RuntimeError):
                redirect = RedirectFile(url)
                self._cleanup.callback(redirect.close)
                url = redirect.uri

        def run() -> bool:
            try:
                return opener(url) is not False
            except Exception:  # noqa: BLE001 - the user has the URL, too
                return False

        return run_in_daemon_thread(run, name="openrouter-async-browser")

    async def wait(self, *, timeout: float | None = 300.0, prompt: Prompt | None = None) -> Grant:
        """Wait until the user comes back.

        Args:
            timeout: Seconds to wait; None waits for ever. An exchange that is under way is not cut off.
            prompt: Asks for a code, or for the URL on which a browser on another computer ended. The answer or the
                callback counts, whichever comes first.

        Returns:
            The user's key.

        Raises:
            LoginTimeoutError: Nobody came.
            AuthorizationDeniedError: The user said no.
            OpenRouterError: The login failed, as `AuthorizationFlow.finish` tells.
        """
        prompting = asyncio.get_running_loop().create_task(self._ask(prompt))
        try:
            await asyncio.wait((self._result.future, prompting), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not self._result.future.done():
                await self._finishing.drain()
            if self._result.future.done():
                return self._result.future.result()
            if prompting.done():
                prompting.result()
            raise LoginTimeoutError("nobody finished the login in time")
        finally:
            prompting.cancel()
            await asyncio.wait((prompting,))
            if not prompting.cancelled():
                # Its error came too late to matter; asyncio would log it otherwise.
                prompting.exception()

    async def _ask(self, prompt: Prompt | None) -> None:
        error: OpenRouterError | None = None
        while prompt is not None and not self._result.future.done():
            text = await prompt(error)
            error = await self._take(self._flow.finish_code(self._pending.state, text, binding=self._binding))
        # Not by awaiting it: this task is cancelled in the end, and would cancel what it awaits.
        await asyncio.wait((self._result.future,))

    async def _take(self, finishing: Coroutine[Any, Any, Grant]) -> OpenRouterError | None:
        """Finish the login.

        Returns:
            The error after which the login is still open; None if it is finished.
        """
        return await self._finishing.run(self._finish_login(finishing))

    async def _finish_login(self, finishing: Coroutine[Any, Any, Grant]) -> OpenRouterError | None:
        try:
            grant = await finishing
        except (InvalidCallbackError, StateMismatchError) as stray:
            return stray
        except Exception as failure:  # noqa: BLE001 - raised by `wait`
            if isinstance(failure, OpenRouterError) and not failure.restart_login:
                return failure
            if not self._result.fail(failure) and isinstance(failure, KeyDeliveryError):
                logger.warning("a key is lost: the login was given up while it was finished, and on_key raised")
        else:
            if not self._result.deliver(grant) and self._client.on_key is None:
                logger.warning("a key is lost: the login was given up while it was finished, and no on_key is set")
        return None

    async def _serve(self, sockets: Sequence[socket.socket], cleanup: contextlib.AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        server = self._server = _Server(self._handle)
        server.on_tls = self._report_tls

        def connect() -> _Connection:
            return _Connection(
                server, loop=loop, access_log=None, logger=_SILENT, lingering_time=0.0, keepalive_timeout=5.0
            )

        async def shut_down() -> None:
            server.pre_shutdown()
            await server.shutdown(SHUTDOWN_TIMEOUT)

        cleanup.push_async_callback(shut_down)
        for listener in sockets:
            listening = await loop.create_server(connect, sock=listener)
            cleanup.callback(listening.close)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        if (refusal := self._refuse(request, path)) is not None:
            return refusal
        target = f"{path}?{query}"
        try:
            # An invalid callback must not block a valid one that comes at the same time.
            read_callback(target, self._template)
        except LoginError as stray:
            return _page(400, "Not signed in yet", stray.user_message)
        if self._result.future.cancelled():
            return _page(410, "Not signed in", "This sign-in was closed. Please start it again.")
        if self._result.future.done():
            return _page(409, "Already finished", "This sign-in is already finished. You can close this window.")
        if self._finishing:
            return _page(409, "Already under way", "This sign-in is being finished. You can close this window.")
        self._server.guest = request.protocol
        error = await self._take(self._flow.finish(target, binding=self._binding))
        if error is not None:
            return _page(503, "Not signed in yet", error.user_message)
        return self._page_of_result()

    def _refuse(self, request: web.BaseRequest, path: str) -> web.Response | None:
        """Return the page for a request that is not a callback of this sign-in."""
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or _LOOPBACK_HOST.fullmatch(hosts[0]) is None:
            # DNS rebinding: a page of another site whose name was made to resolve to this computer.
            return _page(421, "Not here", "This address is not served here.")
        if not hmac.compare_digest(path.encode(errors="replace"), self._path.encode()):
            return _page(404, "Not found", "There is nothing here.")
        peer = None if request.transport is None else request.transport.get_extra_info("peername")
        if peer is None or is_foreign((peer[0], peer[1]), self._port):
            logger.info("a callback from another user of this computer was refused")
            return _page(403, "Not yours", "Another user of this computer started this sign-in.")
        if request.method != "GET":
            return _page(405, "Not allowed", "This address can only be read.")
        return None

    def _page_of_result(self) -> web.Response:
        if self._result.future.cancelled():
            return _page(410, "Not signed in", "This sign-in was closed while it was finished.")
        failure = self._result.future.exception()
        if isinstance(failure, OpenRouterError):
            return _page(200, "Not signed in", failure.user_message)
        if failure is not None:
            return _page(500, "Not signed in", f"Something went wrong in {self._app_name}.")
        return _page(200, "Signed in", f"You are signed in to {self._app_name}. You can close this window.")

    def _report_tls(self) -> None:
        if self._saw_tls:
            return
        self._saw_tls = True
        logger.info("a browser wants https; the address of this sign-in starts with http://")
        if self._on_tls is not None:
            self._on_tls()


def _page(status: int, title: str, text: str) -> web.Response:
    headers = PAGE_HEADERS | {"Connection": "close"}
    return web.Response(status=status, text=render(title, text), content_type="text/html", headers=headers)
