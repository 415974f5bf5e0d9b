"""The pytest plugin: fixtures for the fake OpenRouter. It is loaded by itself, and imports nothing until they are used.

::

    async def test_signs_a_user_in(fake_openrouter, openrouter_client):
        code = fake_openrouter.issue_code()
        result = await openrouter_client.oauth.exchange_auth_code_for_api_key(code=code)
        assert result.key == fake_openrouter.issued_keys[-1].key
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

# In its strict mode, pytest-asyncio runs no other async fixtures.
if TYPE_CHECKING or find_spec("pytest_asyncio"):
    from pytest_asyncio import fixture
else:
    import pytest

    fixture = pytest.fixture

if TYPE_CHECKING:
    from openrouter_async import OpenRouter
    from openrouter_async.testing import FakeOpenRouter


@fixture
async def fake_openrouter() -> AsyncIterator[FakeOpenRouter]:
    """A fake OpenRouter that listens on a local port."""
    from openrouter_async.testing import FakeOpenRouter

    async with FakeOpenRouter() as fake:
        yield fake


@fixture
async def openrouter_client(fake_openrouter: FakeOpenRouter) -> AsyncIterator[OpenRouter]:
    """A client of that fake."""
    from openrouter_async import OpenRouter

    async with OpenRouter(fake_openrouter.token, base_url=fake_openrouter.base_url) as client:
        yield client
