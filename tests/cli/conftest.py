from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import keyring
import pytest
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
def here(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(home)
    # As many attempts as ever, with next to no pauses.
    defaults = inspect.unwrap(OpenRouter.__init__).__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "retry", RetryPolicy(initial_interval=0.01))
    # What a computer without a keyring has.
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
