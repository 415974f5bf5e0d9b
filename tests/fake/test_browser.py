"""The pages in a real browser: that they work, and that everybody can use them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import BrowserContext, ConsoleMessage, Page

from openrouter_async.testing import FakeOpenRouter
from tests.fake.support import PAIR, STATE, asking, exchange
from tests.support import find_axe

pytestmark = pytest.mark.browser

SCREENS: list[tuple[Literal["light", "dark"], int]] = [("light", 1280), ("dark", 390)]


class RequestInfo:
    """A page, and the errors that the browser reported."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, said: ConsoleMessage) -> None:
        # Addresses without a server are a part of these tests.
        if said.type in ("error", "warning") and "Failed to load resource" not in said.text:
            self.complaints.append(said.text)


@pytest.fixture
async def visit(browser: BrowserContext) -> AsyncIterator[RequestInfo]:
    made = RequestInfo(await browser.new_page())
    yield made
    assert made.complaints == []


async def test_consent_page_authorize_leads_to_the_callback(fake: FakeOpenRouter, visit: RequestInfo) -> None:
    await visit.page.goto(asking(fake, f"{fake.url}/callback", state=STATE, key_label="My app", limit="5"))
    assert await visit.page.get_by_text("My app", exact=True).is_visible()
    assert await visit.page.get_by_text("$5.00").is_visible()
    assert await visit.page.get_by_text(urlsplit(fake.url).netloc, exact=True).is_visible()
    await visit.page.get_by_role("button", name="Authorize").click()
    await visit.page.wait_for_url("**/callback?*")
    query = parse_qs(urlsplit(visit.page.url).query)

    assert query["state"] == [STATE]
    reply = await exchange(fake, query["code"][0], code_verifier=PAIR.code_verifier)
    assert reply.json["key"] == fake.issued_keys[-1].key


async def test_consent_page_deny_by_keyboard_leads_to_the_callback_without_state(
    fake: FakeOpenRouter, visit: RequestInfo
) -> None:
    await visit.page.goto(asking(fake, f"{fake.url}/callback", state=STATE))
    await visit.page.keyboard.press("Tab")
    await visit.page.keyboard.press("Tab")
    await visit.page.keyboard.press("Enter")
    await visit.page.wait_for_url("**/callback?*")

    assert visit.page.url == f"{fake.url}/callback?error=access_denied"


async def test_consent_page_fault_menu_applies_the_fault(fake: FakeOpenRouter, visit: RequestInfo) -> None:
    await visit.page.goto(asking(fake, f"{fake.url}/callback"))
    await visit.page.get_by_text("Options of the sandbox").click()
    await visit.page.get_by_label("User who consents").fill("user_3")
    await visit.page.get_by_label("What happens when").select_option("500 once, after the key was issued")
    await visit.page.get_by_role("button", name="Authorize").click()
    await visit.page.wait_for_url("**/callback?*")
    code = parse_qs(urlsplit(visit.page.url).query)["code"][0]

    assert (await exchange(fake, code, code_verifier=PAIR.code_verifier)).status == 500
    assert fake.issued_keys[-1].user_id == "user_3"


async def test_code_page_copies_the_code(fake: FakeOpenRouter, visit: RequestInfo) -> None:
    await visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=fake.url)
    await visit.page.goto(asking(fake, None))
    await visit.page.get_by_role("button", name="Authorize").click()
    await visit.page.get_by_role("button", name="Copy").click()
    await visit.page.get_by_role("status").get_by_text("Copied.").wait_for()
    copied = await visit.page.evaluate("navigator.clipboard.readText()")

    assert copied == await visit.page.get_by_label("Code").input_value()
    assert (await exchange(fake, copied, code_verifier=PAIR.code_verifier)).status == 200


async def test_code_page_without_clipboard_selects_the_code(fake: FakeOpenRouter, visit: RequestInfo) -> None:
    await visit.page.add_init_script(
        "Object.defineProperty(Navigator.prototype, 'clipboard', {get: () => ({writeText: () => Promise.reject()})})"
    )
    await visit.page.goto(asking(fake, None))
    await visit.page.get_by_role("button", name="Authorize").click()
    await visit.page.get_by_role("button", name="Copy").click()
    await visit.page.get_by_role("status").get_by_text("Selected.").wait_for()

    selected = await visit.page.evaluate("document.activeElement.value.slice(code.selectionStart, code.selectionEnd)")
    assert selected == await visit.page.get_by_label("Code").input_value()


async def test_fake_pages_are_accessible_in_light_and_dark_at_any_width(
    fake: FakeOpenRouter, browser: BrowserContext
) -> None:
    axe = find_axe()
    key = (await exchange(fake, fake.issue_code(key_label="My app"))).json["key"]
    assert key
    page = await browser.new_page()
    # axe-core is injected from outside, as by an extension: the page's own policy would not load it.
    await page.context.add_init_script(path=axe)
    addresses = {
        "consent": asking(fake, key_label="My app", limit="5", state=STATE),
        "code": asking(fake, None),
        "refusal": f"{fake.auth_url}?callback_url=http://app.example/",
        "home": fake.url,
        "nowhere": f"{fake.url}/nowhere",
    }
    violations: dict[str, Any] = {}
    for name, address in addresses.items():
        await page.goto(address)
        if name == "code":
            await page.get_by_role("button", name="Authorize").click()
            await page.get_by_label("Code").wait_for()
        if name == "consent":
            await page.get_by_text("Options of the sandbox").click()
        for scheme, width in SCREENS:
            await page.emulate_media(color_scheme=scheme)
            await page.set_viewport_size({"width": width, "height": 800})
            found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            assert found["testEngine"]["name"] == "axe-core"
            for violation in found["violations"]:
                violations[f"{name} {scheme} {width}: {violation['id']}"] = violation["impact"]
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
    assert violations == {}


async def test_accessibility_check_can_fail(fake: FakeOpenRouter, browser: BrowserContext) -> None:
    axe = find_axe()
    page = await browser.new_page()
    await page.context.add_init_script(path=axe)
    await page.goto(asking(fake))
    await page.evaluate("document.documentElement.removeAttribute('lang')")
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")

    assert "html-has-lang" in [violation["id"] for violation in found["violations"]]
