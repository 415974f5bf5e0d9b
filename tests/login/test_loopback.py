from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import html
import logging
import os
import random
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import pytest
from yarl import URL

from openrouter_async import OpenRouter
from openrouter_async.errors import APIError, KeyDeliveryError, OpenRouterError, RequestValidationError
from openrouter_async.login import (
    AuthorizationDeniedError,
    InvalidCallbackError,
    LoginError,
    LoginTimeoutError,
    LoopbackLogin,
    LoopbackUnavailableError,
    StateMismatchError,
    _peers,
)
from openrouter_async.login import _sockets as ports
from tests.kit.gates import Gate
from tests.kit.servers import ScriptedServer
from tests.login.support import BUSY, GRANTED, KEY, ONCE, REFUSED, logging_in
from tests.support import PATIENCE, STRESS, free_port

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext

    from openrouter_async.testing import FakeOpenRouter


def address(login: LoopbackLogin, code: str = "the-code") -> URL:
    query = URL(login.url).query
    return URL(query["callback_url"]).update_query(code=code, state=query["state"])


class Page:
    def __init__(self, response: aiohttp.ClientResponse, text: str) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = text


async def visit(url: URL | str, *, method: str = "GET", **headers: str) -> Page:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=headers, allow_redirects=False) as response,
    ):
        return Page(response, await response.text())


async def send(login: LoopbackLogin, data: bytes) -> bytes:
    """Send raw bytes, and return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", login.port)
    try:
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_loopback_signs_the_user_in(fake: FakeOpenRouter, client: OpenRouter) -> None:
    async with LoopbackLogin(client, key_label="My tool") as login:
        callback = fake.consent(login.url)
        page, grant = await asyncio.gather(visit(callback), login.wait())

    assert page.status == 200
    assert "You are signed in" in page.text
    assert [(issued.key, issued.user_id) for issued in fake.issued_keys] == [(grant.key, grant.user_id)]
    assert [issued.label for issued in fake.issued_keys] == ["My tool"]


@pytest.mark.browser
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_loopback_with_a_real_browser_signs_in(
    host: Literal["127.0.0.1", "localhost"], fake: FakeOpenRouter, client: OpenRouter, browser: BrowserContext
) -> None:
    page = await browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    async with LoopbackLogin(
        client, host=host, auth_url=fake.auth_url, key_label="My tool", app_name="<My tool>"
    ) as login:
        await page.goto(login.url)
        async with page.expect_response(lambda response: URL(response.url).path.startswith("/callback/")) as coming:
            await page.get_by_role("button", name="Authorize").click()
        grant = await login.wait()
        arrived = await coming.value
        await page.get_by_role("heading", name="Signed in").wait_for()
        again = await page.reload()
        assert again is not None
        assert again.status == 409
    # The login is left at once here, while the browser still loads the page.
    async with LoopbackLogin(client, host=host, auth_url=fake.auth_url, app_name="<My tool>") as login:
        await page.goto(login.url)
        waiting = asyncio.create_task(login.wait())
        await page.get_by_role("button", name="Authorize").click()
        second = await waiting
    await page.get_by_role("heading", name="Signed in").wait_for()

    assert await page.get_by_text("You are signed in to <My tool>.").is_visible()
    assert arrived.status == 200
    assert [grant.key, second.key] == [issued.key for issued in fake.issued_keys]
    assert fake.issued_keys[0].label == "My tool"
    assert not errors


@pytest.mark.browser
async def test_loopback_with_a_real_browser_reports_a_denial(
    fake: FakeOpenRouter, client: OpenRouter, browser: BrowserContext
) -> None:
    page = await browser.new_page()
    async with LoopbackLogin(client, auth_url=fake.auth_url) as login:
        await page.goto(login.url)
        await page.get_by_role("button", name="Deny").click()
        with pytest.raises(AuthorizationDeniedError):
            await login.wait()
        await page.get_by_text("You cancelled the sign-in.").wait_for()

    assert not fake.issued_keys


async def test_loopback_listens_on_loopback_only_before_the_url_exists() -> None:
    async with logging_in(LoopbackLogin, GRANTED) as (login, _):
        callback = URL(login.pending.url).query["callback_url"]
        assert callback == f"http://127.0.0.1:{login.port}/callback/{login.pending.state}"
        assert (await visit(f"http://127.0.0.1:{login.port}/")).status == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_loopback_accepts_the_callback_over_ipv4_and_ipv6(host: str) -> None:
    async with logging_in(LoopbackLogin, GRANTED, host="localhost") as (login, _):
        assert URL(URL(login.url).query["callback_url"]).host == "localhost"
        assert (await visit(f"http://{host}:{login.port}{address(login).raw_path_qs}")).status == 200
        assert (await login.wait()).key == KEY


async def test_loopback_port_may_be_chosen_and_is_freed() -> None:
    port = free_port()
    for _ in range(2):
        async with logging_in(LoopbackLogin, GRANTED, port=port) as (login, _server):
            assert login.port == port
            assert (await visit(address(login))).status == 200


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_loopback_port_in_use_by_either_family_is_an_error(family: socket.AddressFamily) -> None:
    with socket.socket(family) as taken:
        taken.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        taken.listen()
        with pytest.raises(LoopbackUnavailableError, match="the port is in use") as caught:
            async with logging_in(LoopbackLogin, GRANTED, port=taken.getsockname()[1]):
                pytest.fail("it must not listen")

    assert "code" in caught.value.user_message


async def test_loopback_port_without_permission_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_bind", refuse(socket.AF_INET, errno.EACCES))
    with pytest.raises(LoopbackUnavailableError, match=r"the port is not available \(Permission denied\)"):
        async with logging_in(LoopbackLogin, GRANTED, port=80):
            pytest.fail("it must not listen")


def refuse(family: socket.AddressFamily, number: int) -> Callable[..., socket.socket]:
    bind = ports._bind

    def refusing(wanted: socket.AddressFamily, host: str, port: int) -> socket.socket:
        if wanted == family:
            raise OSError(number, os.strerror(number))
        return bind(wanted, host, port)

    return refusing


async def test_loopback_without_ipv6_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_bind", refuse(socket.AF_INET6, errno.EADDRNOTAVAIL))
    async with logging_in(LoopbackLogin, GRANTED) as (login, _):
        assert (await visit(address(login))).status == 200


async def test_loopback_without_a_port_free_in_both_families_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_bind", refuse(socket.AF_INET6, errno.EADDRINUSE))
    with pytest.raises(LoopbackUnavailableError, match="no port is free on both"):
        async with logging_in(LoopbackLogin, GRANTED):
            pytest.fail("it must not listen")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"port": -1}, "port"),
        ({"port": 65536}, "port"),
        ({"port": "80"}, "port"),
        ({"host": "0.0.0.0"}, "host"),
        ({"host": "::1"}, "host"),
    ],
)
async def test_loopback_invalid_arguments_are_refused_by_name(arguments: dict[str, Any], field: str) -> None:
    async with OpenRouter(None) as client:
        with pytest.raises(RequestValidationError) as caught:
            LoopbackLogin(client, **arguments)

    assert caught.value.field == field


async def test_loopback_start_that_fails_leaves_no_port_open() -> None:
    port = free_port()
    async with OpenRouter(None) as client:
        with pytest.raises(RequestValidationError, match="key_label"):
            async with LoopbackLogin(client, port=port, key_label="x" * 101):
                pytest.fail("it must not start")

    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


# Other requests.


async def test_loopback_stray_and_malicious_requests_change_nothing() -> None:
    async with logging_in(LoopbackLogin, GRANTED) as (login, server):
        real = address(login)
        root = URL(f"http://127.0.0.1:{login.port}")
        tries = {
            "another path": (await visit(root / "favicon.ico")).status,
            "no nonce": (await visit(root / "callback" % {"code": "x"})).status,
            "a wrong nonce": (await visit(root / "callback" / ("A" * 43) % {"code": "x"})).status,
            "an encoded path": (await visit(URL(f"{root}/%63allback/x?code=x", encoded=True))).status,
            "another state in the query": (await visit(real.update_query(state="A" * 43))).status,
            "an odd state": (await visit(real.update_query(state="forged"))).status,
            "no code": (await visit(real.with_query(None))).status,
            "two codes": (await visit(URL(f"{real}&code=other", encoded=True))).status,
            "a code with a NUL": (await visit(URL(str(real).replace("the-code", "a%00b"), encoded=True))).status,
            "another method": (await visit(real, method="POST")).status,
            "another host": (await visit(real, Host=f"evil.example:{login.port}")).status,
            "a name that starts like ours": (await visit(real, Host="localhost.evil.example:1")).status,
            "no port": (await visit(real.with_query(None), Host="127.0.0.1")).status,
        }
        assert not server.requests
        assert tries == {
            "another path": 404,
            "no nonce": 404,
            "a wrong nonce": 404,
            "an encoded path": 404,
            "another state in the query": 400,
            "an odd state": 400,
            "no code": 400,
            "two codes": 400,
            "a code with a NUL": 400,
            "another method": 405,
            "another host": 421,
            "a name that starts like ours": 421,
            "no port": 400,
        }
        assert (await visit(real)).status == 200
        assert (await login.wait()).key == KEY


async def test_loopback_bad_hosts_and_absolute_targets_are_refused() -> None:
    async with logging_in(LoopbackLogin, GRANTED) as (login, server):
        path = address(login).raw_path_qs
        host = f"127.0.0.1:{login.port}"
        for data in (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
            f"GET {path} HTTP/1.0\r\n\r\n",
            f"GET http://evil.example{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n",
        ):
            assert (await send(login, data.encode())).startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
        assert not server.requests


async def test_loopback_repeated_callbacks_get_409() -> None:
    gate = Gate()
    async with logging_in(LoopbackLogin, GRANTED, client={"middlewares": [gate]}) as (login, server):
        first = asyncio.create_task(visit(address(login)))
        await gate.reached.wait()
        while_running = await visit(address(login))
        gate.let()
        done = await first
        afterwards = await visit(address(login))

        assert (while_running.status, done.status, afterwards.status) == (409, 200, 409)
        assert "is being finished" in while_running.text
        assert "is already finished" in afterwards.text
        assert (await login.wait()).key == KEY
        assert (await login.wait()).key == KEY
        assert len(server.requests) == 1


async def test_loopback_pages_are_escaped_and_not_cached(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with logging_in(LoopbackLogin, GRANTED, app_name="<script>alert(1)</script>") as (login, _):
        pages = [await visit(f"http://127.0.0.1:{login.port}/<b>"), await visit(address(login))]

    assert html.escape("<script>alert(1)</script>") in pages[1].text
    for page in pages:
        assert "<script>" not in page.text
        assert "<b>" not in page.text
        assert login.pending.state not in page.text
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert page.headers["Content-Type"].startswith("text/html")
    assert "the-code" not in caplog.text
    assert login.pending.state not in caplog.text + repr(login)
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


@pytest.mark.stress
async def test_loopback_many_hostile_requests_do_not_keep_the_user_out(caplog: pytest.LogCaptureFixture) -> None:
    chance, count = random.Random(7), 900 if STRESS else 180
    async with logging_in(LoopbackLogin, GRANTED) as (login, server):
        host = f"Host: 127.0.0.1:{login.port}\r\nConnection: close\r\n\r\n"
        path = f"/callback/{login.pending.state}"
        hostile = [
            f"GET /callback/{'A' * 43}?code=x HTTP/1.1\r\n{host}".encode(),
            f"GET {path}?code=x&state={'B' * 43} HTTP/1.1\r\n{host}".encode(),
            f"GET {path}?code=x&code=y HTTP/1.1\r\n{host}".encode(),
            f"GET {path}?code=x%0d%0ay HTTP/1.1\r\n{host}".encode(),
            f"GET {path}?code=x HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode(),
            f"GET {path}?{'x' * 20_000} HTTP/1.1\r\n{host}".encode(),
            f"GET / HTTP/1.1\r\nX: {'x' * 100_000}\r\n{host}".encode(),
            f"POST {path}?code=x HTTP/1.1\r\nContent-Length: 1000000\r\n{host}".encode(),
            f"POST {path}?code=x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{host}zz\r\n".encode(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            bytes(chance.randrange(256) for _ in range(500)) + b"\r\n\r\n",
        ]
        # Some say nothing, or half of something, and stay.
        idle = [await asyncio.open_connection("127.0.0.1", login.port) for _ in range(100)]
        for _, writer in idle[::2]:
            writer.write(f"GET {path}?code".encode())
        limit = asyncio.Semaphore(50)

        async def attack(data: bytes) -> bytes:
            async with limit:
                return await asyncio.wait_for(send(login, data), PATIENCE)

        async with asyncio.timeout(240):
            first = asyncio.gather(*(attack(hostile[number % len(hostile)]) for number in range(count)))
            answers = await first
            assert not server.requests
            last = asyncio.gather(*(attack(hostile[number % len(hostile)]) for number in range(count // 9)))
            page = await visit(address(login))
            grant = await login.wait()
            answers += await last
        for _, writer in idle:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    statuses: dict[str, int] = {}
    for answer in answers:
        status = answer[9:12].decode() or "closed"
        statuses[status] = statuses.get(status, 0) + 1
    attacks = f"{len(answers):,} hostile requests and {len(idle)} idle connections"
    print(f"{attacks}: {dict(sorted(statuses.items()))}, then {page.status}")
    assert "200" not in statuses
    assert page.status == 200
    assert grant.key == KEY
    assert len(server.requests) == 1
    assert ["https" in record.getMessage() for record in caplog.records] in ([], [True])


async def test_loopback_late_connections_do_not_evict_the_callback() -> None:
    gate = Gate()
    async with logging_in(LoopbackLogin, GRANTED, client={"middlewares": [gate]}) as (login, _):
        visiting = asyncio.create_task(visit(address(login)))
        await gate.reached.wait()
        crowd = [await asyncio.open_connection("127.0.0.1", login.port) for _ in range(150)]
        # The first connection of the crowd was closed instead.
        assert await asyncio.wait_for(crowd[0][0].read(), PATIENCE) == b""
        gate.let()
        assert (await visiting).status == 200
        for _, writer in crowd:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_loopback_page_arrives_although_the_block_is_left_at_once() -> None:
    async with ScriptedServer(GRANTED) as server, OpenRouter(None, base_url=server.base_url) as client:
        for _ in range(20):
            async with LoopbackLogin(client) as login:
                visiting = asyncio.create_task(visit(address(login)))
                await login.wait()
            page = await visiting
            assert page.status == 200
            assert page.text.endswith("</html>\n")


# How it ends otherwise.


async def test_loopback_denial_is_reported_to_the_waiter_and_the_user() -> None:
    async with logging_in(LoopbackLogin, GRANTED) as (login, _):
        page = await visit(address(login).with_query(error="access_denied"))
        with pytest.raises(AuthorizationDeniedError):
            await login.wait()

    assert "You cancelled the sign-in." in page.text


async def test_loopback_rejected_code_is_reported_to_the_waiter_and_the_user() -> None:
    async with logging_in(LoopbackLogin, REFUSED) as (login, _):
        page = await visit(address(login))
        with pytest.raises(APIError):
            await login.wait()

    assert "Please sign in again" in page.text
    assert "the-code" not in page.text


async def test_loopback_when_openrouter_is_busy_a_reload_continues() -> None:
    async with logging_in(LoopbackLogin, BUSY, GRANTED) as (login, _):
        assert (await visit(address(login))).status == 503
        with pytest.raises(LoginTimeoutError):
            await login.wait(timeout=0.01)
        assert (await visit(address(login))).status == 200
        assert (await login.wait()).key == KEY


async def test_loopback_middleware_exception_reaches_the_waiter() -> None:
    async def fail(_request: object, _call_next: object) -> Any:
        raise ZeroDivisionError

    async with logging_in(LoopbackLogin, GRANTED, client={"middlewares": [fail]}) as (login, _):
        assert (await visit(address(login))).status == 500
        with pytest.raises(ZeroDivisionError):
            await login.wait()


async def test_loopback_key_that_on_key_refused_reaches_the_waiter() -> None:
    async def fail(*_: object) -> None:
        raise OSError("disk full")

    async with logging_in(LoopbackLogin, GRANTED, client={"on_key": fail}) as (login, _):
        await visit(address(login))
        with pytest.raises(KeyDeliveryError) as caught:
            await login.wait()

    assert caught.value.response.key == KEY


async def test_loopback_failure_without_a_waiter_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with logging_in(LoopbackLogin, REFUSED) as (login, _):
        await visit(address(login))

    assert not caplog.records


async def test_loopback_wait_is_bounded() -> None:
    async with logging_in(LoopbackLogin, GRANTED) as (login, _):
        with pytest.raises(LoginTimeoutError) as caught:
            await login.wait(timeout=0.01)
        assert isinstance(caught.value, TimeoutError)
        assert (await visit(address(login))).status == 200
        assert (await login.wait(timeout=None)).key == KEY


async def test_loopback_wait_timeout_does_not_cut_off_an_exchange() -> None:
    gate = Gate(after=True)
    async with logging_in(LoopbackLogin, GRANTED, client={"middlewares": [gate]}) as (login, _):
        visiting = asyncio.create_task(visit(address(login)))
        await gate.reached.wait()
        waiting = asyncio.create_task(login.wait(timeout=0.001))
        await asyncio.wait((waiting,), timeout=0.05)
        assert not waiting.done()
        gate.let()

        assert (await waiting).key == KEY
        assert (await visiting).status == 200


async def test_loopback_cancelled_closes_the_port_and_leaves_no_task() -> None:
    entered = asyncio.Event()
    port = free_port()

    async def sign_in() -> None:
        async with logging_in(LoopbackLogin, GRANTED, port=port) as (login, _):
            entered.set()
            await login.wait()

    task = asyncio.create_task(sign_in())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert asyncio.all_tasks() == {asyncio.current_task()}
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def fail_to_keep(*_: object) -> None:
    raise OSError("disk full")


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize(
    ("answer", "on_key", "warning"),
    [
        (GRANTED, None, "a key is lost: nobody waited for the login any more, and no on_key is set"),
        (GRANTED, fail_to_keep, "a key is lost: nobody waited for the login any more, and on_key raised"),
        (REFUSED, None, None),
    ],
)
async def test_loopback_key_of_an_abandoned_login_is_logged_as_lost(
    answer: bytes, on_key: Any, warning: str | None, is_late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(after=True)
    async with (
        ScriptedServer(answer) as server,
        OpenRouter(None, base_url=server.base_url, middlewares=[gate], on_key=on_key, retry=ONCE) as client,
        LoopbackLogin(client) as login,
    ):
        prompt, _ = typing("the-code")
        waiting = asyncio.create_task(login.wait(prompt=prompt))
        await gate.reached.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        closing = asyncio.create_task(login.aclose(timeout=0 if is_late else 60))
        if is_late:
            await closing
        await asyncio.sleep(0)
        gate.let()
        await closing

    assert [record.getMessage() for record in caplog.records] == ([] if warning is None else [warning])


# Pasting.


def typing(*texts: str) -> tuple[Callable[[OpenRouterError | None], Any], list[OpenRouterError | None]]:
    """Return the prompt of a user who pastes these texts and then stops, and the errors that it is called with."""
    told: list[OpenRouterError | None] = []
    left = list(texts)

    async def prompt(error: OpenRouterError | None) -> str:
        told.append(error)
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return prompt, told


@pytest.mark.parametrize("form", ["the-code", "code=the-code", "url"])
async def test_loopback_pasted_code_signs_in(form: str) -> None:
    async with logging_in(LoopbackLogin, GRANTED) as (login, server):
        prompt, _ = typing(str(address(login)) if form == "url" else form)
        assert (await login.wait(prompt=prompt)).key == KEY
        assert (await visit(address(login))).status == 409
        assert server.codes == ["the-code"]


async def test_loopback_callback_ends_an_unanswered_prompt() -> None:
    async with logging_in(LoopbackLogin, GRANTED) as (login, _):
        prompt, told = typing()
        waiting = asyncio.create_task(login.wait(prompt=prompt))
        assert (await visit(address(login))).status == 200

        assert (await waiting).key == KEY
        assert told == [None]


async def test_loopback_prompt_after_a_wrong_answer_asks_again_and_says_why() -> None:
    async with logging_in(LoopbackLogin, BUSY, GRANTED) as (login, _):
        prompt, told = typing("not a code", f"code=x&state={'A' * 43}", "the-code", "the-code")

        assert (await login.wait(prompt=prompt)).key == KEY
    assert [type(error) for error in told[:3]] == [type(None), InvalidCallbackError, StateMismatchError]
    assert isinstance(told[3], APIError)


async def test_loopback_prompt_that_fails_ends_the_wait() -> None:
    async def prompt(_: object) -> str:
        raise BrokenPipeError

    async with logging_in(LoopbackLogin, GRANTED) as (login, _):
        with pytest.raises(BrokenPipeError):
            await login.wait(prompt=prompt)


async def test_loopback_prompt_at_its_end_leaves_the_login_to_the_browser() -> None:
    asked = asyncio.Event()

    async def prompt(_: object) -> str:
        asked.set()
        raise EOFError

    async with logging_in(LoopbackLogin, GRANTED) as (login, _):
        waiting = asyncio.create_task(login.wait(prompt=prompt))
        await asked.wait()
        assert (await visit(address(login))).status == 200
        assert (await waiting).key == KEY


async def test_loopback_prompt_that_fails_after_the_callback_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    async with logging_in(LoopbackLogin, GRANTED) as (login, _):

        async def prompt(_: object) -> str:
            assert (await visit(address(login))).status == 200
            raise EOFError

        assert (await login.wait(prompt=prompt)).key == KEY
        gc.collect()

    assert not caplog.records


async def test_loopback_code_pasted_beside_the_callback_gets_the_same_grant(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    async with logging_in(LoopbackLogin, GRANTED, client={"middlewares": [gate]}) as (login, server):
        visiting = asyncio.create_task(visit(address(login)))
        await gate.reached.wait()
        prompt, _ = typing("the-code")
        waiting = asyncio.create_task(login.wait(prompt=prompt))
        await asyncio.sleep(0)
        gate.let()

        assert (await waiting).key == KEY
        assert (await visiting).status == 200
        await asyncio.gather(*(task for task in asyncio.all_tasks() if "_finish_login" in repr(task)))
        assert len(server.requests) == 1
    assert not caplog.records


# The browser.


async def test_loopback_opens_the_browser_in_a_thread_without_waiting() -> None:
    called, proceed = threading.Event(), threading.Event()
    seen: list[tuple[str, bool]] = []

    def opener(url: str) -> bool:
        seen.append((url, threading.current_thread() is threading.main_thread()))
        called.set()
        return proceed.wait(PATIENCE)

    async with logging_in(LoopbackLogin, GRANTED, opener=opener) as (login, _):
        login.open_browser()
        assert await asyncio.to_thread(called.wait, 10)
        assert seen == [(login.url, False)]
        assert (await visit(address(login))).status == 200
        proceed.set()


async def test_loopback_browser_that_cannot_be_opened_is_no_error() -> None:
    called = threading.Event()

    def opener(_: str) -> bool:
        called.set()
        raise OSError("no display")

    async with logging_in(LoopbackLogin, GRANTED, opener=opener) as (login, _):
        login.open_browser()
        assert await asyncio.to_thread(called.wait, 10)
        assert (await visit(address(login))).status == 200


@pytest.mark.parametrize("host", ["localhost:3001", "127.0.0.1:1", "LOCALHOST", "[::1]:65535", "127.0.0.2:80"])
async def test_loopback_behind_a_mapped_port_accepts_any_loopback_name(host: str) -> None:
    async with logging_in(LoopbackLogin, GRANTED) as (login, _):
        assert (await visit(address(login), Host=host)).status == 200
        assert (await login.wait()).key == KEY


@pytest.mark.parametrize("family", ["127.0.0.1", "[::1]"])
async def test_loopback_callback_of_another_user_is_refused(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with logging_in(LoopbackLogin, GRANTED) as (login, server):
        real = f"http://{family}:{login.port}{address(login).raw_path_qs}"
        with monkeypatch.context() as patch:
            patch.setattr(_peers, "trusted_uids", lambda: frozenset({12345}))
            assert (await visit(real)).status == 403
        assert not server.requests
        assert (await visit(real)).status == 200
        assert (await login.wait()).key == KEY


@pytest.mark.parametrize("is_reset", [False, True])
async def test_loopback_callback_whose_sender_is_gone_is_refused(is_reset: bool) -> None:
    """A socket that was closed has no user any more, so that another user could hide behind it."""
    async with logging_in(LoopbackLogin, GRANTED) as (login, server):
        with socket.create_connection(("127.0.0.1", login.port)) as sender:
            if is_reset:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            url = address(login)
            sender.sendall(f"GET {url.raw_path_qs} HTTP/1.1\r\nHost: 127.0.0.1:{login.port}\r\n\r\n".encode())
        # Whatever became of that connection, its request was read before this one.
        assert (await visit(f"http://127.0.0.1:{login.port}/")).status == 404
        assert not server.requests


@pytest.mark.shows_secrets  # in the frames of the client that stands for the browser
async def test_loopback_recognises_tls_on_its_port(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "openrouter_async.login")
    told: list[str] = []
    async with logging_in(LoopbackLogin, GRANTED, on_tls=lambda: told.append("tls")) as (login, _):
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(str(address(login)).replace("http:", "https:"))
        assert (await visit(address(login))).status == 200
    assert told == ["tls"]
    assert "a browser tried https" in caplog.text


async def test_loopback_closed_during_an_exchange_answers_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate(after=True)
    async with (
        ScriptedServer(GRANTED) as server,
        OpenRouter(None, base_url=server.base_url, middlewares=[gate], on_key=lambda *_: None) as client,
    ):
        login = await LoopbackLogin(client).__aenter__()
        visiting = asyncio.create_task(visit(address(login)))
        await gate.reached.wait()
        closing = asyncio.create_task(login.aclose())
        gate.let()
        await closing
        await login.aclose()
        with contextlib.suppress(aiohttp.ClientError):
            assert (await visiting).status in (200, 410)
    assert not caplog.records


async def test_open_browser_shows_the_url_in_no_process_and_deletes_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "arguments")
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\nprintf "%s" "$1" >{tmp_path}/arguments; echo chatter\n')
    program.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"w3m -dump:{program}")
    async with logging_in(LoopbackLogin, GRANTED) as (login, _):
        opened = login.open_browser()
        uri = await asyncio.to_thread((tmp_path / "arguments").read_text)
        assert await opened
        assert login.pending.state not in uri
        page = Path(URL(uri).path)
        assert (page.stat().st_mode & 0o777, page.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert html.escape(login.url) in page.read_text()
    assert not page.parent.exists()


async def test_open_browser_without_any_browser_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER", "false")
    async with logging_in(LoopbackLogin, GRANTED) as (login, _):
        assert not await login.open_browser()


def test_login_errors_each_have_a_user_message() -> None:
    kinds: list[Any] = [LoginError, *LoginError.__subclasses__()]

    for kind in kinds:
        error = kind("x")
        assert error.user_message.endswith((".", "settings/keys."))
        assert isinstance(error.restart_login, bool)
