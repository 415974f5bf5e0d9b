"""Objects that are passed to aiohttp: sockets, request bodies, and an empty cookie jar."""

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
    # The selector loops of asyncio ask for 256 KiB at a time. The allocator gets memory of that size from the operating
    # system and returns it with each read, which takes a tenth of the time of an exchange. TLS and other loops read in
    # another way.
    def recv(self, size: int, flags: int = 0, /) -> bytes:
        return super().recv(min(size, _READ_SIZE), flags)


def make_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket for an address, as `socket.getaddrinfo` gives it."""
    family, kind, protocol = address[:3]
    return _Socket(family, kind, protocol)


class NoCookies(aiohttp.DummyCookieJar):
    """A cookie jar that stays empty, and costs nothing for each request."""

    _none: Final[BaseCookie[str]] = SimpleCookie()

    def filter_cookies(self, request_url: URL) -> BaseCookie[str]:
        """Return the cookies for a request: none."""
        return self._none


class SeenConnections:
    """The connections that were used before, held by weak references."""

    def __init__(self) -> None:
        # A `WeakSet` would create a reference for each lookup.
        self._references: dict[int, weakref.ref[object]] = {}

    def __len__(self) -> int:
        return len(self._references)

    def add(self, connection: object) -> bool:
        """Remember a connection.

        Returns:
            Whether it was already known.
        """
        number = id(connection)
        if number in self._references:
            return True
        self._references[number] = weakref.ref(connection, lambda _: self._references.pop(number, None))
        return False


class Body(Payload):
    """A request body that knows whether it was written, and whether its connection had been used before.

    It implements aiohttp's payload interface itself: creating a `Payload` takes a fortieth of the time of an exchange.

    Attributes:
        written: Whether it was passed to a connection, so that the server may have it.
        written_at: The value of `time.perf_counter` at that moment.
        reused: Whether the connection had been used before.
        refused: Whether it was not written because an answer had come already.
        is_last: Whether the connection is closed after the answer.
        received: The bytes of a successful answer received so far, when they arrive in several pieces.
    """

    # Class attributes, because most bodies keep the initial values.
    written = False
    written_at = 0.0
    reused = False
    refused = False
    is_last = False
    received: bytes | bytearray = b""
    _is_known = False

    def __init__(self, body: bytes, send_state: SendState, known: SeenConnections) -> None:
        # No super().__init__(): the properties below replace the attributes that it would set.
        self._body = body
        self._send_state = send_state
        self._known = known

    def note_connection(self, protocol: ResponseHandler | None) -> None:
        """Note whether the connection had been used before; only the first call counts."""
        if protocol is not None and not self._is_known:
            self._is_known = True
            self.reused = self._known.add(protocol)

    @property
    def size(self) -> int:
        """The length of the body in bytes."""
        return len(self._body)

    @property
    def headers(self) -> CIMultiDict[str]:
        """The headers that the body adds to the request."""
        return _BODY_HEADERS

    @property
    def content_type(self) -> str:
        """The media type of the body."""
        return _BODY_HEADERS["Content-Type"]

    @property
    def filename(self) -> None:
        """None: the body is not a file."""

    @property
    def encoding(self) -> None:
        """None: the body is bytes, not text."""

    @property
    def autoclose(self) -> bool:
        """True: the body needs no closing."""
        return True

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return self._body.decode(encoding, errors)

    async def as_bytes(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Return the body."""
        return self._body

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body; current aiohttp calls `write_with_length` instead."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write the body, unless its call was cancelled or its connection cannot be trusted."""
        if self._send_state.cancelled:
            # Before Python 3.12, aiohttp writes one pass of the loop later, and the call may have been abandoned
            # meanwhile.
            raise asyncio.CancelledError
        protocol = getattr(writer, "protocol", None)
        self.note_connection(protocol)
        if protocol is not None and protocol.should_close:
            # An answer has come already. It belongs to an earlier request, and so would a key in it.
            self.refused = True
            raise ConnectionAbortedError
        if self.is_last and protocol is not None:
            protocol.force_close()
        transport = writer.transport
        if transport is not None and not transport.is_closing():
            self.written = self._send_state.maybe_processed = True
            self.written_at = time.perf_counter()
        await writer.write(self._body)
