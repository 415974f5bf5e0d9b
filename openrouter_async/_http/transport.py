"""The transport: a pooled aiohttp session."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from ssl import SSLContext
from typing import Final

import aiohttp
from yarl import URL

from openrouter_async._http.aiohttp_parts import Body, NoCookies, SeenConnections, make_socket
from openrouter_async._http.bodies import is_json_object, read_body
from openrouter_async._http.chain import Request, Response
from openrouter_async._http.failures import SESSION_CLOSED, translate
from openrouter_async._http.proxies import proxy_from_environment
from openrouter_async._http.timeouts import Deadlines
from openrouter_async.errors import ClientClosedError, OpenRouterError

MAX_HEADER_SIZE: Final = 65_536
"""The maximum number of bytes of a header or of the status line: some proxies exceed aiohttp's default, 8 KiB."""

MAX_HEADERS: Final = 1_024
"""The maximum number of headers of an answer; aiohttp's default is 128."""

_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)


# The garbage collector finalizes a cycle in any order, so aiohttp could warn of a forgotten client's session before the
# client does. These references keep transports alive until they are closed.
_unclosed: set[Transport] = set()

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    # Counting forks avoids the system call of os.getpid() before each request.
    os.register_at_fork(after_in_child=_count_fork)


class Transport:
    """Sends single attempts over a pooled session, which is created in the running loop on first use.

    Args:
        session: A session to borrow, which is never closed or reconfigured. None creates one.
        pool_size: The maximum number of connections of its own session.
        proxy: The URL of a proxy; None uses none.
        ssl: A TLS context; True verifies by the system's certificates.
        trust_env: Whether its own session reads proxies from the environment.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession | None = None,
        pool_size: int = 100,
        proxy: URL | None = None,
        ssl: SSLContext | bool = True,
        trust_env: bool = False,
        reuse_connections: bool | None = None,
    ) -> None:
        self._session = session
        self._is_borrowed = session is not None
        self._pool_size = pool_size
        self._proxy = proxy
        self._ssl = ssl
        self._trust_env = trust_env and proxy is None
        self._reuse_connections = reuse_connections
        self._is_each_last = not (session is None and proxy is None if reuse_connections is None else reuse_connections)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forks = _forks
        self._deadlines = Deadlines()
        self._known_connections = SeenConnections()

    @property
    def in_flight(self) -> int:
        """The number of requests under way: on a connection, or waiting for one."""
        return len(self._deadlines)

    @property
    def connection_limit(self) -> int:
        """The maximum number of pooled connections; 0 if there is no limit, or no session yet."""
        connector = None if self._session is None else self._session.connector
        return 0 if connector is None else connector.limit

    def session(self) -> aiohttp.ClientSession:
        """The session, bound to the running loop.

        Raises:
            ClientClosedError: The client is used from another loop or another process than before, or its borrowed
                session is closed.
        """
        if self._loop is None and not self._is_borrowed:
            # A client that was not used before the fork shares no connection with its parent process.
            self._forks = _forks
        elif _forks != self._forks:
            raise ClientClosedError("the client was carried over a fork; make a new one in the child process")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ClientClosedError("the client belongs to another event loop; make one for each loop")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._pool_size, socket_factory=make_socket),
                cookie_jar=NoCookies(),
            )
            _unclosed.add(self)
        elif self._session.closed:
            raise ClientClosedError(SESSION_CLOSED)
        return self._session

    async def send(self, request: Request) -> Response:
        """Send a request once and read its answer completely.

        Raises:
            TransportError: There was no HTTP answer.
            ResponseValidationError: The answer is too large or cannot be decompressed.
            ClientClosedError: The session is closed.
            RequestValidationError: The environment names a proxy that cannot be used.
        """
        session = self._session if self._session is not None else self.session()
        body = Body(request.body, request.send_state, self._known_connections)
        if self._is_each_last:
            body.is_last = True
        started = time.perf_counter()
        deadline = self._deadlines.start(request.timeout)
        answer: aiohttp.ClientResponse | None = None
        try:
            answer = await session.request(
                request.method,
                request.url,
                data=body,
                headers=request.headers,
                allow_redirects=False,
                auto_decompress=False,
                raise_for_status=False,
                timeout=_NO_TIMEOUT,
                # Not kept in a local variable: a proxy's URL may have a password, and some tracebacks show local
                # variables.
                proxy=await self._find_proxy(request.url, body) if self._trust_env else self._proxy,
                ssl=self._ssl,
                max_line_size=MAX_HEADER_SIZE,
                max_field_size=MAX_HEADER_SIZE,
                max_headers=MAX_HEADERS,
            )
            try:
                content = await read_body(answer, body)
            except BaseException:
                answer.close()
                raise
            return _to_response(answer, content, body, started)
        except asyncio.CancelledError as cancelled:
            if not deadline.absorb_cancellation():
                # Without aiohttp's frames, which hold headers and bodies.
                cancelled.__traceback__ = None
                raise
            if answer is not None and is_json_object(body.received):
                # The JSON is complete, but Content-Length was too large and the server keeps the connection open.
                return _to_response(answer, bytes(body.received), body, started)
            error = translate(TimeoutError(), request, body)
        except OpenRouterError:
            raise
        except Exception as caught:  # noqa: BLE001 - whatever it is, the caller gets one of our errors
            error = translate(caught, request, body, is_closed=session.closed)
        finally:
            self._deadlines.stop(deadline)
        # Raised outside of the handler, so that `__context__` does not hold the foreign exception, whose frames
        # hold headers and bodies.
        raise error

    async def _find_proxy(self, url: URL, body: Body) -> URL | None:
        # In a thread, because Windows may resolve names to find out whether the host is to be reached directly.
        proxy = await asyncio.to_thread(proxy_from_environment, url)
        if self._reuse_connections is None:
            body.is_last = proxy is not None
        return proxy

    async def aclose(self) -> None:
        """Close the session, unless it is borrowed."""
        self._deadlines.close()
        _unclosed.discard(self)
        if self._session is not None and not self._is_borrowed:
            await self._session.close()

    def abandon(self) -> bool:
        """Close the session of a forgotten client, without a running loop.

        Returns:
            Whether the session was still open.
        """
        session = self._session
        _unclosed.discard(self)
        if session is None or self._is_borrowed or session.closed:
            return False
        connector = session.connector
        session.detach()
        if connector is not None:
            closing = connector.close().__await__()
            # The first step closes the connections; later ones wait for the sockets, which needs a running loop.
            with suppress(StopIteration, RuntimeError):
                next(closing)
            closing.close()
        return True


def _to_response(answer: aiohttp.ClientResponse, content: bytes, sent: Body, started: float) -> Response:
    return Response(
        status_code=answer.status,
        headers=answer.headers.copy(),
        body=content,
        elapsed=time.perf_counter() - started,
        waited=max(0.0, sent.written_at - started),
    )
