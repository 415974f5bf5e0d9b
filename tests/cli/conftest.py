from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import keyring
import pytest
from blockbuster import BlockingError, blockbuster_ctx
from keyring.backends import fail

from openrouter_async import OpenRouter, RetryPolicy
from tests.cli.keyring_in_file import KeyringInFile
from tests.cli.support import Ended, Shell, environment, run_here

Here: TypeAlias = Callable[..., Awaitable[Ended]]
"""Runs a command in this process, in a thread with a loop of its own."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return home


@pytest.fixture
def shell(home: Path) -> Shell:
    """A user whose computer has no keyring and no screen."""
    return Shell(home=home, environment=environment(home))


@pytest.fixture
def nothing_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail when the library blocks an event loop, also where it handles the error that blockbuster raises."""
    calls: list[str] = []

    class NotedError(BlockingError):
        def __init__(self, function: str) -> None:
            super().__init__(function)
            calls.append(f"{function} in\n{''.join(traceback.format_stack(limit=12)[:-2])}")

    monkeypatch.setattr("blockbuster.blockbuster.BlockingError", NotedError)
    with blockbuster_ctx("openrouter_async", excluded_modules=["openrouter_async.testing"]) as blockbuster:
        for name, function in blockbuster.functions.items():
            # A command may look at its own small files, before it sends anything.
            if name.startswith("os."):
                function.deactivate()
            function.can_block_in("logging/__init__.py", "emit")
            # Where a key could not be kept, nothing may come between it and the file that rescues it.
            function.can_block_in("cli/_key_saver.py", "_rescue")
        yield
    assert not calls, "\n".join(calls)


@pytest.fixture
def here(nothing_blocks: None, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(home)
    # As many attempts as ever, with next to no pauses.
    defaults = inspect.unwrap(OpenRouter.__init__).__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "retry", RetryPolicy(initial_interval=0.01))
    # The backend of a computer without a keyring.
    keyring.set_keyring(fail.Keyring())  # type: ignore[no-untyped-call]

    async def run(*arguments: str | Path) -> Ended:
        capfd.readouterr()
        status = await asyncio.to_thread(run_here, *arguments)
        out, err = capfd.readouterr()
        return Ended(status=status, out=out, err=err)

    return run


@pytest.fixture
def with_keyring(here: Here) -> Here:
    """As `here`, on a computer with a keyring."""
    keyring.set_keyring(KeyringInFile())  # type: ignore[no-untyped-call]
    return here
