"""Requests and responses of ASGI, and the path at which an app is mounted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import unquote

import attrs
from multidict import CIMultiDict, CIMultiDictProxy

from openrouter_async.integrations.web._cookies import read_cookies

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


@attrs.frozen
class Request:
    """A request, as ASGI describes it.

    Attributes:
        scope: The scope of the connection, such as ``request.scope`` of Django, Litestar, Quart and Starlette.
        receive: The callable that gives the body; None if it has no body.
    """

    scope: MutableMapping[str, Any] = attrs.field(repr=False)
    receive: Receive | None = attrs.field(default=None, repr=False)

    @property
    def method(self) -> str:
        """Return the HTTP method."""
        method: str = self.scope["method"]
        return method

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """Return the headers, with case-insensitive names."""
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.scope["headers"]]
        return CIMultiDictProxy(CIMultiDict(pairs))

    @property
    def cookies(self) -> dict[str, str]:
        """Return the cookies; see `read_cookies`."""
        return read_cookies(self.headers.getall("Cookie", ()))

    async def read(self, max_size: int) -> bytes:
        """Return the body; of one larger than ``max_size`` bytes, only the start, which is still larger than that."""
        body = bytearray()
        is_over = self.receive is None
        while not is_over and len(body) <= max_size and self.receive is not None:
            message = await self.receive()
            body += message.get("body", b"")
            is_over = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return bytes(body)


@attrs.define
class Response:
    """A response, which is an ASGI app as well: ``await response(scope, receive, send)``.

    Attributes:
        status: The HTTP status.
        body: The body; text is sent as UTF-8, and the chunks of a generator until the browser disconnects.
        headers: The headers, with case-insensitive names. ``Content-Length`` is added if it is known.
    """

    status: int = 200
    body: str | bytes | AsyncGenerator[bytes, None] = attrs.field(default=b"", repr=False)
    headers: CIMultiDict[str] = attrs.field(factory=CIMultiDict, converter=CIMultiDict[str], repr=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, without its body if the request is a HEAD."""
        body = self.body.encode() if isinstance(self.body, str) else self.body
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        if isinstance(body, bytes):
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        if isinstance(body, bytes):
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
        else:
            await _stream(body, receive, send)


async def _stream(chunks: AsyncGenerator[bytes, None], receive: Receive, send: Send) -> None:
    async def send_all() -> None:
        # Servers raise OSError if the browser has disconnected.
        with contextlib.suppress(OSError):
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def wait_for_disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(send_all()), asyncio.ensure_future(wait_for_disconnect())]
    async with contextlib.aclosing(chunks):
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()


def locate(scope: Scope) -> tuple[str, str]:
    """Return the path that the browser requested, and its part below the path at which the app is mounted.

    By the specification, ``path`` is the whole path and starts with ``root_path``. Some frameworks leave the path at
    which an app is mounted out of ``path``, and some of those leave it out of ``root_path`` as well.

    See Also:
        https://asgi.readthedocs.io/en/latest/specs/www.html#http-connection-scope
    """
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    raw = unquote((scope.get("raw_path") or b"").decode("latin-1").partition("?")[0])
    if raw and not raw.endswith(path) and raw.endswith(path.rstrip("/")):
        # Litestar adds a slash to the end of the path that it passes to a mounted app.
        path = path.rstrip("/")
    public = raw if raw.endswith(path) else path
    if not public.startswith(root + "/"):
        public = root + public
    return public, path.removeprefix(root) if path.startswith(root + "/") else path
