from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

from openrouter_async import OpenRouter
from tests.support import STRESS

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext

    from openrouter_async.testing import FakeOpenRouter

hypothesis.settings.register_profile("default", deadline=None, max_examples=60)
hypothesis.settings.register_profile("stress", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("stress" if STRESS else "default")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OPENROUTER_"):
            monkeypatch.delenv(name)


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenRouter]:
    from openrouter_async.testing import FakeOpenRouter

    async with FakeOpenRouter() as server:
        yield server


@pytest.fixture
async def client(fake: FakeOpenRouter) -> AsyncIterator[OpenRouter]:
    async with OpenRouter(fake.token, base_url=fake.base_url) as made:
        yield made


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a Chromium is driven that all tests share."""
    from tests.browser import run_chromium

    with run_chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[BrowserContext]:
    """A browser with a fresh profile: `await browser.new_page()`."""
    from tests.browser import browse

    async with browse(chromium) as context:
        yield context
