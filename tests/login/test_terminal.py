"""`TerminalPrompt`, in a real pseudo-terminal and behind pipes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from openrouter_async.login._terminal import LineReader
from openrouter_async.testing import FakeOpenRouter
from tests.cli.support import Shell, environment
from tests.cli.terminal import CTRL_C, CTRL_D, Terminal
from tests.login.test_loopback import visit

pytestmark = pytest.mark.shows_secrets
"""The page's address, which a login has to show, holds the login's state."""

PROGRAM = """
import asyncio, sys
from openrouter_async import OpenRouter
from openrouter_async.login import LoginSession, LoopbackLogin, TerminalPrompt

async def sign_in(kind):
    async with OpenRouter(None) as client, kind(client) as login:
        print("Open", login.url, flush=True)
        grant = await login.wait(prompt=TerminalPrompt("The code: "))
    print("Signed in as", grant.user_id, flush=True)
    return input("And now? ")

print("Answered", asyncio.run(sign_in({"paste": LoginSession, "browser": LoopbackLogin}[sys.argv[1]])))
"""
RUN = (sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM)


@pytest.fixture
def shell(tmp_path: Path, fake: FakeOpenRouter) -> Shell:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return Shell(home=home, environment=environment(home) | {"OPENROUTER_BASE_URL": fake.base_url})


def url_in(text: str) -> str:
    return text.split("Open ", 1)[1].split()[0]


async def test_terminal_prompt_reads_a_code_without_echo(shell: Shell, fake: FakeOpenRouter) -> None:
    async with Terminal(shell, "paste", program=RUN) as terminal:
        await terminal.shows("The code: ")
        assert not terminal.has_echo()
        terminal.type("two words\n")
        await terminal.shows("This is not a code.")
        await terminal.shows("The code: ", times=2)
        code = fake.consent(url_in(terminal.text))
        terminal.type(f"{code}\n")
        await terminal.shows("And now? ")
        assert terminal.has_echo()
        terminal.type("later\n")
        assert await terminal.end() == 0
    assert code not in terminal.text
    assert "two words" not in terminal.text
    assert terminal.screen[-1] == "Answered later"


async def test_terminal_prompt_that_is_cancelled_leaves_the_next_line_to_the_program(
    shell: Shell, fake: FakeOpenRouter
) -> None:
    async with Terminal(shell, "browser", program=RUN) as terminal:
        await terminal.shows("The code: ")
        await visit(fake.consent(url_in(terminal.text)))
        await terminal.shows("And now? ")
        assert terminal.has_echo()
        terminal.type("go on\n")
        assert await terminal.end() == 0
    assert terminal.screen[-1] == "Answered go on"


@pytest.mark.parametrize(("kind", "ends"), [("paste", True), ("browser", False)])
async def test_terminal_prompt_at_end_of_input_ends_only_a_login_by_paste(
    kind: str, ends: bool, shell: Shell, fake: FakeOpenRouter
) -> None:
    async with Terminal(shell, kind, program=RUN) as terminal:
        await terminal.shows("The code: ")
        terminal.type(CTRL_D)
        if ends:
            assert await terminal.end() == 1
            assert "EOFError: the standard input is at its end" in terminal.text
        else:
            await visit(fake.consent(url_in(terminal.text)))
            await terminal.shows("And now? ")


async def test_terminal_prompt_interrupted_restores_echo(shell: Shell) -> None:
    async with Terminal(shell, "paste", program=RUN) as terminal:
        await terminal.shows("The code: ")
        terminal.type(CTRL_C)
        assert await terminal.end() != 0
        assert terminal.has_echo()


async def test_line_reader_splits_lines_and_keeps_what_a_cancelled_read_did_not_take() -> None:
    readable, writable = os.pipe()
    try:
        lines = LineReader(readable)
        waiting = asyncio.create_task(lines.next_line())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        os.write(writable, b"one\ntwo\nthr")
        assert [await lines.next_line(), await lines.next_line()] == [b"one", b"two"]
        os.write(writable, b"ee")
        os.close(writable)
        writable = -1
        assert [await lines.next_line(), await lines.next_line()] == [b"three", None]
    finally:
        os.close(readable)
        if writable >= 0:
            os.close(writable)


async def test_line_reader_reads_regular_files_and_closed_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\n")
    descriptor = os.open(path, os.O_RDONLY)
    lines = LineReader(descriptor)
    assert [await lines.next_line(), await lines.next_line()] == [b"one", None]
    os.close(descriptor)
    assert await LineReader(descriptor).next_line() is None
