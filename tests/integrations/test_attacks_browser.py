"""Attacks on web logins for which a real browser decides what it sends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import BrowserContext, expect
from yarl import URL

from openrouter_async.testing import FakeOpenRouter, Fault
from tests.integrations.support import KINDS, Site, Visitor, respond, running
from tests.kit.servers import forward

pytestmark = [pytest.mark.browser, pytest.mark.parametrize("kind", KINDS)]

# Its own scripts act, so the user has clicked nothing. The query has the address to attack.
BOMB = """<!doctype html><title>Elsewhere</title><script type="module">
const target = new URL(location).searchParams.get("target");
const ask = number => fetch(`${target}?next=/${number}`, {mode: "no-cors", credentials: "include"}).catch(() => 0);
await Promise.all([...Array(40).keys()].map(ask));
for (const kind of ["iframe", "img"]) {
    const all = [...Array(10).keys()].map(number => {
        const element = document.createElement(kind);
        element.src = `${target}?next=/${kind}${number}`;
        const settled = new Promise(done => { element.onload = element.onerror = done; });
        document.body.append(element);
        return settled;
    });
    await Promise.all(all);
}
location = target;
</script><body></body>"""
SMUGGLE = """<!doctype html><title>Beside</title><script>
const [name, value] = decodeURIComponent(location.hash.slice(1)).split("=");
for (const cookie of [`${name}=${value}`, `\\xa0${name}=${value}`, `\\u2000${name}=${value}`])
    document.cookie = `${cookie}; path=/`;
</script>"""


def html(kind: str, text: str) -> Any:
    """A handler that answers with a page."""

    async def handle(request: Any) -> Any:
        response = respond(kind, text)
        response.headers["Content-Type"] = "text/html"
        return response

    return handle


@pytest.fixture
async def elsewhere(fake: FakeOpenRouter) -> AsyncIterator[Site]:
    """A site of somebody else."""
    routes = {"/bomb": html("aiohttp", BOMB), "/smuggle": html("aiohttp", SMUGGLE)}
    async with running("aiohttp", fake, routes=routes) as (site, _):
        yield site


async def test_page_of_another_site_starts_no_login_without_a_click(
    kind: str, fake: FakeOpenRouter, elsewhere: Site, browser: BrowserContext
) -> None:
    async with running(kind, fake, routes={"/": html(kind, "<h1>Home</h1>")}) as (site, _):
        page = await browser.new_page()
        # Other ports of a host are of the same site, and localhost is another one than 127.0.0.1.
        other = URL(elsewhere.url).with_host("localhost") / "bomb"
        await page.goto(str(other.with_query(target=f"{site.url}/login")))

        # Playwright looks into a page as if its user acted there, so it must not look before the page has moved on.
        await page.wait_for_url(f"{site.url}/login")
        link = page.get_by_role("link", name="Sign in with OpenRouter")
        await expect(link).to_be_visible()
        assert await browser.cookies(site.url) == []

        # The user who wants to sign in still can.
        await link.click()
        await page.wait_for_url(f"{fake.auth_url}?**")
        await page.get_by_role("button", name="Authorize").click(no_wait_after=True)
        await expect(page.get_by_role("heading", name="Home")).to_be_visible()
        assert fake.counters["exchange"] == 1


async def test_cookies_of_a_sibling_host_finish_no_login(
    kind: str, fake: FakeOpenRouter, elsewhere: Site, browser: BrowserContext
) -> None:
    app = URL("https://app.example/callback")
    async with running(kind, fake, callback_url=f"{app}/{{state}}") as (site, _), Visitor(site) as attacker:
        start = await attacker.open("/login")
        pairs = dict(cookie.partition(";")[0].split("=", 1) for cookie in start.cookies)
        ((name, value),) = ((name, value) for name, value in pairs.items() if name.startswith("__Host-"))
        callback = URL(site.url).join(URL(fake.consent(start.location)).relative())
        page = await browser.new_page()
        # Ports do not separate cookies, so the page beside sets cookies for the app as a sibling host does.
        await page.goto(f"{elsewhere.url}/smuggle#{name}={value}")
        async with page.expect_request(str(callback)) as request:
            response = await page.goto(str(callback))
        sent = (await (await request.value).all_headers())["cookie"].split(";")

        assert response is not None
        assert response.status == 400
        # Chromium refused the plain name, for its prefix, and took the two that some parsers read like it.
        assert sum(pair.endswith(f"{name}={value}") for pair in sent) == 2
        assert not any(pair.strip(" ").startswith(name) for pair in sent)
        assert fake.counters["exchange"] == 0


async def test_invented_codes_of_one_browser_pause_nobody(
    kind: str, fake: FakeOpenRouter, browser: BrowserContext
) -> None:
    # OpenRouter allows ten rejections and one sign-in, and throttles the whole app from then on.
    fake.queue_faults(Fault.delay(0).times(11), Fault.status(429, headers={"Retry-After": "3600"}).times(1000))
    assert browser.browser is not None
    user = await browser.browser.new_context()
    async with (
        running(kind, fake, max_rejections=1, routes={"/": html(kind, "<h1>Home</h1>")}) as (site, _),
        another_address(URL(site.url).port or 0) as attackers_url,
    ):
        attacker, page = await browser.new_page(), await user.new_page()
        await attacker.goto(f"{site.url}/login")
        callback = URL(URL(attacker.url).query["callback_url"])
        statuses: list[int] = []

        async def attack(times: int) -> None:
            for _ in range(times):
                invented = callback.update_query(code=f"invented-{len(statuses)}")
                # Ports do not separate cookies, so the attacker's browser sends its own from the other address, too.
                response = await attacker.goto(f"{attackers_url}{invented.relative()}")
                assert response is not None
                statuses.append(response.status)

        # The attacker's address may be that of a proxy, so the bound is ten.
        await attack(11)
        await page.goto(f"{site.url}/login")
        await attack(1)
        await page.get_by_role("button", name="Authorize").click(no_wait_after=True)
        await attack(1)
        await expect(page.get_by_role("heading", name="Home")).to_be_visible()
        await user.close()

        assert statuses == [400] * 10 + [429] * 3
        assert (fake.counters["exchange"], len(fake.issued_keys)) == (11, 1)


@contextlib.asynccontextmanager
async def another_address(port: int) -> AsyncIterator[str]:
    """A site that is also reached from another address of this computer; gives the URL to use for that."""

    connections = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await forward(reader, writer, port, address="127.0.0.2")

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            # Since Python 3.12, a server waits for its connections, and a browser keeps them open.
            for connection in connections:
                connection.cancel()
