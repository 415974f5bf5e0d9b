"""A server on the raw wire that misbehaves as a script says, and a proxy that does so at random."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from email.utils import formatdate
from typing import Protocol, Self

import attrs

from tests.kit.servers import http_answer

SECRET = "5ec4e7"
"""A part of every code, verifier, bearer token and key of these tests, and of nothing else."""


def code_of(number: int) -> str:
    return f"code-{SECRET}-{number:06}"


def verifier_of(number: int) -> str:
    return f"verifier-{SECRET}-{number:06}".ljust(43, "~")


BEARER = f"sk-or-v1-{SECRET}".ljust(73, "b")


@attrs.frozen
class WireRequest:
    """A request as it came over the wire."""

    head: bytes = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)

    @property
    def code(self) -> str:
        code: str = json.loads(self.body)["code"]
        return code


class Wire:
    """A connection, with the ways to end it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer
        self.is_open = True

    async def send(self, data: bytes) -> None:
        try:
            self._writer.write(data)
        except RuntimeError as closed:
            # uvloop raises this; asyncio raises in `drain`.
            raise ConnectionResetError from closed
        await self._writer.drain()

    def close(self) -> None:
        self.is_open = False
        self._writer.close()

    def reset(self) -> None:
        """End the connection by RST instead of FIN."""
        self.is_open = False
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def wait_for_end(self) -> None:
        """Do nothing until the other side closes."""
        while await self.reader.read(65_536):
            pass
        self.close()


def error(status: int, message: str, *headers: str) -> bytes:
    body = json.dumps({"error": {"code": status, "message": message}})
    return http_answer(status, body, "Content-Type: application/json", *headers)


# --- sources of answers --------------------------------------------------------------------------------------------


class Source(Protocol):
    """The source of the answers that are not faulty."""

    async def fetch(self, request: WireRequest) -> bytes: ...


class Authority:
    """Issues one key for each code; a code that is used again is refused, by a 400 or a 403 in turn."""

    def __init__(self) -> None:
        self.issued: dict[str, str] = {}
        self.refusals = 0

    async def fetch(self, request: WireRequest) -> bytes:
        code = request.code
        if code in self.issued:
            self.refusals += 1
            if self.refusals % 2:
                return error(400, "Invalid code")
            return error(403, "Invalid code or code_verifier")
        self.issued[code] = key = f"sk-or-v1-{SECRET}{len(self.issued):058x}"
        return http_answer(200, json.dumps({"key": key, "user_id": "user_1"}), "Content-Type: application/json")


# --- the steps of scripts ------------------------------------------------------------------------------------------


@attrs.frozen
class Act:
    """The fault of one request: whether the source sees the request, and which bytes are sent back.

    Attributes:
        name: For tallies.
        fetches: Whether the source answers the request, and so may issue a key.
        play: The steps that send the source's answer; the answer is empty if the source was not asked.
    """

    name: str
    fetches: bool
    play: Callable[[Wire, bytes], Awaitable[None]]


async def _deliver(wire: Wire, real: bytes) -> None:
    await wire.send(real)


async def _drop(wire: Wire, _real: bytes) -> None:
    wire.close()


async def _reset(wire: Wire, _real: bytes) -> None:
    wire.reset()


async def _hang(wire: Wire, _real: bytes) -> None:
    await wire.wait_for_end()


async def _cut_headers(wire: Wire, real: bytes) -> None:
    await wire.send((real or http_answer(500))[:20])
    wire.close()


async def _cut_body(wire: Wire, real: bytes) -> None:
    head, _, body = real.partition(b"\r\n\r\n")
    await wire.send(head + b"\r\n\r\n" + body[: len(body) // 2])
    wire.close()


async def _reset_in_body(wire: Wire, real: bytes) -> None:
    head, _, body = real.partition(b"\r\n\r\n")
    await wire.send(head + b"\r\n\r\n" + body[: len(body) // 2])
    wire.reset()


async def _cut_chunked_body(wire: Wire, real: bytes) -> None:
    await wire.send(chunked(real).removesuffix(b"0\r\n\r\n"))
    wire.close()


async def _cut_endless_body(wire: Wire, real: bytes) -> None:
    _, _, body = real.partition(b"\r\n\r\n")
    await wire.send(http_answer(200, body[: len(body) // 2], length=False))
    wire.close()


async def _deliver_chunked(wire: Wire, real: bytes) -> None:
    await wire.send(chunked(real))


async def _deliver_and_close(wire: Wire, real: bytes) -> None:
    await wire.send(real.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
    wire.close()


async def _deliver_until_end(wire: Wire, real: bytes) -> None:
    _, _, body = real.partition(b"\r\n\r\n")
    await wire.send(http_answer(200, body, length=False))
    wire.close()


async def _deliver_as_http_1_0(wire: Wire, real: bytes) -> None:
    await wire.send(real.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    wire.close()


async def _deliver_bytewise(wire: Wire, real: bytes) -> None:
    for position in range(len(real)):
        await wire.send(real[position : position + 1])
        await asyncio.sleep(0)


async def _deliver_twice(wire: Wire, real: bytes) -> None:
    await wire.send(real + real)


async def _drip(wire: Wire, real: bytes) -> None:
    """One byte at a time, slower than anybody waits."""
    with contextlib.suppress(ConnectionError):
        for position in range(len(real)):
            await wire.send(real[position : position + 1])
            await asyncio.sleep(0.05)


def chunked(real: bytes) -> bytes:
    """The same answer in chunks of 7 bytes, with an extension and a trailer."""
    status, _, rest = real.partition(b"\r\n")
    _, _, body = rest.partition(b"\r\n\r\n")
    chunks = b"".join(
        b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (body[at : at + 7] for at in range(0, len(body), 7))
    )
    return status + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def prefixed(interim: bytes) -> Callable[[Wire, bytes], Awaitable[None]]:
    async def play(wire: Wire, real: bytes) -> None:
        await wire.send(interim)
        await asyncio.sleep(0)
        await wire.send(real)

    return play


def saying(data: bytes, *, close: bool = False) -> Callable[[Wire, bytes], Awaitable[None]]:
    async def play(wire: Wire, _real: bytes) -> None:
        await wire.send(data)
        if close:
            wire.close()

    return play


OK = Act("deliver", True, _deliver)
CHUNKED = Act("chunked", True, _deliver_chunked)
CLOSE = Act("Connection: close", True, _deliver_and_close)
UNTIL_END = Act("no length", True, _deliver_until_end)
HTTP_1_0 = Act("HTTP/1.0", True, _deliver_as_http_1_0)
BYTEWISE = Act("bytewise", True, _deliver_bytewise)
TWICE = Act("answered twice", True, _deliver_twice)
CONTINUE = Act("100 Continue", True, prefixed(b"HTTP/1.1 100 Continue\r\n\r\n"))
EARLY_HINTS = Act("103 Early Hints", True, prefixed(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"))
HTML_502 = b"<!DOCTYPE html><html><head><title>502 Bad gateway</title></head><body>cloudflare</body></html>"


def drop(*, after: bool) -> Act:
    return Act(f"drop {_when(after)}", after, _drop)


def reset(*, after: bool) -> Act:
    return Act(f"reset {_when(after)}", after, _reset)


def hang(*, after: bool) -> Act:
    return Act(f"hang {_when(after)}", after, _hang)


def cut_headers(*, after: bool) -> Act:
    return Act(f"headers cut {_when(after)}", after, _cut_headers)


def garbage(*, after: bool) -> Act:
    return Act(f"garbage {_when(after)}", after, saying(b"\x16\x03\x01\x02\x00garbage\r\n\r\n", close=True))


def status(code: int, *headers: str, after: bool = False, message: str = "Something", html: bool = False) -> Act:
    data = http_answer(code, HTML_502, "Content-Type: text/html", *headers) if html else error(code, message, *headers)
    return Act(f"{code}{' HTML' if html else ''} {_when(after)}", after, saying(data))


def _when(after: bool) -> str:
    return "after the key" if after else "before the key"


CUT_BODY = Act("body cut after the key", True, _cut_body)
RESET_IN_BODY = Act("reset in the body after the key", True, _reset_in_body)
CUT_CHUNKED_BODY = Act("chunked body cut after the key", True, _cut_chunked_body)
CUT_ENDLESS_BODY = Act("body without length cut after the key", True, _cut_endless_body)
DRIP = Act("drip after the key", True, _drip)


def http_date(moment: float) -> str:
    return formatdate(moment, usegmt=True)


# --- the server and the proxy --------------------------------------------------------------------------------------


class WireServer:
    """A server on a loopback port that reads requests and plays an act for each.

    Args:
        acts: One for each request in the order of their coming, or a callable that chooses.
        source: The source of answers; by default an `Authority`.
    """

    def __init__(
        self, acts: Iterable[Act] | Callable[[WireRequest], Act] = (), *, source: Source | None = None
    ) -> None:
        script = iter(() if callable(acts) else acts)
        self._choose: Callable[[WireRequest], Act] = acts if callable(acts) else lambda _: next(script, OK)
        self.authority = Authority()
        self._source = self.authority if source is None else source
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests: list[WireRequest] = []
        self.delivered: list[str] = []
        self.connections = 0
        self.tally: Counter[str] = Counter()
        self.idle_act: Callable[[Wire], Awaitable[None]] | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=512)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1"

    @property
    def open_connections(self) -> int:
        return len(self._tasks)

    async def until_closed(self) -> None:
        """Wait until the other side has closed all its connections."""
        await asyncio.gather(*self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        wire = Wire(reader, writer)
        try:
            await self._serve(wire)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            # asyncio.streams complains of a connection's task that was cancelled.
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)

    async def _serve(self, wire: Wire) -> None:
        while wire.is_open:
            request = await _read_request(wire.reader)
            self.requests.append(request)
            act = self._choose(request)
            self.tally[act.name] += 1
            real = await self._source.fetch(request) if act.fetches else b""
            await act.play(wire, real)
            if act is OK and real.startswith(b"HTTP/1.1 200"):
                self.delivered.append(request.code)
            if self.idle_act is not None:
                await self.idle_act(wire)


async def _read_request(reader: asyncio.StreamReader) -> WireRequest:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    )
    return WireRequest(head, await reader.readexactly(length))


class Upstream:
    """A source that fetches answers from another server, which makes a `WireServer` a proxy."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for _reader, writer in self._idle:
            writer.close()
            await writer.wait_closed()

    async def fetch(self, request: WireRequest) -> bytes:
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request.head + request.body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        body = await reader.readexactly(length)
        self._idle.append((reader, writer))
        return head + body


FAULTS: Sequence[Act] = (
    drop(after=False),
    drop(after=True),
    reset(after=False),
    reset(after=True),
    cut_headers(after=False),
    cut_headers(after=True),
    garbage(after=False),
    garbage(after=True),
    hang(after=False),
    hang(after=True),
    CUT_BODY,
    RESET_IN_BODY,
    CUT_CHUNKED_BODY,
    CUT_ENDLESS_BODY,
    DRIP,
    status(500),
    status(500, after=True),
    status(502, html=True),
    status(502, html=True, after=True),
    status(503, "Retry-After: 1"),
    status(503, after=True),
    status(504, after=True),
    status(408),
    status(408, after=True),
    status(429),
    status(429, "Retry-After-Ms: 20"),
    status(520, html=True, after=True),
    status(302, "Location: https://elsewhere.example/"),
    status(401, message="Missing Authentication header"),
)
"""Every fault that a proxy may inject.

A refusal never comes after the key here. A server that redeems a code and then says 429, 401 or 409 breaks its word,
and is believed; see `LIES`.
"""

LIES: Sequence[Act] = (
    status(429, after=True),
    status(429, "Retry-After-Ms: 20", after=True),
    status(401, after=True, message="Missing Authentication header"),
    status(403, after=True, message="Authorization code expired"),
    status(409, after=True),
)
"""Refusals of requests that were carried out, which no client can recognise."""


def by_chance(share: float, seed: int, faults: Sequence[Act] = FAULTS) -> Callable[[WireRequest], Act]:
    """Choose a fault for a given share of the requests."""
    chance = random.Random(seed)

    def choose(_request: WireRequest) -> Act:
        return chance.choice(faults) if chance.random() < share else OK

    return choose


class HeldAct:
    """An act that is played when a test opens it.

    Attributes:
        asked: Set when the act is to be played.
        open: To be set by the test.
        act: The act.
    """

    def __init__(self, act: Act = OK) -> None:
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        self._act = act
        self.act = Act("held", act.fetches, self._play)

    async def _play(self, wire: Wire, real: bytes) -> None:
        self.asked.set()
        await self.open.wait()
        await self._act.play(wire, real)
