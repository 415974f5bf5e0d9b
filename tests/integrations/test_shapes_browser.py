"""Logins by popups, tabs and polling in a real browser, and attacks on them by other sites and service workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, expect

from openrouter_async.testing import FakeOpenRouter
from tests.browser import browse_without_cookies
from tests.integrations import shapes
from tests.integrations.single_page import answer, make_routes, press, register_worker, say
from tests.integrations.support import KINDS, Site, running

pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("site", KINDS, indirect=True),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A single-page app of each framework."""
    kind: str = request.param
    guide = {f"/{shape}.html": answer(kind, shapes.visible_files()[f"pages/{shape}.html"]) for shape in shapes.SHAPES}
    routes = {**make_routes(kind), **guide}
    options: dict[str, Any] = {"exchange_path": "/exchange", "logout_path": "/logout"}
    async with FakeOpenRouter() as fake, running(kind, fake, routes=routes, **options) as (site, _):
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other(site: Site) -> AsyncIterator[Site]:
    """A page of another origin of the same computer, which browsers take for the same site."""
    async with running("aiohttp", site.fake, routes=make_routes("aiohttp")) as (other, _):
        yield other


@pytest_asyncio.fixture(loop_scope="module")
async def page(profile: BrowserContext, site: Site) -> Page:
    page = await profile.new_page()
    await page.goto(site.url)
    return page


async def test_popup_tells_its_opener_and_closes(page: Page, site: Site) -> None:
    popup = await press(page, "popup")
    async with popup.expect_event("close"):
        await say(popup, "Authorize")

    await expect(page.locator("#status")).to_have_text("finished")
    (told,) = json.loads(await page.locator("#told").text_content() or "")
    assert set(told) == {"origin", "type", "status", "login"}
    assert (told["origin"], told["type"], told["status"]) == (site.url, "openrouter-login", "finished")
    assert site.exchanges == 1


async def test_popup_that_was_denied_stays_and_tells_its_opener(page: Page, site: Site) -> None:
    popup = await press(page, "popup")
    await say(popup, "Deny")

    await expect(popup.get_by_text("You cancelled the sign-in.")).to_be_visible()
    await expect(page.locator("#told")).to_contain_text('"failed"')
    await expect(page.locator("#status")).to_have_text("urn:openrouter-async:authorization-denied")
    assert site.exchanges == 0


async def test_popup_cut_off_from_its_opener_uses_the_broadcast_channel(page: Page, site: Site) -> None:
    popup = await press(page, "popup")
    await popup.evaluate("window.opener = null")
    callback = site.fake.consent(popup.url)
    # A page without an opener, as `Cross-Origin-Opener-Policy` leaves it.
    window = await page.context.new_page()
    await window.goto(callback)

    await expect(page.locator("#told")).to_contain_text('"channel":true')
    await expect(page.locator("#status")).to_have_text("finished")


async def test_tab_says_that_it_can_be_closed_and_page_follows(page: Page, site: Site) -> None:
    complaints: list[str] = []
    tab = await press(page, "tab")
    tab.on("console", lambda message: complaints.append(message.text))
    await say(tab, "Authorize")

    await expect(tab.get_by_text("You can close this tab.")).to_be_visible()
    await expect(page.locator("#status")).to_have_text("finished")
    # Neither the address nor the history has the code, so that a reload leads back into the app.
    assert tab.url == f"{site.url}/done"
    await tab.reload()
    await expect(tab).to_have_title("Done")
    assert site.exchanges == 1
    assert [said for said in complaints if "policy" in said.lower()] == []


async def test_two_tabs_sign_in_at_once(page: Page, site: Site, profile: BrowserContext) -> None:
    second = await profile.new_page()
    await second.goto(site.url)
    tabs = [await press(page, "tab"), await press(second, "tab")]

    await asyncio.gather(*(say(tab, "Authorize") for tab in reversed(tabs)))

    for opener in (page, second):
        await expect(opener.locator("#status")).to_have_text("finished")
    assert site.exchanges == 2


async def test_login_that_is_cancelled_in_the_middle_ends_in_a_page(page: Page, site: Site) -> None:
    tab = await press(page, "tab")
    await page.locator("#cancel").click()
    await expect(page.locator("#status")).to_have_text("urn:openrouter-async:login-cancelled")
    await say(tab, "Authorize")

    await expect(tab.get_by_text("This sign-in was cancelled.")).to_be_visible()
    assert site.exchanges == 0


async def test_service_worker_that_sends_callback_twice_gets_one_key(page: Page, site: Site) -> None:
    keys = site.keys
    await register_worker(page)
    popup = await press(page, "popup")
    async with popup.expect_event("close"):
        await say(popup, "Authorize")

    await expect(page.locator("#status")).to_have_text("finished")
    assert site.exchanges == 1
    assert site.keys == keys + 1


@pytest.mark.parametrize("shape", shapes.SHAPES)
async def test_page_of_the_guide_signs_in(
    site: Site, sign_in_by_page: Callable[[str, Site], Awaitable[None]], shape: str
) -> None:
    keys = site.keys
    await sign_in_by_page(shape, site)
    assert site.keys == keys + 1


FOLLOW = """() => {
    window.seen = [];
    const source = new EventSource(started.status_url);
    source.addEventListener("status", event => {
        const {status} = JSON.parse(event.data);
        seen.push(status);
        if (status !== "pending") source.close();
    });
}"""


async def test_page_follows_a_login_by_server_sent_events(page: Page, site: Site) -> None:
    tab = await press(page, "tab")
    await page.evaluate(FOLLOW)
    await page.wait_for_function("seen.length > 0")
    await say(tab, "Authorize")

    await page.wait_for_function("seen.at(-1) === 'finished'")
    assert await page.evaluate("seen") == ["pending", "finished"]


SIGN_OUT = "async () => (await fetch('/logout', {method: 'POST'})).json()"


async def test_page_signs_out_and_forgets_a_login_in_another_tab(page: Page, site: Site) -> None:
    tab = await press(page, "tab")
    answer = await page.evaluate(SIGN_OUT)
    await say(tab, "Authorize")

    assert answer == {"status": "signed_out", "settings_url": "https://openrouter.ai/settings/keys"}
    await expect(tab.get_by_role("heading", name="Cookies are needed")).to_be_visible()
    assert site.exchanges == 0


ATTACK = """async ([site, login]) => {
    const ask = async (method, path, body) => {
        const options = {method, credentials: "include", body: body && JSON.stringify(body)};
        const kinds = [{}, {"Content-Type": "application/json"}, {"Content-Type": "text/plain"}];
        const said = [];
        for (const headers of body ? kinds : [{}]) {
            for (const mode of ["cors", "no-cors"]) {
                try {
                    const answer = await fetch(site + path, {...options, headers, mode});
                    said.push(answer.type === "opaque" ? "" : await answer.text());
                } catch { said.push(""); }
            }
        }
        return said.join("");
    };
    const body = {login, code: "auth_code_evil", code_verifier: "v".repeat(43)};
    return [
        await ask("POST", "/login"), await ask("GET", `/login/status/${login}`),
        await ask("DELETE", `/login/status/${login}`), await ask("POST", "/login/complete", body),
        await ask("POST", "/exchange", body), await ask("POST", "/logout"),
    ];
}"""


async def test_page_of_another_origin_reaches_no_route(
    page: Page, site: Site, other: Site, profile: BrowserContext
) -> None:
    tab = await press(page, "tab")
    login = await page.evaluate("started.login")
    cookies = await profile.cookies(site.url)
    foreign = await profile.new_page()
    await foreign.goto(other.url)
    said = await foreign.evaluate(ATTACK, [site.url, login])

    assert said == [""] * 6
    assert await profile.cookies(site.url) == cookies
    assert site.exchanges == 0
    # The login goes on as if nothing had happened.
    await say(tab, "Authorize")
    await expect(page.locator("#status")).to_have_text("finished")


async def test_popup_opened_by_page_of_another_origin_tells_it_nothing(
    site: Site, other: Site, profile: BrowserContext
) -> None:
    foreign = await profile.new_page()
    await foreign.goto(other.url)
    async with foreign.expect_popup() as opened:
        await foreign.evaluate(f"void open('{site.url}/login?display=popup')")
    popup = await opened.value
    if not popup.url.startswith(site.fake.auth_url):
        await popup.get_by_role("link", name="Sign in with OpenRouter").click()
        await popup.wait_for_url("**/auth?**")
    async with popup.expect_event("close"):
        await say(popup, "Authorize")

    assert site.exchanges == 1
    assert await foreign.locator("#told").text_content() == ""


async def test_browser_that_blocks_cookies_is_told_so(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    async with browse_without_cookies(tmp_path_factory.mktemp("blocking")) as context:
        page = await context.new_page()
        await page.goto(site.url)
        popup = await press(page, "popup")
        site.fake.counters.clear()
        await expect(page.locator("#status")).to_have_text("urn:openrouter-async:unknown-login")
        await say(popup, "Authorize")
        await expect(popup.get_by_text("Please allow cookies for this site")).to_be_visible()

    assert site.exchanges == 0
