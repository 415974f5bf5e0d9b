from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import hypothesis
import pytest
from openrouter_async.testing import FakeOpenRouter

from openrouter_async import OpenRouter

ROOT = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("default", deadline=None, max_examples=60)
hypothesis.settings.register_profile("stress", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("stress" if os.environ.get("STRESS") else "default")


def missing(what: str) -> None:
    """Skip for want of something outside the project, or fail where everything has to be there."""
    if os.environ.get("REQUIRE_ALL"):
        pytest.fail(f"{what} is missing, and REQUIRE_ALL is set")
    pytest.skip(f"{what} is missing")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OPENROUTER_"):
            monkeypatch.delenv(name)


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenRouter]:
    async with FakeOpenRouter() as server:
        yield server


@pytest.fixture
async def client(fake: FakeOpenRouter) -> AsyncIterator[OpenRouter]:
    async with OpenRouter(fake.token, base_url=fake.base_url) as made:
        yield made
