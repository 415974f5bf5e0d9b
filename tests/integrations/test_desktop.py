"""The examples for desktop apps and terminals, run as they are: a Textual modal, and a sidecar with a page."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from importlib import util
from types import ModuleType
from typing import TYPE_CHECKING

import aiohttp
import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input, Label
from yarl import URL

from openrouter_async.testing import FakeOpenRouter
from tests.support import PATIENCE, ROOT, free_port

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page


def load(name: str) -> ModuleType:
    spec = util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_browser(fake: FakeOpenRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer on which no browser comes up, and that talks to the fake."""
    monkeypatch.setenv("BROWSER", "false")
    monkeypatch.setenv("OPENROUTER_BASE_URL", fake.base_url)


async def visit(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status


# Textual, by its pilot.


@contextlib.asynccontextmanager
async def signing_in() -> AsyncIterator[tuple[App[None], Pilot[None]]]:
    app: App[None] = load("textual_app").MyApp()
    async with app.run_test(size=(100, 40)) as pilot:
        await pilot.click("#sign-in")
        await wait_until(pilot, lambda: len(app.screen_stack) == 2)
        yield app, pilot


async def wait_until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await pilot.pause(0.02)


def text_of(app: App[None], selector: str) -> str:
    return str(app.screen.query_one(selector, Label).content)


@pytest.mark.usefixtures("no_browser")
async def test_textual_modal_closes_itself_when_the_browser_comes_back(fake: FakeOpenRouter) -> None:
    async with signing_in() as (app, pilot):
        assert await visit(fake.consent(text_of(app, "#url"))) == 200
        await wait_until(pilot, lambda: len(app.screen_stack) == 1)
        await wait_until(pilot, lambda: text_of(app, "#account") == f"Your key ends in {fake.issued_keys[0].key[-4:]}.")


@pytest.mark.usefixtures("no_browser")
async def test_textual_modal_takes_a_pasted_address_after_a_wrong_one(fake: FakeOpenRouter) -> None:
    async with signing_in() as (app, pilot):
        await pilot.click("Input")
        await pilot.press(*"two", "space", *"words", "enter")
        await wait_until(pilot, lambda: text_of(app, "#message").startswith("This is not a code."))
        app.screen.query_one(Input).value = fake.consent(text_of(app, "#url"))
        await pilot.press("enter")
        await wait_until(pilot, lambda: len(app.screen_stack) == 1)
    assert len(fake.issued_keys) == 1


@pytest.mark.usefixtures("no_browser")
@pytest.mark.parametrize("by", ["key", "button"])
async def test_textual_modal_can_be_cancelled(fake: FakeOpenRouter, by: str) -> None:
    async with signing_in() as (app, pilot):
        port = URL(fake.consent(text_of(app, "#url"))).port
        await (pilot.press("escape") if by == "key" else pilot.click("#cancel"))
        await wait_until(pilot, lambda: len(app.screen_stack) == 1)
        await wait_until(pilot, lambda: not app.workers)
        assert text_of(app, "#account") == "You are not signed in."
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
    assert not fake.issued_keys


# The sidecar, in a process of its own, and its page in a real browser.

TOKEN = "t" * 43


@pytest.fixture
async def sidecar(fake: FakeOpenRouter) -> AsyncIterator[URL]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-X", "dev", "-W", "error", str(ROOT / "examples" / "desktop_sidecar.py")),
        env=os.environ
        | {
            "OPENROUTER_BASE_URL": fake.base_url,
            "BROWSER": "false",
            "PORT": str(port),
            "SIDECAR_TOKEN": TOKEN,
            "PYTHONUNBUFFERED": "1",
        },
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert process.stderr is not None
    said = ""
    try:
        async with asyncio.timeout(PATIENCE):
            while "Uvicorn running" not in said:
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
        yield URL(f"http://127.0.0.1:{port}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        said += (await process.stderr.read()).decode()
        await process.wait()
    assert "Traceback" not in said, said
    assert TOKEN not in said


@pytest.fixture
async def window(sidecar: URL, browser: BrowserContext) -> Page:
    page = await browser.new_page()
    await page.goto(str(sidecar % {"token": TOKEN}))
    await page.get_by_role("button", name="Sign in with OpenRouter").click()
    await page.get_by_text("Waiting for you").wait_for()
    return page


@pytest.mark.browser
async def test_sidecar_page_shows_that_the_browser_came_back(
    window: Page, browser: BrowserContext, fake: FakeOpenRouter
) -> None:
    async with browser.expect_page() as opening:
        await window.get_by_role("link", name="open this page").click()
    consent = await opening.value
    await consent.get_by_role("button", name="Authorize").click()
    await consent.get_by_text("You are signed in to My app.").wait_for()
    await window.get_by_text("You are signed in.").wait_for()
    assert await window.get_by_role("textbox").is_hidden()
    (issued,) = fake.issued_keys
    assert issued.label == "My app"
    assert issued.key not in await window.content()


@pytest.mark.browser
async def test_sidecar_page_takes_a_pasted_address_after_a_wrong_code(window: Page, fake: FakeOpenRouter) -> None:
    field = window.get_by_label("Or paste the code")
    await field.fill("not a code")
    await field.press("Enter")
    await window.get_by_text("This is not a code.").wait_for()
    url = await window.get_by_role("link", name="open this page").get_attribute("href")
    assert url is not None
    await field.fill(fake.consent(url))
    await field.press("Enter")
    await window.get_by_text("You are signed in.").wait_for()
    assert len(fake.issued_keys) == 1


@pytest.mark.browser
async def test_sidecar_page_can_cancel_and_start_again(window: Page, fake: FakeOpenRouter) -> None:
    url = await window.get_by_role("link", name="open this page").get_attribute("href")
    assert url is not None
    await window.get_by_role("button", name="Cancel").click()
    await window.get_by_text("You are not signed in. This sign-in was cancelled.").wait_for()
    assert await visit(fake.consent(url)) == 410
    await window.get_by_role("button", name="Sign in with OpenRouter").click()
    await window.get_by_text("Waiting for you").wait_for()
    again = await window.get_by_role("link", name="open this page").get_attribute("href")
    assert again not in (None, url)
    assert not fake.issued_keys


async def test_sidecar_refuses_requests_without_its_token(sidecar: URL) -> None:
    async with aiohttp.ClientSession() as session:
        for method, path in (("GET", "/"), ("POST", "/login"), ("GET", "/login"), ("DELETE", "/login")):
            async with session.request(method, sidecar / path[1:], headers={"X-Token": "wrong"}) as response:
                assert response.status == 403
        async with session.get(sidecar / "login", headers={"X-Token": TOKEN}) as response:
            assert response.status == 404
