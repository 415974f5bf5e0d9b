"""The pytest plugin: fixtures for the fake OpenRouter. It is loaded by itself, and imports nothing until they are used.

::

    async def test_an_exchange(fake_openrouter, openrouter_client):
        code = fake_openrouter.issue_code()
        result = await openrouter_client.oauth.exchange_auth_code_for_api_key(code=code)
        assert result.key == fake_openrouter.issued_keys[-1].key
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

# In its strict mode, pytest-asyncio runs no other async fixtures.
if TYPE_CHECKING or find_spec("pytest_asyncio"):
    from pytest_asyncio import fixture as async_fixture
else:
    async_fixture = pytest.fixture

if TYPE_CHECKING:
    from openrouter_async import OpenRouter
    from openrouter_async.testing import FakeOpenRouter


@pytest.fixture
def fake_openrouter() -> Iterator[FakeOpenRouter]:
    """A fake OpenRouter on a local port; it runs in a thread, so that sync tests and apps can use it, too."""
    from openrouter_async.testing import FakeOpenRouter

    with FakeOpenRouter() as fake:
        yield fake


@async_fixture
async def openrouter_client(fake_openrouter: FakeOpenRouter) -> AsyncIterator[OpenRouter]:
    """A client of that fake; it needs pytest-asyncio, or the pytest plugin of anyio."""
    from openrouter_async import OpenRouter

    async with OpenRouter(fake_openrouter.token, base_url=fake_openrouter.base_url) as client:
        yield client
