from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

from openrouter_async import OpenRouter
from tests.support import STRESS

if TYPE_CHECKING:
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
