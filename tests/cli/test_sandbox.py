from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from openrouter_async import OpenRouter, RetryPolicy
from openrouter_async.errors import APIError
from openrouter_async.testing import FakeOpenRouter
from tests.cli.conftest import Here
from tests.cli.support import Shell
from tests.cli.terminal import Terminal
from tests.support import PATIENCE, missing


async def test_sandbox_serves_until_ctrl_c(shell: Shell) -> None:
    process = await shell.start("sandbox", "--port", "0", "--dialect", "observed", "--rate-limit", "2", "--json")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        told: dict[str, Any] = json.loads(await process.stdout.readline())
    try:
        async with OpenRouter(told["api_key"], base_url=told["base_url"], retry=RetryPolicy.none()) as client:
            created = await client.oauth.create_auth_code(callback_url="https://app.example/callback")
            result = await client.oauth.exchange_auth_code_for_api_key(code=created.data.id)
            assert result.key.startswith("sk-or-v1-")
            answers: set[int | None] = set()
            async with asyncio.timeout(PATIENCE):
                while answers != {400, 429}:
                    with pytest.raises(APIError) as caught:
                        await client.oauth.exchange_auth_code_for_api_key(code=created.data.id)
                    answers.add(caught.value.status_code)
    finally:
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 0
    assert err == b""


@pytest.mark.shows_secrets
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("openrouter_async", "sandbox", "--port", "0"), 0),
        (("openrouter_async", "login", "--headless"), 130),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
async def test_command_as_pid_1_ends_on_sigterm(shell: Shell, arguments: tuple[str, ...], status: int) -> None:
    if (unshare := shutil.which("unshare")) is None:
        missing("unshare")
    process = await asyncio.create_subprocess_exec(
        *(unshare, "--user", "--map-root-user", "--pid", "--fork", "--kill-child", sys.executable, "-m", *arguments),
        cwd=shell.home,
        env=dict(shell.environment),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        said = await process.stdout.readline()
        if said.startswith(b"unshare:"):
            missing(said.decode())
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert re.search(r"^NSpid:.*\t1$", Path(f"/proc/{child}/status").read_text(), re.MULTILINE)
        os.kill(int(child), signal.SIGTERM)
        await process.communicate()
    assert process.returncode == status


@pytest.mark.unmeasured
@pytest.mark.shows_secrets
async def test_sandbox_prints_how_to_use_it(shell: Shell) -> None:
    process = await shell.start("sandbox", "--port", "0", "--api-key", "my-sandbox-key")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        told = (await process.stdout.readuntil(b"Try: ")) + await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 0
    assert "OPENROUTER_BASE_URL=http://127.0.0.1:" in told.decode()
    assert "API key       my-sandbox-key\n" in told.decode()


async def test_sandbox_port_in_use_is_reported(here: Here, fake: FakeOpenRouter) -> None:
    port = fake.url.rpartition(":")[2]
    ended = await here("sandbox", "--port", port)
    assert ended.status == 2
    assert ended.complaint == f"Port {port} is in use: give another one with --port."


async def test_demo_runs_the_whole_flow(shell: Shell) -> None:
    ended = await shell.run("demo")
    assert (ended.status, ended.err) == (0, "")
    assert "exchanged key   sk-or-v1-…" in ended.out
    assert "] 500/500  " in ended.out
    assert "\n500 keys, by " in ended.out


async def test_sandbox_port_out_of_range_is_reported(here: Here) -> None:
    ended = await here("sandbox", "--port", "70000")
    assert ended.status == 2
    assert "must be an integer from 0 to 65535" in ended.complaint


@pytest.mark.unmeasured
async def test_demo_in_a_terminal_shows_a_bar(shell: Shell) -> None:
    async with Terminal(shell, "demo") as terminal:
        assert await terminal.end() == 0
    assert terminal.screen[-1].startswith("500 keys, by ")
    assert "] 500/500  " in terminal.screen[-2]
