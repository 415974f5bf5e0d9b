"""A real Chromium for tests, started once and given to each test with a fresh profile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from playwright.async_api import BrowserContext, async_playwright, expect

from tests.support import PATIENCE, missing

expect.set_options(timeout=PATIENCE * 1000)

_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)

# What Debian has in the path is a script, which a signal would end alone.
_HEADLESS_SHELL = "/usr/lib/chromium/chromium-headless-shell"


@contextlib.contextmanager
def run_chromium(folder: Path, *, needs_settings: bool = False) -> Iterator[str]:
    """Chromium with a profile in this folder; gives the address at which it is driven.

    Debian has its engine as a program without windows and settings, too, which takes less than half of the time.
    """
    program = (None if needs_settings else shutil.which(_HEADLESS_SHELL)) or shutil.which("chromium")
    if program is None:
        missing("chromium")
    process = subprocess.Popen(
        [program, *_ARGUMENTS, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port, path = _wait_for(process, folder / "DevToolsActivePort").splitlines()
        yield f"ws://127.0.0.1:{port}{path}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait_for(process: subprocess.Popen[bytes], file: Path) -> str:
    give_up_at = time.monotonic() + PATIENCE
    while True:
        # Its name is there a little before all that it says is.
        text = file.read_text() if file.exists() else ""
        if text.count("\n") == 1:
            return text
        assert process.poll() is None, "Chromium ended before it listened"
        assert time.monotonic() < give_up_at, "Chromium does not listen"
        time.sleep(0.02)


@contextlib.asynccontextmanager
async def browse(address: str) -> AsyncIterator[BrowserContext]:
    """A fresh profile, bound to the running loop."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(address)
        context = await browser.new_context()
        context.set_default_timeout(PATIENCE * 1000)
        try:
            yield context
        finally:
            await context.close()
            await browser.close()


@contextlib.asynccontextmanager
async def browse_without_cookies(folder: Path) -> AsyncIterator[BrowserContext]:
    """A browser that takes no cookies; this cannot be set for a single profile of a shared one."""
    (folder / "Default").mkdir()
    blocked = {"profile": {"default_content_setting_values": {"cookies": 2}}}
    (folder / "Default" / "Preferences").write_text(json.dumps(blocked))
    async with contextlib.AsyncExitStack() as cleanup:
        address = await asyncio.to_thread(cleanup.enter_context, run_chromium(folder, needs_settings=True))
        yield await cleanup.enter_async_context(browse(address))
