"""The pytest plugin: fixtures for the fake OpenRouter. Loading it imports nothing until a fixture is used.

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

# In strict mode, pytest-asyncio runs only async fixtures that it marked itself.
if TYPE_CHECKING or find_spec("pytest_asyncio"):
    from pytest_asyncio import fixture as async_fixture
else:
    async_fixture = pytest.fixture

if TYPE_CHECKING:
    from openrouter_async import OpenRouter
    from openrouter_async.testing import FakeOpenRouter


@pytest.fixture
def fake_openrouter() -> Iterator[FakeOpenRouter]:
    """A fake OpenRouter on a local port, in a thread of its own, so that sync tests and apps can use it, too."""
    from openrouter_async.testing import FakeOpenRouter

    with FakeOpenRouter() as fake:
        yield fake


@async_fixture
async def openrouter_client(fake_openrouter: FakeOpenRouter) -> AsyncIterator[OpenRouter]:
    """A client of the fake. It needs pytest-asyncio, or anyio's pytest plugin."""
    from openrouter_async import OpenRouter

    async with OpenRouter(fake_openrouter.token, base_url=fake_openrouter.base_url) as client:
        yield client
