"""Servers that answer with given bytes, also with those that no web framework would send."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl as tls
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from aiohttp import web


def http_answer(status: int, body: bytes | str = b"", *headers: str, length: bool = True) -> bytes:
    """Return an HTTP/1.1 answer.

    Args:
        status: The status.
        body: The body.
        headers: The lines of the header, without ``Content-Length``.
        length: Whether to add ``Content-Length``.
    """
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Status", *headers]
    if length:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def json_answer(status: int, body: bytes | str = b"", *headers: str) -> bytes:
    """Return an HTTP/1.1 answer of JSON."""
    return http_answer(status, body, "Content-Type: application/json", *headers)


class RawServer:
    """Answers each request with the result of a function; None closes the connection instead."""

    def __init__(self, answer: Callable[[bytes], bytes | None], *, ssl: tls.SSLContext | None = None) -> None:
        self._answer = answer
        self._ssl = ssl
        self._connections: set[asyncio.Task[None]] = set()
        self.requests: list[bytes] = []
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._ssl)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def base_url(self) -> str:
        return f"http{'s' if self._ssl else ''}://127.0.0.1:{self.port}/api/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line.startswith(b"content-length")
                    ),
                    0,
                )
                request = head + await reader.readexactly(length)
                self.requests.append(request)
                answer = self._answer(request)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            # The server is closed before its clients: the streams of Python 3.11 log a handler that is cancelled.
            pass
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()


async def forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, *, address: str = "127.0.0.1"
) -> None:
    """Pass what a connection brings on to a port of this computer, and back.

    Args:
        reader: The connection.
        writer: The connection.
        port: The port.
        address: The address of this computer that it seems to come from.
    """
    upstream, downstream = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    await asyncio.gather(_pipe(reader, downstream), _pipe(upstream, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError), contextlib.closing(writer):
        while data := await reader.read(65_536):
            writer.write(data)


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[RawServer]:
    """Run a server that always gives the same answer."""
    async with RawServer(lambda _request: answer) as server:
        yield server


class ScriptedServer(RawServer):
    """Gives the answers in turn; the last one is repeated."""

    def __init__(self, *answers: bytes) -> None:
        left = list(answers)
        super().__init__(lambda _: left.pop(0) if len(left) > 1 else left[0])

    @property
    def codes(self) -> list[str]:
        """The codes that were received, in order."""
        return [found.decode() for request in self.requests for found in re.findall(rb'"code":\s*"(.*?)"', request)]


async def start_app(app: web.Application) -> tuple[web.AppRunner, str]:
    """Serve an app on a free port.

    Returns:
        The runner, whose ``cleanup`` ends that, and the app's URL.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    address: Any = runner.addresses[0]
    return runner, f"http://127.0.0.1:{address[1]}"
