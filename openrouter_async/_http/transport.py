"""The transport: a pooled aiohttp session."""

from __future__ import annotations

import asyncio
import json
import os
import time
import zlib
from contextlib import suppress
from ssl import SSLCertVerificationError, SSLContext, SSLError
from typing import Final

import aiohttp
from yarl import URL

from openrouter_async._http.aiohttp_parts import Body, NoCookies, SeenConnections, make_socket
from openrouter_async._http.chain import Request, Response
from openrouter_async._http.proxies import proxy_from_environment
from openrouter_async._http.timeouts import Deadlines
from openrouter_async.errors import (
    ClientClosedError,
    OpenRouterError,
    Outcome,
    RequestTimeoutError,
    ResponseValidationError,
    TransportError,
)

BODY_LIMIT: Final = 1_048_576
"""The maximum number of bytes of a body, before and after decompression."""

MAX_HEADER_SIZE: Final = 65_536
"""The maximum number of bytes of a header or of the status line: some proxies exceed aiohttp's default, 8 KiB."""

MAX_HEADERS: Final = 1_024
"""The maximum number of headers of an answer; aiohttp's default is 128."""

_SESSION_CLOSED: Final = "the session that the client uses is closed"
_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)
_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32


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


class _UnreadableBodyError(Exception):
    reason: str


class _BodyTooLargeError(_UnreadableBodyError):
    reason = f"is larger than {BODY_LIMIT} bytes"


class _UndecodableBodyError(_UnreadableBodyError):
    reason = "cannot be decompressed"


class _EarlyAnswerError(Exception):
    pass


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
            raise ClientClosedError(_SESSION_CLOSED)
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
                content = await _read(answer, body)
            except BaseException:
                answer.close()
                raise
            return _to_response(answer, content, body, started)
        except asyncio.CancelledError as cancelled:
            if not deadline.absorb_cancellation():
                # Without aiohttp's frames, which hold headers and bodies.
                cancelled.__traceback__ = None
                raise
            if answer is not None and _is_json_object(body.received):
                # The JSON is complete, but Content-Length was too large and the server keeps the connection open.
                return _to_response(answer, bytes(body.received), body, started)
            error = _translate(TimeoutError(), request, body)
        except OpenRouterError:
            raise
        except Exception as caught:  # noqa: BLE001 - whatever it is, the caller gets one of our errors
            error = _translate(caught, request, body, is_closed=session.closed)
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


async def _read(answer: aiohttp.ClientResponse, sent: Body) -> bytes:
    connection = answer.connection
    if sent.refused or (connection is not None and not sent.written):
        sent.note_connection(connection and connection.protocol)
        raise _EarlyAnswerError
    try:
        content = answer.content
        if content.is_eof():
            # A short body arrives in the same segment as the headers, so there is no need to wait.
            body = content.read_nowait()
        else:
            is_success = 200 <= answer.status < 300
            body = await _read_on(content, sent, is_success=is_success, length=answer.content_length)
        if len(body) > BODY_LIMIT:
            raise _BodyTooLargeError
        encoding = answer.headers.get("Content-Encoding")
        return body if encoding is None else _decompress(body, encoding)
    except _UnreadableBodyError as failure:
        answer.close()
        if answer.status >= 400:
            # The status determines the error; the body would add only a message.
            return b""
        reason = failure.reason
        # A traceback that shows local variables would show a key in it.
        body = b""
    raise ResponseValidationError(
        f"{answer.status}: the body {reason}", status_code=answer.status, headers=answer.headers.copy()
    )


async def _read_on(content: aiohttp.StreamReader, sent: Body, *, is_success: bool, length: int | None) -> bytes:
    if length is not None and length > BODY_LIMIT:
        raise _BodyTooLargeError
    # No frame here may hold the response: its connection would be left to the cyclic garbage collector.
    body = bytearray()
    if is_success:
        sent.received = body
    try:
        while chunk := await content.readany():
            body += chunk
            if len(body) > BODY_LIMIT:
                break
    except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
        # The framing is broken, but the bytes so far may be the whole JSON. Keep its key, because the code is used up.
        with suppress(Exception):
            # Only this private method returns the bytes from before the failure; the public ones raise it.
            body += content._read_nowait(-1)  # noqa: SLF001
        if not (is_success and _is_json_object(body)):
            raise
    return bytes(body)


def _is_json_object(body: bytes | bytearray) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _decompress(body: bytes, encoding: str) -> bytes:
    # The request asks for "identity", but an answer that is compressed nevertheless may hold a key.
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        # Some servers send values that are not compressions, such as "utf-8", "none" or "aws-chunked".
        if _is_json_object(body):
            return body
        raise _UndecodableBodyError
    decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        text = decompressor.decompress(body, BODY_LIMIT + 1)
    except zlib.error:
        if _is_json_object(body):
            return body
        raise _UndecodableBodyError from None
    if len(text) > BODY_LIMIT:
        raise _BodyTooLargeError
    if not decompressor.eof:
        raise _UndecodableBodyError
    return text


_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    # The most specific first. The exceptions' own messages are not used, because some quote the server's answer.
    (_EarlyAnswerError, "there was an answer before the request"),
    (aiohttp.ClientHttpProxyError, "the proxy refused the connection"),
    (aiohttp.ClientProxyConnectionError, "cannot connect to the proxy"),
    (aiohttp.ClientConnectorDNSError, "the host name cannot be resolved"),
    (aiohttp.ClientConnectorCertificateError, "the server's certificate is not valid"),
    (aiohttp.ClientSSLError, "the TLS handshake failed"),
    (aiohttp.ServerFingerprintMismatch, "the server's certificate has another fingerprint"),
    (aiohttp.ClientConnectorError, "cannot connect"),
    (aiohttp.ServerDisconnectedError, "the server closed the connection without an answer"),
    (aiohttp.ClientPayloadError, "the connection broke in the middle of the body"),
    (aiohttp.ClientResponseError, "the answer is not HTTP"),
    (aiohttp.InvalidURL, "the URL cannot be used"),
    (aiohttp.NonHttpUrlClientError, "the URL is not http or https"),
    (aiohttp.ClientConnectionError, "the connection broke"),
    (OSError, "the connection broke"),
)


def _translate(caught: Exception, request: Request, body: Body, *, is_closed: bool = False) -> OpenRouterError:
    if is_closed and isinstance(caught, RuntimeError):
        return ClientClosedError(_SESSION_CLOSED)
    outcome = Outcome.UNKNOWN if body.written else Outcome.NOT_SENT
    place = f"{request.method} {request.url.scheme}://{request.url.authority}{request.url.raw_path}"
    if isinstance(caught, TimeoutError):
        when = "an answer" if body.written else "a connection"
        return RequestTimeoutError(f"{place}: waited more than {request.timeout:g} s for {when}", outcome=outcome)
    return TransportError(
        f"{place}: {_describe_failure(caught, body)}",
        outcome=outcome,
        is_permanent=_is_permanent(caught, body),
        stale_connection=body.reused and isinstance(caught, (_EarlyAnswerError, aiohttp.ClientConnectionError)),
    )


def _describe_failure(caught: Exception, body: Body) -> str:
    reason = next((text for kind, text in _REASONS if isinstance(caught, kind)), None)
    if reason is None:
        reason = f"{type(caught).__name__} while the request was {'under way' if body.written else 'being made'}"
    if isinstance(caught, aiohttp.ClientHttpProxyError):
        return f"{reason} with the status {caught.status}"
    if (tls := _tls_reason(caught)) is not None:
        return f"{reason}: {tls}"
    if isinstance(caught, OSError) and caught.errno is not None:
        return f"{reason} ({os.strerror(caught.errno) if caught.errno > 0 else type(caught).__name__})"
    return reason


def _tls_reason(caught: Exception) -> str | None:
    """Return OpenSSL's reason for a failed handshake; its errno is always "Operation not permitted"."""
    if isinstance(caught, aiohttp.ClientConnectorCertificateError):
        caught = caught.certificate_error
    elif isinstance(caught, aiohttp.ClientConnectorSSLError):
        caught = caught.os_error
    if isinstance(caught, SSLCertVerificationError):
        return getattr(caught, "verify_message", None)
    return getattr(caught, "reason", None) if isinstance(caught, SSLError) else None


def _is_permanent(caught: Exception, body: Body) -> bool:
    """Return whether another attempt would fail in the same way."""
    if isinstance(caught, aiohttp.ClientHttpProxyError):
        return caught.status in (403, 407)
    if isinstance(caught, (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch)):
        return True
    return not body.written and isinstance(caught, (TypeError, ValueError)) and not isinstance(caught, OSError)
