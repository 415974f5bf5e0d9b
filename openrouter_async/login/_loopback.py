"""Signing in on the user's own computer: the browser comes back to a local port (RFC 8252, section 7.3)."""

from __future__ import annotations

import contextlib
import hmac
import logging
from collections.abc import Callable
from typing import Final, Literal

from aiohttp import web
from yarl import URL

from openrouter_async._client.client import OpenRouter
from openrouter_async._values.clock import Clock
from openrouter_async._values.models import UNSET, Unset
from openrouter_async._values.validation import check_port
from openrouter_async.errors import OpenRouterError, RequestValidationError
from openrouter_async.events import Event
from openrouter_async.login._callback_server import CallbackServer, has_loopback_host, make_page
from openrouter_async.login._callbacks import read_callback
from openrouter_async.login._peers import is_foreign
from openrouter_async.login._progress import LoginState, LoginStatus
from openrouter_async.login._session import LoginSession
from openrouter_async.login._sockets import listen
from openrouter_async.login._urls import CallbackTemplate
from openrouter_async.login.errors import LoginError

logger = logging.getLogger("openrouter_async.login")

_CLOSE: Final = "You can close this window."


class LoopbackLogin(LoginSession):
    """Sign in the user of this computer.

    ::

        async with LoopbackLogin(client) as login:
            login.open_browser()
            print("Or open this page yourself:", login.url)
            grant = await login.wait()

    The port is opened before the URL is made, on the loopback interface only. One request is accepted: the one whose
    path has the state of the login, on Linux only from a process of the same user or of root. Any other request is
    refused and changes nothing. The browser is opened on a file that only this user can read and that redirects to the
    URL, since all users of a computer can read the arguments of a process.

    The user can also paste a code, or the URL that a browser on another computer ended on, as in any `LoginSession`.

    Args:
        client: The client that exchanges the code.
        port: The port to listen on; 0 takes a free one.
        host: The host in the callback URL. ``localhost`` may mean 127.0.0.1 or ::1; the login listens on both.
        key_label: The name that the key will have, at most 100 characters.
        limit: The credit limit that the page proposes, in US dollars.
        app_name: The name shown on the final page.
        auth_url: As for `AuthorizationFlow`.
        lifetime: Seconds until the login fails with a `LoginTimeoutError`. OpenRouter's codes are valid for 600.
        verify: As for `AuthorizationFlow`.
        opener: As for `LoginSession`.
        on_tls: Called once, when a browser first speaks TLS to the port, as it does for an ``https`` address.
        clock: The source of time; by default the client's.

    Raises:
        RequestValidationError: An argument is not valid.
        LoopbackUnavailableError: The port cannot be opened; raised by ``async with``.

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
        verify: bool = False,
        opener: Callable[[str], object] | None = None,
        on_tls: Callable[[], object] | None = None,
        clock: Clock | None = None,
    ) -> None:
        check_port(port)
        if host not in ("127.0.0.1", "localhost"):
            raise RequestValidationError("host", "must be 127.0.0.1 or localhost")
        super().__init__(
            client,
            key_label=key_label,
            limit=limit,
            auth_url=auth_url,
            lifetime=lifetime,
            verify=verify,
            opener=opener,
            clock=clock,
        )
        self._port = port
        self._host = host
        self._app_name = app_name
        self._on_tls = on_tls
        self._saw_tls = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._host}:{self._port} {self.status}>"

    @property
    def port(self) -> int:
        """Return the port on which the login listens."""
        return self._port

    async def _listen(self, cleanup: contextlib.AsyncExitStack) -> str | None:
        sockets = listen(self._port)
        for listener in sockets:
            cleanup.callback(listener.close)
        self._port = sockets[0].getsockname()[1]
        self._template = CallbackTemplate(f"http://{self._host}:{self._port}/callback/{{state}}")
        self._server = CallbackServer(self._handle, self._report_tls)
        await self._server.start(sockets, cleanup)
        return self._template.callback_url

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        if (refusal := self._refuse(request, path)) is not None:
            return refusal
        target = f"{path}?{query}"
        try:
            # An invalid callback must not block a valid one that comes at the same time.
            read_callback(target, self._template)
        except LoginError as stray:
            return make_page(400, "Not signed in yet", stray.user_message)
        match self.status:
            case LoginStatus.CANCELLED:
                return make_page(410, "Not signed in", "This sign-in was cancelled. Please start it again.")
            case LoginStatus.FINISHED | LoginStatus.FAILED:
                return make_page(
                    409, "Already finished", "This sign-in is already finished. You can close this window."
                )
            case LoginStatus.EXCHANGING:
                return make_page(409, "Already under way", f"This sign-in is being finished. {_CLOSE}")
            case LoginStatus.PENDING:
                self._server.guest = request.protocol
                return self._page_of(await self._finish(self._flow.finish(target, binding=self._binding)))

    def _refuse(self, request: web.BaseRequest, path: str) -> web.Response | None:
        """Return the page for a request that is not a callback of this sign-in."""
        if not has_loopback_host(request):
            return make_page(421, "Not here", "This address is not served here.")
        own = f"/callback/{self.pending.state}"
        if not hmac.compare_digest(path.encode(errors="replace"), own.encode()):
            return make_page(404, "Not found", "There is nothing here.")
        peer = None if request.transport is None else request.transport.get_extra_info("peername")
        if peer is None or is_foreign((peer[0], peer[1]), self._port):
            logger.info(
                "a callback from another user of this computer was refused", extra={"event": Event.REQUEST_REFUSED}
            )
            return make_page(403, "Not yours", "Another user of this computer started this sign-in.")
        if request.method != "GET":
            return make_page(405, "Not allowed", "This address accepts only GET.")
        return None

    def _page_of(self, state: LoginState) -> web.Response:
        match state.status:
            case LoginStatus.FINISHED if state.message is not None:
                return make_page(200, "Signed in, but the key cannot be used", state.message)
            case LoginStatus.FINISHED:
                return make_page(200, "Signed in", f"You are signed in to {self._app_name}. {_CLOSE}")
            case LoginStatus.CANCELLED:
                return make_page(410, "Not signed in", "This sign-in was cancelled while it was being finished.")
            case LoginStatus.FAILED if isinstance(state.error, OpenRouterError):
                return make_page(200, "Not signed in", state.error.user_message)
            case LoginStatus.FAILED:
                return make_page(500, "Not signed in", f"Something went wrong in {self._app_name}.")
            case _:
                return make_page(503, "Not signed in yet", state.message or "Please try again.")

    def _report_tls(self) -> None:
        if self._saw_tls:
            return
        self._saw_tls = True
        logger.info(
            "a browser tried https, but the address of this sign-in starts with http://",
            extra={"event": Event.REQUEST_REFUSED},
        )
        if self._on_tls is not None:
            self._on_tls()
