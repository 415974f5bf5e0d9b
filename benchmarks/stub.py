"""A server in a process of its own that answers every exchange with the same key, and tells its CPU time."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

import trustme
import uvloop

BODY = b'{"key":"sk-or-v1-' + b"0123456789abcdef" * 4 + b'","user_id":"user_2yOPcMpKoQhcd4bVgSMlELRaIah"}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\n"
    b"Date: Sun, 24 Aug 2025 10:30:00 GMT\r\n"
    b"Content-Type: application/json\r\n"
    b"Content-Length: %d\r\n"
    b"Connection: keep-alive\r\n"
    b"CF-RAY: 97421d3a0c7b8e21-FRA\r\n"
    b"Access-Control-Allow-Origin: *\r\n"
    b"Vary: Accept-Encoding\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"Server: cloudflare\r\n"
    b"\r\n" % len(BODY)
) + BODY


class StubProtocol(asyncio.Protocol):
    """The part of HTTP that the clients of this benchmark use: one POST after another, each with a Content-Length."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            end += 4 + _content_length(buffer, end)
            if len(buffer) < end:
                break
            buffer = buffer[end:]
            self._transport.write(ANSWER)
        self._buffer = buffer


def _content_length(buffer: bytes, end: int) -> int:
    head = buffer[:end].lower()
    start = head.find(b"content-length:")
    return int(head[start + 15 : head.find(b"\r", start)]) if start >= 0 else 0


async def _serve(certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    for tls in (None, context):
        server = await loop.create_server(StubProtocol, "127.0.0.1", 0, ssl=tls, backlog=4096)
        print(server.sockets[0].getsockname()[1], flush=True)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while await commands.readline():
        print(time.process_time(), flush=True)


class Stub:
    """The running server.

    Attributes:
        urls: The base URL of the API for each of "http" and "tls".
        authority: The file with the certificate that its own is signed by.
    """

    def __init__(self) -> None:
        self.urls: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        authority = trustme.CA()
        self.authority = folder / "authority.pem"
        authority.cert_pem.write_to_path(self.authority)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.stub", str(folder / "server.pem")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        plain, tls = self._output.readline().strip(), self._output.readline().strip()
        self.urls = {"http": f"http://127.0.0.1:{plain}/api/v1", "tls": f"https://127.0.0.1:{tls}/api/v1"}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._input.close()
        self._process.wait(10)
        self._output.close()
        self._folder.cleanup()

    def cpu(self) -> float:
        """The seconds of CPU that it has used."""
        self._input.write("\n")
        self._input.flush()
        return float(self._output.readline())

    @property
    def _input(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _output(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout


def pin(*, to_server: bool) -> None:
    """Keep the server and the clients on cores of their own, where the system lets one choose."""
    with contextlib.suppress(AttributeError, OSError):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[-1:] if to_server else cores[:-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("certificate")
    certificate = parser.parse_args().certificate
    pin(to_server=True)
    uvloop.run(_serve(certificate))


if __name__ == "__main__":
    main()
