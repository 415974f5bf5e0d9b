"""Web apps that run, and browsers that can be looked into."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import re
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import attrs
import uvicorn
from aiohttp import web
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from yarl import URL

from openrouter_async import OpenRouter, RetryPolicy
from openrouter_async.integrations.asgi import Request, Response, create_app
from openrouter_async.login import Grant
from openrouter_async.testing import FakeOpenRouter
from tests.support import PATIENCE, ROOT


@attrs.define(kw_only=True)
class Site:
    """A web app that runs, and the OpenRouter that it uses."""

    name: str
    url: str
    fake: FakeOpenRouter
    log: Path | None = None

    @property
    def exchanges(self) -> int:
        """How many exchanges reached OpenRouter."""
        return self.fake.counters["exchange"]

    @property
    def keys(self) -> int:
        """How many keys were issued."""
        return len(self.fake.issued_keys)


@attrs.frozen(kw_only=True)
class Page:
    """The response to a request."""

    status: int
    headers: Mapping[str, str]
    cookies: tuple[str, ...]
    text: str

    @property
    def json(self) -> dict[str, Any]:
        """Return the JSON of the response."""
        value: dict[str, Any] = json.loads(self.text)
        return value

    @property
    def location(self) -> str:
        """Where it leads; a failure when it does not."""
        assert self.status == 303, (self.status, self.text)
        return self.headers["Location"]


class Visitor:
    """A browser without a screen: it keeps cookies, and follows nothing by itself.

    Each request has a connection of its own, so that any worker may get it.
    """

    def __init__(self, site: Site, *, keeps_cookies: bool = True) -> None:
        self._site = site
        self._keeps_cookies = keeps_cookies

    async def __aenter__(self) -> Self:
        jar = aiohttp.CookieJar(unsafe=True) if self._keeps_cookies else aiohttp.DummyCookieJar()
        connector = aiohttp.TCPConnector(force_close=True)
        self.session = aiohttp.ClientSession(cookie_jar=jar, connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.session.close()

    async def open(
        self, address: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, data: Any = None
    ) -> Page:
        url = URL(self._site.url + address if address.startswith("/") else address, encoded=True)
        async with self.session.request(method, url, headers=headers, data=data, allow_redirects=False) as response:
            return Page(
                status=response.status,
                headers=response.headers,
                cookies=tuple(response.headers.getall("Set-Cookie", ())),
                text=await response.text(),
            )

    async def call(
        self, address: str, body: Mapping[str, Any] | None = None, *, method: str = "POST", **headers: str
    ) -> Page:
        """Send a request as a script of the app's own page does."""
        given = {"Origin": self._site.url, "Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return await self.open(
            address, method=method, headers=given, data=None if body is None else json.dumps(body).encode()
        )

    async def start_json(self, path: str = "/login") -> dict[str, Any]:
        """Start a login as a script does, and return the answer."""
        page = await self.call(path)
        assert page.status == 200, page.text
        return page.json

    async def start(self, path: str = "/login") -> str:
        """Start a login, and return the address of the consent page."""
        location = (await self.open(path)).location
        assert location.startswith(self._site.fake.auth_url)
        return location

    async def consent(self, path: str = "/login") -> str:
        """Start a login and consent, and return the callback that the browser would open next."""
        return self._site.fake.consent(await self.start(path))

    async def key_shown(self) -> str | None:
        """Return the end of the key, which the app shows to a signed-in user."""
        found = re.search(r'id="key">(\w{4})<', (await self.open("/account")).text)
        return None if found is None else found[1]

    @property
    def login_cookies(self) -> list[str]:
        return [cookie.key for cookie in self.session.cookie_jar if "openrouter" in cookie.key]


def load(name: str) -> ModuleType:
    """A fresh copy of an example, which reads its settings when it is loaded."""
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"examples_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Whoever looks for the annotations of a function looks here.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def settings(fake: FakeOpenRouter, url: str) -> dict[str, str]:
    """Return the environment variables that an example reads."""
    return {
        "APP_URL": url,
        "PORT": str(urlsplit(url).port),
        "OPENROUTER_BASE_URL": fake.base_url,
    }


def bound_socket() -> tuple[socket.socket, str]:
    """Return a socket on a free port, and its address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    listener.setblocking(False)
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.asynccontextmanager
async def serve_aiohttp(app: web.Application, listener: socket.socket, **options: Any) -> AsyncIterator[None]:
    runner = web.AppRunner(app, shutdown_timeout=1.0, **options)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()
        listener.close()


class _Server(uvicorn.Server):
    """A server that ends at once: uvicorn looks every tenth of a second whether to end, then sleeps another tenth.

    It never renews its ``Date`` header, either.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        # Interrupts are for pytest.
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for _ in range(20):
            if not (self.server_state.connections or self.server_state.tasks):
                await self.lifespan.shutdown()
                return
            await asyncio.sleep(0.005)
        await super().shutdown(sockets)


@contextlib.asynccontextmanager
async def serve_asgi(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    config = uvicorn.Config(app, log_config=None, lifespan="on", ws="none", timeout_graceful_shutdown=5)
    server = _Server(config)
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            assert not task.done(), "the app did not start"
            await asyncio.sleep(0.005)
        yield
    finally:
        server.ended.set()
        await task


@contextlib.contextmanager
def serve_in_thread(app: Any) -> Iterator[str]:
    """A server for tests without a loop; gives its address."""
    listener, url = bound_socket()
    begun, end = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serve_asgi(app, listener):
            begun.set()
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert begun.wait(PATIENCE)
        yield url
    finally:
        end.set()
        thread.join()


@contextlib.asynccontextmanager
async def serve_process(
    command: list[str], url: str, log: Path, environment: Mapping[str, str], *, folder: Path = ROOT
) -> AsyncIterator[int]:
    """Run a server in a process of its own, and yield its id once its address answers."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        await _answers(url, process, log)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), PATIENCE)
        except TimeoutError:
            process.kill()
            raise


def read(log: Path) -> str:
    return log.read_text()


async def _answers(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + PATIENCE
    async with aiohttp.ClientSession() as session:
        while True:
            assert process.returncode is None, read(log)
            assert loop.time() < give_up_at, read(log)
            try:
                async with session.get(url) as response:
                    assert response.status == 200, read(log)
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)


KINDS = ("aiohttp", "asgi", "starlette", "fastapi")


def integration(kind: str) -> ModuleType:
    return importlib.import_module(f"openrouter_async.integrations.{kind}")


def respond(kind: str, text: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
    """A response of a framework."""
    if kind == "aiohttp":
        return web.Response(text=text, status=status, headers=headers)
    if kind == "asgi":
        return Response(status, text, headers or {})
    return PlainTextResponse(text, status, headers)


def asgi_routes(routes: Mapping[str, Any]) -> Any:
    """An ASGI app without a framework and without a lifespan."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        handler = routes.get(scope["path"])
        response = Response(404) if handler is None else await handler(Request(scope))
        await response(scope, receive, send)

    return app


def make_app(kind: str, routes: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """An app with a login, and with handlers of GETs of its own."""
    if kind == "asgi":
        return create_app(asgi_routes(routes or {}), **options)
    app = {"aiohttp": web.Application, "starlette": Starlette, "fastapi": FastAPI}[kind]()
    integration(kind).setup(app, **options)
    for path, handler in (routes or {}).items():
        if kind == "aiohttp":
            app.router.add_get(path, handler)
        else:
            app.router.add_route(path, handler)
    return app


@contextlib.asynccontextmanager
async def running(
    kind: str, fake: FakeOpenRouter, *, routes: Mapping[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Site, Any]]:
    """A site with a login; options replace those that a login against the fake has. Gives its app as well."""
    listener, url = bound_socket()
    site = Site(name=kind, url=url, fake=fake)

    async def on_login(request: Any, grant: Grant) -> None:
        pass

    defaults: dict[str, Any] = {
        "callback_url": url + "/callback/{state}",
        "on_login": on_login,
        "client": lambda: OpenRouter(None, base_url=fake.base_url, retry=RetryPolicy.none()),
        "auth_url": fake.auth_url,
    }
    app = make_app(kind, routes, **defaults | options)
    serve = serve_aiohttp if kind == "aiohttp" else serve_asgi
    async with serve(app, listener):
        yield site, app
