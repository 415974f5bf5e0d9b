"""aiohttp and asyncio by hand: as an application would write it, tuned, and as little as possible."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import aiohttp
from yarl import URL

from benchmarks.client import VERIFIER, Client, Tls


class HandWritten(Client):
    """aiohttp, as an application would write it."""

    def __init__(self, base_url: str, tls: Tls | None) -> None:
        self._base_url = base_url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls.context if tls else True), timeout=aiohttp.ClientTimeout(total=30)
        )

    async def exchange(self, code: str) -> str:
        body = {"code": code, "code_verifier": VERIFIER, "code_challenge_method": "S256"}
        async with self._session.post(f"{self._base_url}/auth/keys", json=body) as response:
            if response.status >= 400:
                raise RuntimeError(f"{response.status}: {await response.text()}")
            payload = await response.json()
        key: str = payload["key"]
        return key

    async def close(self) -> None:
        await self._session.close()


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class HandTuned(Client):
    """aiohttp, by hand, with all that makes it faster; one timer watches the time limits of all calls."""

    def __init__(
        self,
        base_url: str,
        tls: Tls | None,
        *,
        dumps: Callable[[Any], bytes] = _dumps,
        loads: Callable[[bytes], Any] = json.loads,
    ) -> None:
        self._dumps, self._loads = dumps, loads
        self._url = URL(f"{base_url}/auth/keys")
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "hand-tuned",
            "Content-Type": "application/json",
        }
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls.context if tls else True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        self._loop = asyncio.get_running_loop()
        self._due: dict[asyncio.Task[object], float] = {}
        self._watch = self._loop.call_later(1, self._cancel_late)

    async def exchange(self, code: str) -> str:
        body = self._dumps({"code": code, "code_verifier": VERIFIER, "code_challenge_method": "S256"})
        task = asyncio.current_task()
        assert task is not None
        self._due[task] = self._loop.time() + 30
        try:
            response = await self._session.request(
                "POST", self._url, data=body, headers=self._headers, allow_redirects=False
            )
            content = await response.read()
        finally:
            del self._due[task]
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {content!r}")
        key: str = self._loads(content)["key"]
        return key

    def _cancel_late(self) -> None:
        now = self._loop.time()
        for task, due in self._due.items():
            if due < now:
                task.cancel()
        self._watch = self._loop.call_later(1, self._cancel_late)

    async def close(self) -> None:
        self._watch.cancel()
        await self._session.close()


class _BareProtocol(asyncio.Protocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes]
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data
        start = buffer.find(b"\r\n\r\n") + 4
        if start < 4:
            return
        length = int(buffer[buffer.index(b"Content-Length: ") + 16 :].split(b"\r\n", 1)[0])
        if len(buffer) >= start + length:
            self._buffer = b""
            self.answer.set_result(buffer)


class Bare(Client):
    """A protocol that can read only this one answer: the cost of asyncio itself, which no client can undercut."""

    def __init__(self, base_url: str, tls: Tls | None) -> None:
        url = URL(base_url)
        assert url.host is not None
        assert url.port is not None
        self._host, self._port, self._tls = url.host, url.port, tls.context if tls else None
        self._head = (
            f"POST {url.path}/auth/keys HTTP/1.1\r\nHost: {url.authority}\r\nAccept: application/json\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._idle: list[_BareProtocol] = []
        self._slots = asyncio.Semaphore(100)

    async def exchange(self, code: str) -> str:
        body = _dumps({"code": code, "code_verifier": VERIFIER, "code_challenge_method": "S256"})
        async with self._slots:
            protocol = self._idle.pop() if self._idle else await self._connect()
            protocol.answer = asyncio.get_running_loop().create_future()
            protocol.transport.write(self._head + b"%d\r\n\r\n" % len(body) + body)
            answer = await protocol.answer
            self._idle.append(protocol)
        key: str = json.loads(answer[answer.index(b"\r\n\r\n") :])["key"]
        return key

    async def _connect(self) -> _BareProtocol:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(_BareProtocol, self._host, self._port, ssl=self._tls)
        return protocol

    async def close(self) -> None:
        for protocol in self._idle:
            protocol.transport.close()
