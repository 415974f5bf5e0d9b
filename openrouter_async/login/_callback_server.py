"""The server on the loopback interface that a browser brings its callback to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiohttp import web

from openrouter_async.login._pages import PAGE_HEADERS, render

MAX_CONNECTIONS: Final = 64
SHUTDOWN_TIMEOUT: Final = 2.0
# aiohttp logs the first line of a malformed request, which may hold a code.
_SILENT: Final = logging.Logger("silent", logging.CRITICAL + 1)
# Any port is accepted: a browser outside of a container uses the port that is mapped to this one.
_LOOPBACK_HOST: Final = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_TLS_HANDSHAKE: Final = b"\x16\x03"


class CallbackServer(web.Server):
    """A server that closes its oldest connection when there are too many, so that idle ones keep nobody out.

    Args:
        handler: Answers a request.
        on_tls: Called when a connection starts with a TLS handshake.

    Attributes:
        guest: The connection that brought the callback, which is not closed in favour of others.
        on_tls: As above.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        on_tls: Callable[[], object],
    ) -> None:
        super().__init__(handler)
        self.guest: object = None
        self.on_tls = on_tls

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        connections = self.connections
        if len(connections) > MAX_CONNECTIONS:
            next(connection for connection in connections if connection is not self.guest).force_close()

    async def start(self, sockets: Sequence[socket.socket], cleanup: contextlib.AsyncExitStack) -> None:
        """Serve on sockets that listen, until the cleanup runs."""
        loop = asyncio.get_running_loop()

        def connect() -> _Connection:
            return _Connection(
                self, loop=loop, access_log=None, logger=_SILENT, lingering_time=0.0, keepalive_timeout=5.0
            )

        async def shut_down() -> None:
            self.pre_shutdown()
            await self.shutdown(SHUTDOWN_TIMEOUT)

        cleanup.push_async_callback(shut_down)
        for listener in sockets:
            listening = await loop.create_server(connect, sock=listener)
            cleanup.callback(listening.close)


class _Connection(web.RequestHandler):
    __slots__ = ("_is_new", "_server")

    def __init__(self, server: CallbackServer, **options: Any) -> None:
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


def has_loopback_host(request: web.BaseRequest) -> bool:
    """Return whether a request names this computer as its host.

    With DNS rebinding, a page of another site makes its own name resolve to this computer.
    """
    hosts = request.headers.getall("Host", [])
    return len(hosts) == 1 and _LOOPBACK_HOST.fullmatch(hosts[0]) is not None


def make_page(status: int, title: str, text: str) -> web.Response:
    """Return a page of a title and a sentence, after which the connection is closed."""
    headers = PAGE_HEADERS | {"Connection": "close"}
    return web.Response(status=status, text=render(title, text), content_type="text/html", headers=headers)
