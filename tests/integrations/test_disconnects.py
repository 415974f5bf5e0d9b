"""The browser disconnects, or the app ends, in the middle of a callback: the key still gets to where it belongs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import pytest
from aiohttp import web
from yarl import URL

from openrouter_async import OpenRouter
from openrouter_async._values.tasks import _SHIELDED
from openrouter_async.login import Grant
from openrouter_async.testing import FakeOpenRouter
from tests.integrations.support import KINDS, Site, Visitor, bound_socket, make_app, serve_aiohttp, serve_asgi
from tests.kit.gates import Gate
from tests.support import PATIENCE

pytestmark = pytest.mark.parametrize("kind", KINDS)


class Keys:
    """The hooks of an app that takes keys, and waits with that until the test lets it continue."""

    def __init__(self, *, is_open: bool = True, failure: Exception | None = None) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.taken: asyncio.Queue[str] = asyncio.Queue()
        self._failure = failure
        if is_open:
            self.open.set()

    async def on_login(self, request: Any, grant: Grant) -> None:
        self.reached.set()
        await self.open.wait()
        if self._failure is not None:
            raise self._failure
        self.taken.put_nowait(grant.key)

    async def on_key(self, request: Any, response: Any) -> None:
        self.taken.put_nowait(response.key)

    async def take(self) -> str:
        return await asyncio.wait_for(self.taken.get(), PATIENCE)


@contextlib.asynccontextmanager
async def serving(
    kind: str, fake: FakeOpenRouter, keys: Keys, *middlewares: Any, drain_timeout: float = 10.0
) -> AsyncIterator[tuple[Site, asyncio.Event]]:
    """Run a site whose server cancels the handler of a disconnected browser, and yield the event that is set then."""
    cancelled = asyncio.Event()
    listener, url = bound_socket()
    app = make_app(
        kind,
        callback_url=url + "/callback/{state}",
        on_login=keys.on_login,
        client=lambda: OpenRouter(None, base_url=fake.base_url, middlewares=middlewares),
        auth_url=fake.auth_url,
        drain_timeout=drain_timeout,
    )
    site = Site(name=kind, url=url, fake=fake)
    if kind == "aiohttp":
        app.middlewares.append(watch(cancelled))
        async with serve_aiohttp(app, listener, handler_cancellation=True):
            yield site, cancelled
    else:
        async with serve_asgi(cancel_on_disconnect(app, cancelled), listener):
            yield site, cancelled


def watch(cancelled: asyncio.Event) -> Any:
    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    return middleware


def cancel_on_disconnect(app: Any, cancelled: asyncio.Event) -> Any:
    """Cancel the handler when the browser disconnects, as some middlewares and servers do."""

    async def wrapper(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        handling = asyncio.ensure_future(app(scope, receive, send))
        waiting = asyncio.ensure_future(wait_for_disconnect(receive))
        await asyncio.wait((handling, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not handling.done():
            handling.cancel()
            await asyncio.wait((handling,))
            assert handling.cancelled()
            cancelled.set()
            raise asyncio.CancelledError
        await handling

    return wrapper


async def wait_for_disconnect(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def go_away_during(visitor: Visitor, callback: str, reached: asyncio.Event) -> None:
    """Open a callback, and close the connection when the given moment is reached."""
    opening = asyncio.create_task(visitor.open(callback))
    await asyncio.wait_for(reached.wait(), PATIENCE)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening


@pytest.mark.parametrize("moment", ["before it is sent", "before the answer comes", "in the hook"])
async def test_browser_that_disconnects_loses_no_key(kind: str, fake: FakeOpenRouter, moment: str) -> None:
    keys, gate = Keys(is_open=moment != "in the hook"), Gate(after=moment == "before the answer comes")
    if moment == "in the hook":
        gate.let()
    async with serving(kind, fake, keys, gate) as (site, cancelled), Visitor(site) as visitor:
        callback = await visitor.consent()
        await go_away_during(visitor, callback, keys.reached if moment == "in the hook" else gate.reached)
        await asyncio.wait_for(cancelled.wait(), PATIENCE)
        gate.let()
        keys.open.set()

        assert await keys.take() == fake.issued_keys[0].key
        assert (await visitor.open(callback)).location == "/"
        assert await keys.take() == fake.issued_keys[0].key

    assert fake.counters["exchange"] == 1


async def test_on_login_that_fails_after_a_disconnect_is_logged(
    kind: str, fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(is_open=False, failure=ValueError("of the app"))
    async with serving(kind, fake, keys) as (site, cancelled), Visitor(site) as visitor:
        await go_away_during(visitor, await visitor.consent(), keys.reached)
        await asyncio.wait_for(cancelled.wait(), PATIENCE)
        keys.open.set()

    assert "a login failed after its browser had disconnected: ValueError" in caplog.text


async def test_app_shutdown_drains_logins_under_way(kind: str, fake: FakeOpenRouter) -> None:
    keys = Keys(is_open=False)
    async with serving(kind, fake, keys) as (site, cancelled), Visitor(site) as visitor:
        await go_away_during(visitor, await visitor.consent(), keys.reached)
        await asyncio.wait_for(cancelled.wait(), PATIENCE)
        # The app begins to end now; this comes while it does.
        asyncio.get_running_loop().call_later(0.05, keys.open.set)

    assert await keys.take() == fake.issued_keys[0].key


async def test_app_shutdown_is_bounded_in_time(
    kind: str, fake: FakeOpenRouter, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(is_open=False)
    async with serving(kind, fake, keys, drain_timeout=0.01) as (site, cancelled), Visitor(site) as visitor:
        await go_away_during(visitor, await visitor.consent(), keys.reached)
        await asyncio.wait_for(cancelled.wait(), PATIENCE)
    keys.open.set()

    assert await keys.take() == fake.issued_keys[0].key
    assert "the app ended with 1 pending exchange(s)" in caplog.text


async def test_hypercorn_browser_that_disconnects_loses_no_key(kind: str, fake: FakeOpenRouter) -> None:
    if kind == "aiohttp":
        return
    keys, gate = Keys(), Gate(after=True)
    listener, url = bound_socket()
    listener.close()
    app = make_app(
        kind,
        callback_url=url + "/callback/{state}",
        on_login=keys.on_login,
        client=lambda: OpenRouter(None, base_url=fake.base_url, middlewares=[gate], on_key=keys.on_key),
        auth_url=fake.auth_url,
    )
    config = hypercorn.config.Config()
    config.bind = [f"127.0.0.1:{URL(url).port}"]
    config.errorlog = None
    end = asyncio.Event()
    server = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=end.wait))
    try:
        async with Visitor(Site(name=kind, url=url, fake=fake)) as visitor:
            callback = await patiently(visitor.consent)
            await go_away_during(visitor, callback, gate.reached)
            gate.let()

            assert [await keys.take(), await keys.take()] == [fake.issued_keys[0].key] * 2
    finally:
        end.set()
        await server


async def patiently(what: Callable[[], Awaitable[str]]) -> str:
    """Try again until the server listens."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await what()
            except OSError:
                await asyncio.sleep(0.01)


async def test_callback_is_shielded_by_one_task(kind: str, fake: FakeOpenRouter) -> None:
    gate = Gate()
    async with serving(kind, fake, keys := Keys(), gate) as (site, _), Visitor(site) as visitor:
        opening = asyncio.create_task(visitor.open(await visitor.consent()))
        await asyncio.wait_for(gate.reached.wait(), PATIENCE)
        shields = [task.get_coro() for task in asyncio.all_tasks() if task in _SHIELDED]
        gate.let()
        await opening
        assert await keys.take()

    (name,) = [getattr(shield, "__qualname__", "") for shield in shields]
    assert name.startswith("WebLogin.")
