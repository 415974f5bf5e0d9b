"""Tests of the fake as a process of its own, whose clients do not use this library."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from openrouter import OpenRouter as OfficialSDK
from openrouter import errors as official

from openrouter_async.testing import FakeOpenRouter, Fault, demo
from tests.fake.support import PAIR, STATE
from tests.support import missing, restore_signals


@contextlib.contextmanager
def sandbox(*arguments: str, end: signal.Signals = signal.SIGINT) -> Iterator[dict[str, str]]:
    """Run the sandbox in a process of its own, and yield the addresses that it printed."""
    command = [sys.executable, "-X", "dev", "-m", "openrouter_async", "sandbox", "--port", "0", "--json", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=restore_signals, **pipes) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(end)
            _, mistakes = process.communicate(timeout=60)
    assert process.returncode == 0
    # Development mode also tells of callbacks that take more than 0.1 s, as any may on a busy machine.
    assert [line for line in mistakes.splitlines() if not line.startswith("Executing <")] == []


def curl(*arguments: str) -> tuple[int, dict[str, str], str]:
    """Return the status, the headers and the body that plain curl receives."""
    program = shutil.which("curl")
    if program is None:
        missing("curl")
    done = subprocess.run([program, "-sS", "-i", *arguments], capture_output=True, text=True, check=True)
    head, _, body = done.stdout.partition("\n\n")
    status, *lines = head.splitlines()
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


def test_sandbox_completes_the_flow_with_curl() -> None:
    with sandbox("--api-key", "my-app") as said:
        assert said["api_key"] == "my-app"
        asked = {
            "callback_url": "https://app.example/callback",
            "code_challenge": PAIR.code_challenge,
            "code_challenge_method": "S256",
        }
        page = f"{said['auth_url']}?{urlencode({**asked, 'state': STATE})}"
        status, _, text = curl(page)
        assert (status, "Authorize" in text) == (200, True)
        status, headers, _ = curl(page, "-d", "decision=authorize")
        assert status == 303
        brought = parse_qs(urlsplit(headers["Location"]).query)
        assert brought["state"] == [STATE]
        api = said["base_url"]
        create = ("-H", "Authorization: Bearer my-app", "--json", json.dumps(asked), f"{api}/auth/keys/code")
        status, _, text = curl(*create)
        assert status == 200
        for code in (brought["code"][0], json.loads(text)["data"]["id"]):
            body = {"code": code, "code_verifier": PAIR.code_verifier, "code_challenge_method": "S256"}
            status, _, text = curl("--json", json.dumps(body), f"{api}/auth/keys")
            assert status == 200
            key = json.loads(text)["key"]
            status, _, text = curl("-H", f"Authorization: Bearer {key}", f"{api}/key")
            assert (status, json.loads(text)["data"]["limit"]) == (200, None)
        body["code"] = f"fault.status-429.retry-3~{code}"
        status, headers, _ = curl("--json", json.dumps(body), f"{api}/auth/keys")
        assert (status, headers["Retry-After"]) == (429, "3")


def test_sandbox_on_sigterm_ends_without_an_error() -> None:
    with sandbox(end=signal.SIGTERM) as said:
        assert said["base_url"].startswith("http://127.0.0.1:")


def test_sandbox_completes_the_flow_with_the_official_sdk() -> None:
    with FakeOpenRouter() as fake:
        # Its own client leaves its connections to the garbage collector.
        with OfficialSDK(api_key=fake.token, server_url=fake.base_url) as sdk:
            created: Any = sdk.o_auth.create_auth_code(
                callback_url="https://app.example/callback",
                code_challenge=PAIR.code_challenge,
                code_challenge_method="S256",
                limit=10,
                usage_limit_type="monthly",
                key_label="My app",
            )
            result: Any = sdk.o_auth.exchange_auth_code_for_api_key(
                code=created.data.id, code_verifier=PAIR.code_verifier, code_challenge_method="S256"
            )
            with pytest.raises(official.ForbiddenResponseError):
                sdk.o_auth.exchange_auth_code_for_api_key(code=created.data.id, code_verifier=PAIR.code_verifier)
            fake.queue_faults(Fault.status(409))
            with pytest.raises(official.ConflictResponseError):
                sdk.o_auth.create_auth_code(callback_url="https://app.example/callback")

        (issued,) = fake.issued_keys
        assert (result.key, result.user_id) == (issued.key, issued.user_id)
        assert (issued.label, issued.limit, issued.usage_limit_type) == ("My app", 10, "monthly")


# A field of the answer is deprecated, and the SDK warns of it.
@pytest.mark.filterwarnings("ignore:.*DEPRECATED:DeprecationWarning")
def test_sandbox_get_key_and_chat_work_with_the_official_sdk() -> None:
    with FakeOpenRouter() as fake, OfficialSDK(server_url=fake.base_url) as sdk:
        code = fake.issue_code(limit=5, usage_limit_type="monthly")
        exchanged: Any = sdk.o_auth.exchange_auth_code_for_api_key(code=code)
        key = exchanged.key
    messages: Any = [{"role": "user", "content": "Hello"}]
    with fake, OfficialSDK(api_key=key, server_url=fake.base_url) as sdk:
        described: Any = sdk.api_keys.get_current_key_metadata()
        answer: Any = sdk.chat.send(model="openrouter/auto", messages=messages)
        with sdk.chat.send(model="openrouter/auto", messages=messages, stream=True) as stream:
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        fake.revoke(key)
        with pytest.raises(official.UnauthorizedResponseError, match="User not found"):
            sdk.api_keys.get_current_key_metadata()

    assert (described.data.limit, described.data.effective_budget.remaining_usd) == (5, 5)
    assert answer.choices[0].message.content == streamed == "The sandbox heard: Hello"


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.shows_secrets
async def test_demo_shows_a_code_a_masked_key_and_a_batch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    await demo.demonstrate()
    said = capsys.readouterr().out

    assert re.search(r"^created code {4}auth_code_\S+$", said, re.MULTILINE)
    assert re.search(r"^exchanged key {3}sk-or-v1-….{4}  of user_sandbox$", said, re.MULTILINE)
    assert "500/500" in said
    assert ("\r" in said) == is_terminal
    assert re.search(r"^500 keys, by 50\d requests$", said, re.MULTILINE)
    assert not re.search(r"sk-or-v1-[0-9a-f]{8}", said)
