from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from openrouter_async import OpenRouter, testing
from openrouter_async.testing import FakeOpenRouter

TESTS = """
import asyncio
import urllib.request

import pytest


def test_sync(fake_openrouter):
    code = fake_openrouter.issue_code()
    request = urllib.request.Request(f"{fake_openrouter.base_url}/auth/keys", b'{"code": "%s"}' % code.encode())
    with urllib.request.urlopen(request) as response:
        assert response.status == 200
    assert fake_openrouter.redeemed_codes == [code]


@pytest.mark.MARK
async def test_async(fake_openrouter, openrouter_client):
    code = fake_openrouter.issue_code()
    result = await openrouter_client.oauth.exchange_auth_code_for_api_key(code=code)
    assert result.key == fake_openrouter.issued_keys[-1].key
"""


async def test_plugin_fixtures_work_together(fake_openrouter: FakeOpenRouter, openrouter_client: OpenRouter) -> None:
    created = await openrouter_client.oauth.create_auth_code(callback_url="https://app.example/")
    await openrouter_client.oauth.exchange_auth_code_for_api_key(code=created.data.id)

    assert fake_openrouter.redeemed_codes == [created.data.id]


def run_pytest(folder: Path, tests: str, *arguments: str, hide: str = "nothing") -> str:
    """Run tests in an environment with only the package and its dependencies."""
    (folder / "test_app.py").write_text(tests)
    (folder / "conftest.py").write_text("import pytest\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n")
    script = f"""
    import importlib.util, sys
    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == {hide!r} else find_spec(name, *rest)
    import pytest
    sys.exit(pytest.main(["-q", "-W", "error", *{arguments}, "-p", "pytest_openrouter_async"]))
    """
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(script)],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout + run.stderr


def test_plugin_fixtures_work_in_strict_mode_of_pytest_asyncio(tmp_path: Path) -> None:
    scope = "asyncio_default_fixture_loop_scope=function"
    tests = TESTS.replace("MARK", "asyncio")
    said = run_pytest(tmp_path, tests, "-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=strict", "-o", scope)
    assert "2 passed" in said, said


def test_plugin_fixtures_work_with_anyio_alone(tmp_path: Path) -> None:
    tests = TESTS.replace("MARK", "anyio")
    said = run_pytest(tmp_path, tests, "-p", "anyio.pytest_plugin", hide="pytest_asyncio")
    assert "2 passed" in said, said


def test_testing_exports_exist() -> None:
    assert testing.__all__ == sorted(testing.__all__)
    assert all(hasattr(testing, name) for name in testing.__all__)
