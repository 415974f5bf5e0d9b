"""What aiohttp is given to work with: sockets, request bodies, and no cookies."""

from __future__ import annotations

import asyncio
import socket
import time
import weakref
from http.cookies import BaseCookie, SimpleCookie
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from multidict import CIMultiDict
from yarl import URL

from openrouter_async._http.chain import SendState

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

_READ_SIZE: Final = 65_536
_BODY_HEADERS: Final = CIMultiDict({"Content-Type": "application/json"})


class _Socket(socket.socket):
    # The selector loops of asyncio ask for 256 KiB at a time. Memory of that size comes from the operating system and
    # goes back to it with each read, which costs a tenth of an exchange. TLS, and other loops, read in another way.
    def recv(self, size: int, flags: int = 0, /) -> bytes:
        return super().recv(min(size, _READ_SIZE), flags)


def make_socket(address: tuple[Any, ...]) -> socket.socket:
    """The socket for an address, as `socket.getaddrinfo` gives it."""
    family, kind, protocol = address[:3]
    return _Socket(family, kind, protocol)


class NoCookies(aiohttp.DummyCookieJar):
    """Keeps no cookies, and makes no empty jar for each request."""

    _none: Final[BaseCookie[str]] = SimpleCookie()

    def filter_cookies(self, request_url: URL) -> BaseCookie[str]:
        """The cookies for a request: none."""
        return self._none


class Connections:
    """The connections that were used before, without keeping them alive."""

    def __init__(self) -> None:
        # A `WeakSet` makes a reference for each question.
        self._references: dict[int, weakref.ref[object]] = {}

    def __len__(self) -> int:
        return len(self._references)

    def add(self, connection: object) -> bool:
        """Know a connection from now on; whether it was known before."""
        number = id(connection)
        if number in self._references:
            return True
        self._references[number] = weakref.ref(connection, lambda _: self._references.pop(number, None))
        return False


class Body(Payload):
    """A request body that knows whether it was written, and whether its connection had been used before.

    It has itself what aiohttp asks of a payload, as making one in aiohttp's way costs a fortieth of an exchange.

    Attributes:
        written: Whether it was given to a connection; the server may have it then.
        written_at: When that was, as `time.perf_counter` has it.
        reused: Whether the connection had been used before.
        refused: Whether it was not written because there was an answer already.
        received: The bytes of a successful answer so far, while they arrive in pieces.
    """

    # On the class, as most of them keep what they begin with.
    written = False
    written_at = 0.0
    reused = False
    refused = False
    received: bytes | bytearray = b""
    _is_known = False

    def __init__(self, body: bytes, send_state: SendState, known: Connections) -> None:
        # Not super().__init__(): what it would set is told by the properties below.
        self._body = body
        self._send_state = send_state
        self._known = known

    def know(self, protocol: ResponseHandler | None) -> None:
        """Tell a connection that was used before from a new one; the first time counts."""
        if protocol is not None and not self._is_known:
            self._is_known = True
            self.reused = self._known.add(protocol)

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self._body)

    @property
    def headers(self) -> CIMultiDict[str]:
        """What it adds to the headers of the request."""
        return _BODY_HEADERS

    @property
    def content_type(self) -> str:
        """What it is."""
        return _BODY_HEADERS["Content-Type"]

    @property
    def filename(self) -> None:
        """It is no file."""

    @property
    def encoding(self) -> None:
        """It is no text."""

    @property
    def autoclose(self) -> bool:
        """It needs no closing."""
        return True

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The text of it."""
        return self._body.decode(encoding, errors)

    async def as_bytes(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Itself."""
        return self._body

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write it; what aiohttp calls now is `write_with_length`."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write it, unless its call was given up or its connection is not to be trusted."""
        if self._send_state.cancelled:
            # Before Python 3.12, aiohttp writes one pass of the loop later, and the call may have been given up in it.
            raise asyncio.CancelledError
        protocol = getattr(writer, "protocol", None)
        self.know(protocol)
        if protocol is not None and protocol.should_close:
            # There is an answer already. It belongs to an earlier request, and so does the key in it.
            self.refused = True
            raise ConnectionAbortedError
        transport = writer.transport
        if transport is not None and not transport.is_closing():
            self.written = self._send_state.maybe_processed = True
            self.written_at = time.perf_counter()
        await writer.write(self._body)
