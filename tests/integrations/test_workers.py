"""Four processes behind one port and one Valkey: what comes many times at once is exchanged once."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, expect
from yarl import URL

from openrouter_async.encryption import generate_encryption_key
from openrouter_async.pkce import PKCEPair
from openrouter_async.testing import FakeOpenRouter, Fault
from tests.integrations import single_page
from tests.integrations.conftest import UVICORN, WORKERS
from tests.integrations.support import KINDS, Page, Site, Visitor, read, serve_process
from tests.support import PATIENCE, free_port

pytestmark = [
    pytest.mark.unmeasured,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("site", KINDS, indirect=True),
]

STARTED = re.compile(r"Running on http|Application startup complete")
"""What each process says once it serves, of aiohttp or of uvicorn."""
AT_ONCE = 8
MAX_ROUNDS = 40


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey_url: str
) -> AsyncIterator[Site]:
    """The app of each framework in processes of its own."""
    kind: str = request.param
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp(kind) / "log"
    async with FakeOpenRouter() as fake, contextlib.AsyncExitStack() as processes:
        environment = {
            "KIND": kind,
            "APP_URL": url,
            "OPENROUTER_BASE_URL": fake.base_url,
            "REDIS_URL": valkey_url,
            "PYTHONUNBUFFERED": "1",
            "SECRET_KEY": generate_encryption_key(),
        }
        logs = []
        for number, command in enumerate(commands(kind, str(port))):
            logs.append(Path(f"{log}{number}"))
            await processes.enter_async_context(serve_process(command, url, logs[-1], environment))
        async with asyncio.timeout(PATIENCE):
            while sum(len(STARTED.findall(read(path))) for path in logs) < WORKERS:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield Site(name=kind, url=url, fake=fake)


def commands(kind: str, port: str) -> list[list[str]]:
    if kind == "aiohttp":
        return [["-m", "tests.integrations.workers", port]] * WORKERS
    return [[*UVICORN, "--port", port, "tests.integrations.workers:app"]]


async def flood(site: Site, send: Callable[[], Coroutine[Any, Any, Page]]) -> list[Page]:
    """Send a request many times at once, while OpenRouter takes its time."""
    site.fake.counters.clear()
    site.fake.queue_faults(Fault.delay(0.2))
    pages = await asyncio.gather(*(send() for _ in range(AT_ONCE)))
    assert site.exchanges == 1
    return pages


async def test_workers_exchange_a_callback_that_comes_many_times_once(site: Site) -> None:
    async with Visitor(site) as visitor:
        # The system may give all connections to one process, so this goes on until they went to several.
        for _ in range(MAX_ROUNDS):
            callback = await visitor.consent("/login?next=/done")
            pages = await flood(site, lambda callback=callback: visitor.open(callback))  # type: ignore[misc]
            assert [page.location for page in pages] == ["/done"] * AT_ONCE
            if len({page.headers["X-Worker"] for page in pages}) > 1:
                return
    pytest.fail("all requests of a flood went to one process, again and again")


async def test_workers_exchange_a_pasted_code_that_comes_many_times_once(site: Site) -> None:
    async with Visitor(site) as visitor:
        started = await visitor.start_json()
        code = URL(site.fake.consent(started["authorization_url"])).query["code"]
        body = {"login": started["login"], "code": code}
        pages = await flood(site, lambda: visitor.call("/login/complete", body))
        status = (await visitor.open(started["status_url"])).json

    assert [page.json["status"] for page in pages] == ["finished"] * AT_ONCE
    assert status["status"] == "finished"


async def test_workers_exchange_a_body_that_comes_many_times_once(site: Site) -> None:
    pair = PKCEPair.generate()
    code = site.fake.issue_code(code_challenge=pair.code_challenge, code_challenge_method="S256")
    body = {"code": code, "code_verifier": pair.code_verifier}
    async with Visitor(site) as visitor:
        pages = await flood(site, lambda: visitor.call("/exchange", body))
        late = await visitor.call("/exchange", body)

    assert sorted(page.status for page in pages) == [200] + [409] * (AT_ONCE - 1)
    assert late.status == 409
    assert site.exchanges == 1


@pytest.mark.browser
async def test_workers_give_a_service_worker_that_sends_the_callback_twice_one_key(
    site: Site, profile: BrowserContext
) -> None:
    keys = site.keys
    page = await profile.new_page()
    await page.goto(site.url)
    await single_page.register_worker(page)
    popup = await single_page.press(page, "popup")
    async with popup.expect_event("close"):
        await single_page.say(popup, "Authorize")

    await expect(page.locator("#status")).to_have_text("finished")
    assert site.exchanges == 1
    assert site.keys == keys + 1


@pytest.mark.browser
async def test_workers_all_know_that_a_login_was_cancelled(site: Site, profile: BrowserContext) -> None:
    page = await profile.new_page()
    await page.goto(site.url)
    tab = await single_page.press(page, "tab")
    await page.locator("#cancel").click()
    await expect(page.locator("#status")).to_have_text("urn:openrouter-async:login-cancelled")
    await single_page.say(tab, "Authorize")

    await expect(tab.get_by_text("This sign-in was cancelled.")).to_be_visible()
    assert site.exchanges == 0
