from __future__ import annotations

import asyncio
import html
import io
import json
import os
import re
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import attrs
import pytest
import segno
from yarl import URL

from openrouter_async.testing import Fault
from tests.cli.conftest import Here
from tests.cli.support import PROGRAM, Shell, wait_until
from tests.cli.terminal import CTRL_C, CTRL_D, CTRL_Z, Terminal
from tests.support import PATIENCE, free_port

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext

    from openrouter_async.testing import FakeOpenRouter

pytestmark = pytest.mark.shows_secrets
"""The page's address, which a login has to show, holds the login's state."""

PASTE = "Paste the code that the page shows; it stays hidden: "
WAITING = "Waiting for the browser, or for the address that it ended on: "


def address_in(text: str, fake: FakeOpenRouter) -> str:
    found = re.search(rf"{re.escape(fake.auth_url)}\S+", text)
    assert found is not None, text
    return html.unescape(found[0])


def kept_key(shell: Shell) -> str:
    (name,) = os.listdir(shell.data)
    assert stat.S_IMODE(os.stat(shell.data / name).st_mode) == 0o600
    key: str = json.loads((shell.data / name).read_text())["key"]
    return key


async def visit(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


def make_browser(home: Path, then: str = "") -> str:
    """A program for ``BROWSER`` that passes the address on, and then runs a command."""
    program = home / "browser"
    os.mkfifo(home / "address")
    program.write_text(f'#!/bin/sh\nprintf %s "$1" >{home}/address\n{then}\n')
    program.chmod(0o755)
    return str(program)


@pytest.mark.browser
async def test_login_in_a_real_browser_stores_the_key(
    shell: Shell, fake: FakeOpenRouter, browser: BrowserContext
) -> None:
    opener = make_browser(shell.home)
    command = ("login", "--base-url", fake.base_url, "--limit", "5")
    async with Terminal(shell, *command, env={"BROWSER": opener}) as terminal:
        redirect = await asyncio.to_thread((shell.home / "address").read_text)
        page = await browser.new_page()
        await page.goto(redirect)
        await page.wait_for_url(lambda url: url.startswith(fake.auth_url))
        url = page.url
        await page.get_by_role("button", name="Authorize").click()
        await page.get_by_text("You are signed in to openrouter-async. You can close this window.").wait_for()
        assert await terminal.end() == 0
    assert url == address_in(terminal.text, fake)
    assert "If no browser opens, open this page on this computer:" in terminal.screen
    (issued,) = fake.issued_keys
    assert kept_key(shell) == issued.key
    assert (issued.label, issued.limit) == ("openrouter-async", 5)
    assert issued.key not in terminal.text
    assert f"Signed in as {issued.user_id}. The key sk-or-v1-…{issued.key[-4:]} is in" in terminal.text


@pytest.mark.unmeasured
@pytest.mark.parametrize("stdin", ["", "</dev/null", "<&-"])
async def test_login_in_a_substitution_captures_the_key_alone_while_the_browser_runs_on(
    shell: Shell, fake: FakeOpenRouter, stdin: str
) -> None:
    os.mkfifo(shell.home / "close")
    # It writes to what it inherits, and runs until the test writes to "close".
    opener = make_browser(shell.home, "echo chatter; echo chatter >&2; read -r line <close")
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f'KEY="$("$@" {stdin})"; echo "KEY=$KEY"', "bash"),
        *(*PROGRAM, "login", "--store", "print", "--base-url", fake.base_url),
        env={**shell.environment, "BROWSER": opener},
        cwd=shell.home,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            redirect = await asyncio.to_thread((shell.home / "address").read_text)
            page = (await asyncio.to_thread(Path(URL(redirect).path).read_text)).replace("\n", " ")
            assert "You are signed in" in await visit(fake.consent(address_in(page.partition('"><title>')[0], fake)))
            out, err = await process.communicate()
    finally:
        await asyncio.to_thread((shell.home / "close").write_text, "\n")
    assert out.decode() == f"KEY={fake.issued_keys[0].key}\n"
    assert b"chatter" not in err


@pytest.mark.unmeasured
@pytest.mark.parametrize("named", ["w3m", "w3m -o confirm_qq=0 %s", "{home}/lynx %s &", "links2:elinks:www-browser"])
async def test_login_never_opens_a_browser_of_the_terminal(shell: Shell, fake: FakeOpenRouter, named: str) -> None:
    for name in ("w3m", "lynx", "links2", "elinks", "www-browser", "links", "xdg-open", "x-www-browser"):
        (shell.home / name).write_text(f"#!/bin/sh\ntouch {shell.home}/opened\n")
        (shell.home / name).chmod(0o755)
    environment = {"BROWSER": named.format(home=shell.home), "PATH": f"{shell.home}:{os.environ['PATH']}"}
    async with Terminal(shell, "login", "--base-url", fake.base_url, env=environment) as terminal:
        await terminal.shows(PASTE)
        terminal.type(fake.consent(address_in(terminal.text, fake)) + "\n")
        assert await terminal.end() == 0
    assert not (shell.home / "opened").exists()


async def test_login_over_ssh_shows_a_qr_code_and_hides_the_typed_code(shell: Shell, fake: FakeOpenRouter) -> None:
    async with Terminal(shell, "login", "--base-url", fake.base_url) as terminal:
        await terminal.shows(PASTE)
        url = address_in(terminal.text, fake)
        drawn = io.StringIO()
        segno.make(url, error="l", micro=False).terminal(drawn, border=2, compact=True)
        code_lines = [line.rstrip() for line in drawn.getvalue().splitlines()]
        # The address and the question stay in sight below it; a slow keyring is announced above it.
        top = terminal.screen.index(code_lines[0])
        assert terminal.screen[top : top + len(code_lines)] == code_lines
        # White on black, whatever the colours of the terminal.
        assert all(f"\x1b[97;40m{line}" in terminal.text for line in code_lines)
        terminal.type("not a code\n")
        await terminal.shows("That was not it: the code must be 1 to 1024 visible ASCII characters.")
        # Text that is typed before the question appears in the line of the question.
        await terminal.shows(PASTE, times=2)
        code = fake.consent(url)
        terminal.type(f"{code}\n")
        assert await terminal.end() == 0
    assert kept_key(shell) == fake.issued_keys[0].key
    assert "\x1b[32m✓ Signed in as " in terminal.text
    assert code not in terminal.text
    assert "not a code" not in terminal.text
    assert any(line.startswith("✓ Signed in as ") for line in terminal.screen)


@pytest.mark.unmeasured
async def test_login_accepts_a_pasted_callback_url(shell: Shell, fake: FakeOpenRouter) -> None:
    async with Terminal(shell, "login", "--no-browser", "--base-url", fake.base_url) as terminal:
        await terminal.shows(WAITING)
        terminal.type(fake.consent(address_in(terminal.text, fake)) + "\n")
        assert await terminal.end() == 0
    assert kept_key(shell) == fake.issued_keys[0].key


async def test_login_says_that_the_browser_wants_https(shell: Shell, fake: FakeOpenRouter) -> None:
    port = free_port()
    command = ("login", "--no-browser", "--port", str(port), "--base-url", fake.base_url)
    async with Terminal(shell, *command) as terminal:
        await terminal.shows(WAITING)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        await terminal.shows("The browser asks for https: the address on this computer starts with http://.")
        writer.close()
        terminal.type(fake.consent(address_in(terminal.text, fake)) + "\n")
        assert await terminal.end() == 0


async def test_login_browser_callback_ends_an_unanswered_prompt(shell: Shell, fake: FakeOpenRouter) -> None:
    port = free_port()
    command = ("login", "--no-browser", "--port", str(port), "--base-url", fake.base_url)
    async with Terminal(shell, *command) as terminal:
        await terminal.shows(WAITING)
        terminal.type(CTRL_D)
        callback = fake.consent(address_in(terminal.text, fake))
        assert callback.startswith(f"http://127.0.0.1:{port}/")
        assert "You are signed in" in await visit(callback)
        assert await terminal.end() == 0


@pytest.mark.parametrize("arguments", [("login",), ("login", "--no-browser"), ("exchange",)])
async def test_login_ctrl_c_ends_and_restores_echo(
    shell: Shell, fake: FakeOpenRouter, arguments: tuple[str, ...]
) -> None:
    async with Terminal(shell, *arguments, "--base-url", fake.base_url) as terminal:
        await terminal.shows("hidden: " if arguments != ("login", "--no-browser") else WAITING)
        terminal.type(CTRL_C)
        assert await terminal.end() == 130
    assert terminal.screen[-1] == "openrouter-async: Interrupted."
    assert not shell.data.exists() or os.listdir(shell.data) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
async def test_login_ended_by_a_signal_restores_echo(
    shell: Shell, fake: FakeOpenRouter, number: signal.Signals
) -> None:
    async with Terminal(shell, "login", "--base-url", fake.base_url) as terminal:
        await terminal.shows(PASTE)
        assert not terminal.has_echo()
        terminal.process.send_signal(number)
        assert await terminal.process.wait() == -number
        assert terminal.has_echo()


async def test_login_suspended_by_ctrl_z_restores_echo(shell: Shell, fake: FakeOpenRouter) -> None:
    # A shell with job control; it goes on with the next command when the user suspends the program.
    job_control = ("bash", "-mc", '"$@"; echo suspended; read -r; fg', "bash", *PROGRAM)
    async with Terminal(shell, "login", "--base-url", fake.base_url, program=job_control) as terminal:
        await terminal.shows(PASTE)
        assert not terminal.has_echo()
        terminal.type(CTRL_Z)
        await terminal.shows("suspended")
        assert terminal.has_echo()
        terminal.type("go on\n")
        await terminal.shows("go on")
        await asyncio.to_thread(wait_until, lambda: not terminal.has_echo())
        code = fake.consent(address_in(terminal.text, fake))
        terminal.type(f"{code}\n")
        assert await terminal.end() == 0
    assert kept_key(shell) == fake.issued_keys[0].key
    assert code not in terminal.text


@pytest.mark.unmeasured
async def test_login_ignores_sigint_if_its_parent_did(shell: Shell, fake: FakeOpenRouter) -> None:
    async with Terminal(shell, "login", "--base-url", fake.base_url, ignores_sigint=True) as terminal:
        await terminal.shows(PASTE)
        terminal.process.send_signal(signal.SIGINT)
        terminal.type(fake.consent(address_in(terminal.text, fake)) + "\n")
        assert await terminal.end() == 0


async def test_login_browser_that_does_not_start_falls_back(shell: Shell, fake: FakeOpenRouter) -> None:
    async with Terminal(shell, "login", "--base-url", fake.base_url, env={"BROWSER": "false"}) as terminal:
        await terminal.shows(PASTE)
        assert "No browser opened." in terminal.text
        headless = terminal.text[terminal.text.index("No browser") :]
        terminal.type(fake.consent(address_in(headless, fake)) + "\n")
        assert await terminal.end() == 0
    assert kept_key(shell) == fake.issued_keys[0].key


async def test_login_busy_server_is_retried_and_keeps_the_code(shell: Shell, fake: FakeOpenRouter) -> None:
    async with Terminal(shell, "login", "--base-url", fake.base_url) as terminal:
        await terminal.shows(PASTE)
        code = fake.consent(address_in(terminal.text, fake))
        fake.queue_faults(Fault.status(429).times(4))
        terminal.type(f"{code}\n")
        await terminal.shows("what you sent is still good.")
        terminal.type(f"{code}\n")
        assert await terminal.end() == 0
    assert kept_key(shell) == fake.issued_keys[0].key


@pytest.mark.unmeasured
@pytest.mark.parametrize("by", ["option", "environment"])
async def test_login_reads_a_pasted_code_from_stdin(shell: Shell, fake: FakeOpenRouter, by: str) -> None:
    site = ["--base-url", fake.base_url] if by == "option" else []
    if by == "environment":
        shell = attrs.evolve(shell, environment={**shell.environment, "OPENROUTER_BASE_URL": fake.base_url})
    process = await shell.start("login", "--headless", "--json", *site, stdin=asyncio.subprocess.PIPE)
    out, err = await finish_login(process, fake)
    assert process.returncode == 0
    assert json.loads(out)["stored_in"] == "file"
    assert kept_key(shell) == fake.issued_keys[0].key
    assert "█" not in err


async def test_login_keeps_a_key_that_openrouter_refuses_and_says_so(shell: Shell, fake: FakeOpenRouter) -> None:
    # The exchange is answered as ever, and the question about the new key by a refusal.
    fake.queue_faults(Fault.delay(0), Fault.status(403, message="IP address not allowed"))
    process = await shell.start("login", "--headless", "--base-url", fake.base_url, stdin=asyncio.subprocess.PIPE)
    out, err = await finish_login(process, fake)
    assert process.returncode == 3
    assert kept_key(shell) == fake.issued_keys[0].key
    assert out.startswith("Signed in as ")
    assert "IP address not allowed" in err
    assert "a list of allowed addresses, can forbid it." in err.splitlines()[-1]


@pytest.mark.unmeasured
async def test_login_with_no_verify_asks_nothing_about_the_key(shell: Shell, fake: FakeOpenRouter) -> None:
    process = await shell.start(
        "login", "--headless", "--no-verify", "--base-url", fake.base_url, stdin=asyncio.subprocess.PIPE
    )
    await finish_login(process, fake)
    assert process.returncode == 0
    assert len(fake.requests) == 1


async def finish_login(process: asyncio.subprocess.Process, fake: FakeOpenRouter) -> tuple[str, str]:
    """Paste the code that the page of a headless login shows, and return the output."""
    assert process.stdin is not None
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        lines = [b""]
        while b"/auth?" not in lines[-1]:
            lines.append(await process.stderr.readline())
        out, err = await process.communicate(fake.consent(lines[-1].decode().strip()).encode())
    return out.decode(), b"".join([*lines, err]).decode()


@pytest.mark.unmeasured
async def test_login_without_a_code_on_stdin_says_so(shell: Shell, fake: FakeOpenRouter) -> None:
    ended = await shell.run("login", "--base-url", fake.base_url)
    assert ended.status == 2
    assert ended.err.splitlines()[-1] == "openrouter-async: No code was given on the standard input."


@pytest.mark.parametrize(
    ("pasted", "status", "advice"),
    [("two words", 2, "must be 1 to 1024 visible"), ("auth_code_of_nobody", 3, "copy the whole code")],
)
async def test_login_wrong_code_on_stdin_ends(
    shell: Shell, fake: FakeOpenRouter, pasted: str, status: int, advice: str
) -> None:
    ended = await shell.run("login", "--headless", "--base-url", fake.base_url, stdin=pasted)
    assert ended.status == status
    assert advice in ended.err.splitlines()[-1]


async def test_login_without_a_callback_times_out(here: Here, fake: FakeOpenRouter) -> None:
    for arguments in (("--no-browser",), ("--headless",)):
        ended = await here("login", *arguments, "--wait", "0.05", "--base-url", fake.base_url)
        assert ended.status in (2, 3)
