from __future__ import annotations

import asyncio
import gc
import gzip
import inspect
import json
import socket
import ssl
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from aiohttp.payload import Payload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from openrouter_async import Handler, OpenRouter, Outcome, Request, RequestOptions, Response, RetryPolicy, errors
from openrouter_async._http.aiohttp_parts import Body, SeenConnections, make_socket
from openrouter_async._http.bodies import BODY_LIMIT
from openrouter_async._http.chain import SendState
from openrouter_async._http.transport import Transport
from tests.kit.clocks import until
from tests.kit.requests import make_request
from tests.kit.servers import RawServer, answering, json_answer
from tests.support import free_port

KEY = "sk-or-v1-" + "a" * 64
BODY = json.dumps({"key": KEY, "user_id": "user_1"}).encode()


def make(base_url: str, **options: Any) -> OpenRouter:
    return OpenRouter("sk-or-v1-app", base_url=base_url, retry=RetryPolicy.none(), **options)


async def exchange(base_url: str, **options: Any) -> Any:
    async with make(base_url, **options) as client:
        return await client.oauth.exchange_auth_code_for_api_key(code="code-1")


async def failure_of(base_url: str, **options: Any) -> Any:
    with pytest.raises(errors.OpenRouterError) as caught:
        await exchange(base_url, **options)
    return caught.value


# --- answers -------------------------------------------------------------------------------------------------------


async def test_transport_reads_a_key() -> None:
    async with answering(json_answer(200, BODY, "X-Request-Id: r-1")) as server:
        response = await exchange(server.base_url)
    assert (response.key, response.user_id) == (KEY, "user_1")
    assert response.http_meta.status_code == 200
    assert response.http_meta.headers["x-request-id"] == "r-1"
    assert response.http_meta.request_id == "r-1"
    assert response.http_meta.attempts == 1
    assert response.http_meta.elapsed > 0


async def test_transport_request_on_the_wire_is_as_documented() -> None:
    async with answering(json_answer(200, BODY)) as server:
        async with make(server.base_url, http_referer="https://app.example", x_open_router_title="App") as client:
            await client.oauth.exchange_auth_code_for_api_key(code="code-1", code_verifier="v" * 43)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    assert lines[0] == "POST /api/v1/auth/keys HTTP/1.1"
    assert json.loads(body) == {"code": "code-1", "code_verifier": "v" * 43}
    assert "authorization" not in headers
    assert headers["content-type"] == "application/json"
    assert headers["accept"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    assert headers["http-referer"] == "https://app.example"
    assert headers["x-openrouter-title"] == "App"
    assert headers["user-agent"].startswith("openrouter-async/")
    assert len(lines) - 1 == len(headers)


async def test_transport_elapsed_includes_the_wait_for_a_connection() -> None:
    responses: list[Response] = []

    async def watch(request: Request, call_next: Handler) -> Response:
        responses.append(await call_next(request))
        return responses[-1]

    async with (
        answering(json_answer(200, BODY)) as server,
        make(server.base_url, attempt_middlewares=[watch]) as client,
    ):
        await client.oauth.exchange_auth_code_for_api_key(code="code-1")
    assert 0 < responses[0].waited < responses[0].elapsed


def deflate(body: bytes) -> bytes:
    return zlib.compress(body)


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", deflate), ("Identity", bytes)],
)
async def test_transport_unrequested_compression_keeps_the_key(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    async with answering(json_answer(200, encode(BODY), f"Content-Encoding: {encoding}")) as server:
        assert (await exchange(server.base_url)).key == KEY


_HEAD = b"HTTP/1.1 200 OK\r\n"
_TOO_LONG = _HEAD + b"Content-Length: 999\r\n\r\n" + BODY
ODD_FRAMES: dict[str, tuple[bytes, bool]] = {
    "chunks without the last one": (
        _HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(BODY), BODY),
        True,
    ),
    "too large a Content-Length, closed": (_TOO_LONG, True),
    "too large a Content-Length, kept open": (_TOO_LONG, False),
    **{
        f"Content-Encoding {coding}": (json_answer(200, BODY, f"Content-Encoding: {coding}"), False)
        for coding in ("utf-8", "none", "aws-chunked", "br", "gzip")
    },
    "a header of 60 KiB": (json_answer(200, BODY, "X-Long: " + "x" * 60_000), False),
    "a thousand headers": (json_answer(200, BODY, *(f"X-{number}: x" for number in range(1000))), False),
}


@pytest.mark.parametrize(("answer", "is_closed"), ODD_FRAMES.values(), ids=ODD_FRAMES.keys())
@pytest.mark.parametrize("is_borrowed", [False, True])
async def test_complete_key_in_an_odd_frame_is_kept(answer: bytes, is_closed: bool, is_borrowed: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"code-1")
        writer.write(answer)
        if not is_closed:
            await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, aiohttp.ClientSession() as session:
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/v1"
        options = {"session": session} if is_borrowed else {}
        timeout = 2.0 if answer is _TOO_LONG else 30.0
        assert (await exchange(base_url, timeout=timeout, **options)).key == KEY


async def test_answer_in_the_buffer_of_a_stalled_process_is_read() -> None:
    def answer(_: bytes) -> bytes:
        # Blocks the loop beyond the deadline, as SIGSTOP would.
        time.sleep(2.5)
        return json_answer(200, BODY)

    async with RawServer(answer) as server:
        assert (await exchange(server.base_url, timeout=2.0)).key == KEY


BROKEN = {
    "truncated JSON": json_answer(200, BODY[:40]),
    "not UTF-8": json_answer(200, BODY.replace(b"aaaa", b"\xff\xfe\xfd\xfc", 1)),
    "empty": json_answer(200),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "an array": json_answer(200, b"[]"),
    "null": json_answer(200, b"null"),
    "wrong types": json_answer(200, b'{"key": 7, "user_id": null}'),
    "HTML": json_answer(200, b"<html>welcome</html>"),
    "nested brackets": json_answer(200, b"[" * 200_000),
    "gzip cut off": json_answer(200, gzip.compress(BODY)[:-8], "Content-Encoding: gzip"),
    "gzip bomb": json_answer(200, gzip.compress(b" " * 200_000_000), "Content-Encoding: gzip"),
    "unknown encoding": json_answer(200, b"\x8b" + BODY, "Content-Encoding: br"),
    "too large": json_answer(200, b" " * (BODY_LIMIT + 1) + BODY),
    "redirect": json_answer(307, b"", "Location: https://elsewhere.example/"),
    "not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
async def test_transport_undocumented_answer_is_a_library_error(answer: bytes) -> None:
    async with answering(answer) as server:
        error = await failure_of(server.base_url)
    assert isinstance(error, errors.ResponseValidationError)
    assert error.outcome is Outcome.UNKNOWN
    assert error.__cause__ is None
    assert error.__context__ is None
    assert "aaaa" not in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("announced", [True, False])
async def test_transport_body_of_two_gigabytes_costs_no_memory_or_time(announced: bool) -> None:
    size = 2_147_483_648

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        length = f"Content-Length: {size}" if announced else "Connection: close"
        writer.write(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode())
        try:
            for _ in range(size // 65_536):
                writer.write(b" " * 65_536)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    tracemalloc.start()
    async with server:
        error = await failure_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/v1", timeout=5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(error, errors.ResponseValidationError)
    assert f"is larger than {BODY_LIMIT} bytes" in str(error)
    assert peak < 16 * BODY_LIMIT


async def test_transport_error_status_survives_an_unreadable_body() -> None:
    for answer in (
        json_answer(403, b"x" * (BODY_LIMIT + 1)),
        json_answer(403, b"not gzip", "Content-Encoding: gzip"),
    ):
        async with answering(answer) as server:
            error = await failure_of(server.base_url)
        assert isinstance(error, errors.ForbiddenResponseError)
        assert error.message == "Forbidden"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_transport_redirect_is_not_followed(status: int) -> None:
    async with answering(json_answer(200, BODY)) as other:
        location = f"Location: http://127.0.0.1:{other.port}/api/v1/auth/keys"
        async with answering(json_answer(status, b"", location)) as server:
            error = await failure_of(server.base_url)
        assert isinstance(error, errors.ResponseValidationError)
        assert "redirect" in str(error)
        assert (other.connections, other.requests) == (0, [])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.binary(max_size=200))
async def test_transport_answer_of_any_bytes_is_a_library_error(answer: bytes) -> None:
    async with RawServer(lambda _: answer or None) as server, make(server.base_url, timeout=5.0) as client:
        with pytest.raises((errors.TransportError, errors.ResponseValidationError, errors.APIError)) as caught:
            await client.oauth.exchange_auth_code_for_api_key(code="code-1")
    assert caught.value.outcome is not Outcome.NOT_SENT


# --- failures ------------------------------------------------------------------------------------------------------


async def test_transport_refused_connection_is_not_sent() -> None:
    error = await failure_of(f"http://127.0.0.1:{free_port()}/api/v1")
    assert isinstance(error, errors.TransportError)
    assert error.outcome is Outcome.NOT_SENT
    assert "cannot connect (Connection refused)" in str(error)


async def test_transport_unresolvable_name_is_not_sent() -> None:
    error = await failure_of("https://does-not-exist.invalid/api/v1")
    assert error.outcome is Outcome.NOT_SENT
    assert "host name cannot be resolved" in str(error)


async def test_transport_connection_closed_without_an_answer_is_unknown() -> None:
    async with RawServer(lambda _: None) as server:
        error = await failure_of(server.base_url)
    assert isinstance(error, errors.TransportError)
    assert error.outcome is Outcome.UNKNOWN
    assert not error.stale_connection


async def test_transport_pooled_connection_dead_on_reuse_is_stale() -> None:
    answers = iter([json_answer(200, BODY), None])
    async with RawServer(lambda _: next(answers)) as server, make(server.base_url) as client:
        await client.oauth.exchange_auth_code_for_api_key(code="code-1")
        with pytest.raises(errors.TransportError) as caught:
            await client.oauth.exchange_auth_code_for_api_key(code="code-2")
    assert caught.value.stale_connection
    assert server.connections == 1


async def test_transport_timeout_after_the_request_left_is_unknown() -> None:
    async with RawServer(lambda _: b"") as server:
        error = await failure_of(server.base_url, timeout=0.05)
    assert isinstance(error, errors.RequestTimeoutError)
    assert isinstance(error, TimeoutError)
    assert error.outcome is Outcome.UNKNOWN
    assert "0.05 s for an answer" in str(error)


async def test_transport_connect_timeout_is_not_sent() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with socket.create_connection(address), socket.socket() as waiting:
            waiting.setblocking(False)
            waiting.connect_ex(address)
            error = await failure_of(f"http://127.0.0.1:{address[1]}/api/v1", timeout=0.05)
    assert isinstance(error, errors.RequestTimeoutError)
    assert error.outcome is Outcome.NOT_SENT
    assert "0.05 s for a connection" in str(error)


async def test_transport_pool_timeout_is_not_sent() -> None:
    async with RawServer(lambda _: b"") as server, make(server.base_url, pool_size=1) as client:
        first = asyncio.create_task(client.oauth.exchange_auth_code_for_api_key(code="code-1"))
        await until(lambda: bool(server.requests))
        with pytest.raises(errors.RequestTimeoutError) as caught:
            await client.oauth.exchange_auth_code_for_api_key(code="code-2", options=RequestOptions(timeout=0.05))
        await client.aclose(timeout=0)
        with pytest.raises(errors.ClientClosedError):
            await first
    assert caught.value.outcome is Outcome.NOT_SENT
    assert len(server.requests) == 1


class Connection:
    def __init__(self, *, should_close: bool) -> None:
        self.should_close = should_close


class Writer:
    """Stands in for aiohttp's writer, over a connection with or without an answer on it already."""

    def __init__(self, protocol: Connection | None = None) -> None:
        if protocol is not None:
            self.protocol = protocol
        self.transport = SimpleNamespace(is_closing=lambda: False)
        self.written = b""

    async def write(self, data: bytes) -> None:
        self.written += data


def body_for(send_state: SendState, known: SeenConnections | None = None) -> Body:
    return Body(b"{}", send_state, SeenConnections() if known is None else known)


async def test_body_is_not_written_after_an_early_answer() -> None:
    writer: Any = Writer(Connection(should_close=True))
    send_state = SendState()
    body = body_for(send_state)
    with pytest.raises(ConnectionAbortedError):
        await body.write_with_length(writer, 2)
    assert (writer.written, body.written, body.refused, send_state.maybe_processed) == (b"", False, True, False)


async def test_body_of_an_abandoned_call_is_not_written() -> None:
    writer: Any = Writer(Connection(should_close=False))
    send_state = SendState()
    send_state.cancelled = True
    with pytest.raises(asyncio.CancelledError):
        await body_for(send_state).write_with_length(writer, 2)
    assert writer.written == b""


async def test_seen_connections_know_a_connection_from_its_second_use() -> None:
    known = SeenConnections()
    writer: Any = Writer(Connection(should_close=False))
    bodies = [body_for(SendState(), known) for _ in range(2)]
    for body in bodies:
        await body.write_with_length(writer, 2)
        body.note_connection(writer.protocol)
    assert [body.reused for body in bodies] == [False, True]
    assert writer.written == b"{}{}"


def test_seen_connections_forget_a_closed_connection() -> None:
    known, connection = SeenConnections(), Connection(should_close=False)
    assert [known.add(connection), known.add(connection), len(known)] == [False, True, 1]
    del connection
    gc.collect()
    assert len(known) == 0


async def test_body_with_a_writer_without_transport_is_written() -> None:
    writer: Any = Writer()
    body = body_for(SendState())
    await body.write_with_length(writer, 2)
    assert (writer.written, body.written, body.reused) == (b"{}", True, False)


async def test_body_is_an_aiohttp_payload() -> None:
    body: Payload = Body(b'{"a":1}', SendState(), SeenConnections())
    writer: Any = Writer(Connection(should_close=False))
    await body.write(writer)
    assert writer.written == await body.as_bytes() == b'{"a":1}'
    assert (body.size, body.content_type, body.decode()) == (7, "application/json", '{"a":1}')
    assert (body.filename, body.encoding, body.autoclose) == (None, None, True)


def test_socket_reads_at_most_64_kib() -> None:
    ours = make_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ()))
    with ours, socket.create_server(("127.0.0.1", 0)) as server:
        ours.connect(server.getsockname())
        theirs = server.accept()[0]
        with theirs:
            theirs.sendall(b"x" * 100_000)
            # All of the body, up to the limit.
            assert len(ours.recv(100_000, socket.MSG_WAITALL)) == 65_536
            assert len(ours.recv(256, socket.MSG_WAITALL)) == 256


class Mock:
    """Stands in for a session, as mocking libraries do: it answers, and nothing is written to a connection."""

    closed = False

    async def request(self, *_: object, **__: object) -> Any:
        loop = asyncio.get_running_loop()
        content = aiohttp.StreamReader(BaseProtocol(loop), limit=1000, loop=loop)
        content.feed_data(BODY)
        content.feed_eof()
        return SimpleNamespace(
            status=200, headers=CIMultiDict(), connection=None, content=content, content_length=len(BODY)
        )


async def test_transport_accepts_an_answer_of_a_mocked_session() -> None:
    session: Any = Mock()
    assert (await exchange("https://openrouter.invalid/api/v1", session=session)).key == KEY


# --- TLS and proxies -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_ssl_context_is_used(authority: trustme.CA, server_tls: ssl.SSLContext) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with RawServer(lambda _: json_answer(200, BODY), ssl=server_tls) as server:
        assert (await exchange(server.base_url, ssl=trusting)).key == KEY


async def test_ssl_unknown_authority_is_refused_unsent(
    server_tls: ssl.SSLContext,
) -> None:
    async with RawServer(lambda _: json_answer(200, BODY), ssl=server_tls) as server:
        error = await failure_of(server.base_url)
        assert server.requests == []
    assert error.outcome is Outcome.NOT_SENT
    assert "certificate is not valid: " in str(error)
    assert "permitted" not in str(error)
    assert error.is_permanent


async def test_proxy_is_used_for_plain_http() -> None:
    async with answering(json_answer(200, BODY)) as proxy:
        response = await exchange("http://localhost:9/api/v1", proxy=f"http://127.0.0.1:{proxy.port}")
    assert response.key == KEY
    assert proxy.requests[0].startswith(b"POST http://localhost:9/api/v1/auth/keys HTTP/1.1")


async def test_proxy_that_refuses_connect_is_not_sent() -> None:
    async with answering(json_answer(407)) as proxy:
        error = await failure_of("https://openrouter.invalid/api/v1", proxy=f"http://127.0.0.1:{proxy.port}")
    assert proxy.requests[0].startswith(b"CONNECT openrouter.invalid:443 HTTP/1.1")
    assert b"sk-or-v1-app" not in proxy.requests[0]
    assert error.outcome is Outcome.NOT_SENT
    assert "the proxy refused the connection with the status 407" in str(error)
    assert error.is_permanent


async def test_proxy_unreachable_is_not_sent() -> None:
    error = await failure_of("https://openrouter.invalid/api/v1", proxy=f"http://127.0.0.1:{free_port()}")
    assert error.outcome is Outcome.NOT_SENT
    assert "cannot connect to the proxy" in str(error)


async def test_proxy_of_environment_is_used_only_with_trust_env(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(json_answer(200, BODY)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        closed = f"http://127.0.0.1:{free_port()}/api/v1"
        assert (await failure_of(closed)).outcome is Outcome.NOT_SENT
        assert (await exchange(closed, trust_env=True)).key == KEY


@pytest.mark.parametrize("token", [None, "sk-or-v1-app"])
async def test_netrc_with_trusted_environment_is_never_read(
    token: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with answering(json_answer(200, BODY)) as server:
        for proxy in ("", f"http://127.0.0.1:{server.port}"):
            monkeypatch.setenv("http_proxy", proxy)
            async with OpenRouter(
                token, base_url=server.base_url, trust_env=True, authenticate_exchange=True
            ) as client:
                assert (await client.oauth.exchange_auth_code_for_api_key(code=f"code-{proxy}")).key == KEY
    for request in server.requests:
        authorizations = [line for line in request.split(b"\r\n") if b"authorization:" in line.lower()]
        assert authorizations == ([] if token is None else [b"Authorization: Bearer sk-or-v1-app"])
    assert len(server.requests) == 2


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:{}", "socks5h://user:secret@127.0.0.1:{}"])
async def test_proxy_of_environment_with_socks_is_refused_by_name(
    name: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    async with answering(json_answer(200, BODY)) as server:
        monkeypatch.setenv(name, proxy.format(server.port))
        client = OpenRouter(None, base_url=server.base_url, trust_env=True)
        async with client:
            with pytest.raises(errors.RequestValidationError, match="must be an http or https URL") as caught:
                await client.oauth.exchange_auth_code_for_api_key(code="code-1")
    assert caught.value.field == name
    assert "secret" not in str(caught.value)
    assert server.connections == 0


@pytest.mark.parametrize(("name", "form"), [("http_proxy", " 127.0.0.1:{} "), ("ALL_PROXY", "http://127.0.0.1:{}\n")])
async def test_proxy_of_environment_in_a_loose_form_is_used(
    name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    async with answering(json_answer(200, BODY)) as proxy:
        monkeypatch.setenv(name, form.format(proxy.port))
        assert (await exchange("http://localhost:9/api/v1", trust_env=True)).key == KEY
    assert proxy.requests[0].startswith(b"POST http://localhost:9/api/v1/auth/keys HTTP/1.1")


# --- every exception of aiohttp ------------------------------------------------------------------------------------

INFO = RequestInfo(
    URL("https://secret.example/"), "POST", CIMultiDictProxy(CIMultiDict()), URL("https://secret.example/")
)
CONNECTION = ConnectionKey("secret.example", 443, True, True, None, None, None)


def instances() -> Iterator[Exception]:
    """One of each exception that aiohttp's client can raise, made as aiohttp makes it."""
    os_error = OSError(111, "secret")
    for name, kind in inspect.getmembers(aiohttp.client_exceptions, inspect.isclass):
        if not (issubclass(kind, Exception) and kind.__module__ == "aiohttp.client_exceptions"):
            continue
        if issubclass(kind, aiohttp.ClientConnectorCertificateError):
            yield kind(CONNECTION, ssl.SSLCertVerificationError("secret"))
        elif name == "UnixClientConnectorError":
            yield kind("/secret", CONNECTION, os_error)
        elif issubclass(kind, aiohttp.ClientConnectorError):
            yield kind(CONNECTION, os_error)
        elif issubclass(kind, aiohttp.ClientResponseError):
            yield kind(INFO, (), message="secret", headers=CIMultiDict({"Authorization": "secret"}))
        elif issubclass(kind, aiohttp.ServerFingerprintMismatch):
            yield kind(b"secret", b"secret", "secret.example", 443)
        elif issubclass(kind, aiohttp.ClientOSError):
            yield kind(104, "secret")
        elif issubclass(kind, aiohttp.InvalidURL):
            yield kind("https://secret.example/")
        else:
            yield kind("secret")


OTHERS: list[Exception] = [
    OSError(32, "secret"),
    OSError("secret"),
    ConnectionResetError("secret"),
    ssl.SSLError("secret"),
    socket.gaierror(-2, "secret"),
    TimeoutError("secret"),
    ValueError("secret"),
    RuntimeError("secret"),
    AssertionError("secret"),
    UnicodeError("secret"),
]


class Raising:
    """A session that raises a given error, before or after the body was written."""

    closed = False

    def __init__(self, failure: Exception, *, written: bool) -> None:
        self.failure = failure
        self.written = written

    async def request(self, *_: object, data: Any, **__: object) -> None:
        data.written = self.written
        raise self.failure


ALL = [*instances(), *OTHERS]


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("failure", ALL, ids=[type(failure).__name__ for failure in ALL])
async def test_transport_any_exception_is_a_library_error_that_hides_it(failure: Exception, written: bool) -> None:
    session: Any = Raising(failure, written=written)
    request = make_request()
    with pytest.raises(errors.TransportError) as caught:
        await Transport(session=session).send(request)
    error = caught.value
    assert error.outcome is (Outcome.UNKNOWN if written else Outcome.NOT_SENT)
    assert isinstance(error, errors.RequestTimeoutError) is isinstance(failure, TimeoutError)
    assert error.__cause__ is None
    assert error.__context__ is None
    assert "secret" not in str(error)


def test_transport_list_of_aiohttp_exceptions_is_complete() -> None:
    assert len(list(instances())) >= 25
