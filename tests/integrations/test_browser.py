"""Logins in a real browser, with the reloads, back buttons and tabs of real users: none is exchanged twice."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, Request, expect
from yarl import URL

from tests.browser import browse_without_cookies
from tests.integrations.support import Site
from tests.support import find_axe

pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("site", ["aiohttp", "fastapi"], indirect=True),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def blocking(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BrowserContext]:
    async with browse_without_cookies(tmp_path_factory.mktemp("blocking")) as context:
        yield context


@pytest_asyncio.fixture(loop_scope="module")
async def page(profile: BrowserContext) -> Page:
    return await profile.new_page()


async def ask(page: Page, site: Site) -> None:
    """Go from the app's home to OpenRouter's page."""
    await page.goto(site.url)
    await page.get_by_role("link", name="Sign in with OpenRouter").click()
    await page.wait_for_url(f"{site.fake.auth_url}?**")


async def say(page: Page, answer: str) -> None:
    await page.get_by_role("button", name=answer).click()


async def is_signed_in(page: Page, site: Site) -> None:
    """The browser is where it wanted to go, at an address without a code, and sees its key."""
    await page.wait_for_url(f"{site.url}/account")
    await expect(page.locator("#key")).to_have_text(site.fake.issued_keys[-1].key[-4:])


def callbacks_of(page: Page, site: Site) -> list[str]:
    """The callbacks that a page is led to, as they come."""
    found: list[str] = []

    def note(request: Request) -> None:
        if request.url.startswith(f"{site.url}/callback/"):
            found.append(request.url)

    page.on("request", note)
    return found


async def test_browser_user_signs_in(page: Page, site: Site, profile: BrowserContext) -> None:
    await ask(page, site)
    await say(page, "Authorize")
    await is_signed_in(page, site)

    assert await page.evaluate("document.referrer") == ""
    assert await page.evaluate("document.cookie") == ""
    for cookie in await profile.cookies():
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert site.exchanges == 1
    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_url(f"{site.url}/")


async def test_browser_user_denies_and_then_allows(page: Page, site: Site) -> None:
    await ask(page, site)
    await say(page, "Deny")

    await expect(page.get_by_role("heading")).to_have_text("Not signed in")
    await expect(page.get_by_text("You cancelled the sign-in.")).to_be_visible()
    assert site.exchanges == 0
    await page.get_by_role("link", name="Sign in again").click()
    await say(page, "Authorize")
    await is_signed_in(page, site)
    assert site.exchanges == 1


async def test_browser_callback_reloaded_shows_the_same_result(page: Page, site: Site) -> None:
    callbacks = callbacks_of(page, site)
    await ask(page, site)
    await say(page, "Authorize")
    await is_signed_in(page, site)

    await page.reload()
    await is_signed_in(page, site)
    await page.goto(callbacks[0])
    await is_signed_in(page, site)
    assert site.exchanges == 1


async def test_browser_double_click_signs_in_once(page: Page, site: Site) -> None:
    await page.goto(site.url)
    await page.get_by_role("link", name="Sign in with OpenRouter").dblclick()
    await page.wait_for_url(f"{site.fake.auth_url}?**")
    await page.get_by_role("button", name="Authorize").dblclick()

    # The second click may break off the page that the first one leads to.
    await expect(page).to_have_url(re.compile(re.escape(f"{site.url}/")))
    heading = await page.get_by_role("heading").text_content()
    if heading == "Already finished":
        # The second click got a code of its own, which is not needed any more.
        await page.get_by_role("link", name="Sign in again").click()
        await say(page, "Authorize")
        await is_signed_in(page, site)
        assert site.exchanges == site.fake.counters["exchange 200"] == 2
    else:
        await is_signed_in(page, site)
        assert site.exchanges == 1


async def test_browser_callback_opened_twice_at_once_signs_in_once(
    page: Page, site: Site, profile: BrowserContext
) -> None:
    await ask(page, site)
    callback = site.fake.consent(page.url)
    other = await profile.new_page()

    await asyncio.gather(page.goto(callback), other.goto(callback))

    await is_signed_in(page, site)
    await is_signed_in(other, site)
    assert site.exchanges == 1


async def test_browser_back_and_second_consent_signs_in_once(page: Page, site: Site) -> None:
    await ask(page, site)
    await say(page, "Authorize")
    await is_signed_in(page, site)

    await page.go_back()
    await page.wait_for_url(f"{site.fake.auth_url}?**")
    await say(page, "Authorize")

    await expect(page.get_by_role("heading")).to_have_text("Already finished")
    assert site.exchanges == 1
    await expect(page.get_by_role("link", name="Back to the app")).to_have_attribute("href", "/")
    await page.get_by_role("link", name="Sign in again").click()
    await say(page, "Authorize")
    await is_signed_in(page, site)
    assert site.exchanges == 2


async def test_browser_two_tabs_both_sign_in(page: Page, site: Site, profile: BrowserContext) -> None:
    other = await profile.new_page()
    await asyncio.gather(ask(page, site), ask(other, site))

    await asyncio.gather(say(page, "Authorize"), say(other, "Authorize"))

    await page.wait_for_url(f"{site.url}/account")
    await other.wait_for_url(f"{site.url}/account")
    assert site.exchanges == site.fake.counters["exchange 200"] == 2


async def test_browser_without_cookies_explains_the_failure(blocking: BrowserContext, site: Site) -> None:
    site.fake.counters.clear()
    page = await blocking.new_page()
    await ask(page, site)
    assert await blocking.cookies() == []
    await say(page, "Authorize")

    await expect(page.get_by_role("heading")).to_have_text("Cookies are needed")
    await expect(page.get_by_text("Please allow cookies for this site")).to_be_visible()
    await expect(page.get_by_role("link", name="Sign in again")).to_be_visible()
    assert site.exchanges == 0
    await page.close()


async def test_browser_pages_are_accessible(page: Page, site: Site) -> None:
    axe = find_axe()
    await page.goto(f"{site.url}/callback/{'s' * 43}?code=c")
    await page.evaluate(axe.read_text())
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert found["testEngine"]["name"] == "axe-core"
        assert len(found["passes"]) > 5
        assert [violation["id"] for violation in found["violations"]] == []


async def test_browser_pages_violate_no_content_security_policy(page: Page, site: Site) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))

    await ask(page, site)
    await say(page, "Deny")

    await expect(page.get_by_role("heading")).to_have_text("Not signed in")
    assert URL(page.url).query == {"error": "access_denied"}
    assert [text for text in complaints if re.search("policy|script|style", text, re.IGNORECASE)] == []
