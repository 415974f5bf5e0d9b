"""The examples of the README's section on signing users in are run as they stand there."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from openrouter_async import OpenRouter
from openrouter_async.login import LoopbackLogin
from openrouter_async.testing import FakeOpenRouter
from tests.support import ROOT

SECTION = "Sign a user in"


@pytest.fixture
def readme(client: OpenRouter) -> dict[str, Any]:
    """What the examples define."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split(f"## {SECTION}\n")[1].split("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 3
    names: dict[str, Any] = {"client": client}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    return names


async def test_the_example_for_web_apps(readme: dict[str, Any], fake: FakeOpenRouter) -> None:
    url = await readme["start"]("a-browser")
    callback = fake.consent(url)

    kind, message = await readme["callback"](callback, "another-browser")
    key, return_to = await readme["callback"](callback, "a-browser")

    assert (kind, return_to) == ("error", "/settings")
    assert "started in another browser" in message
    assert key == fake.issued_keys[0].key


async def test_the_example_for_chats(readme: dict[str, Any], fake: FakeOpenRouter) -> None:
    async def ask(question: str) -> str:
        return fake.consent(question.split()[1])

    assert await readme["sign_in_by_chat"](7, ask) == fake.issued_keys[0].key


async def test_the_example_for_the_users_own_computer(
    readme: dict[str, Any],
    fake: FakeOpenRouter,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened: list[str] = []
    wait = LoopbackLogin.wait

    async def visit(login: LoopbackLogin, **arguments: Any) -> Any:
        async with aiohttp.ClientSession() as session, session.get(fake.consent(opened[0])) as page:
            assert page.status == 200
        return await wait(login, **arguments)

    monkeypatch.setattr(LoopbackLogin, "open_browser", lambda login: opened.append(login.url))
    monkeypatch.setattr(LoopbackLogin, "wait", visit)

    assert await readme["sign_in_here"]() == fake.issued_keys[0].key
    assert parse_qs(urlsplit(opened[0]).query)["key_label"] == ["My tool"]
    assert opened[0] in capsys.readouterr().out
