from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from openrouter_async.cli._app import run
from tests.support import PATIENCE, ROOT, restore_signals

PROGRAM = (sys.executable, "-W", "error", "-m", "openrouter_async")


@attrs.frozen(kw_only=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The result for machines, which has to be all that was printed."""
        assert self.err == ""
        document: dict[str, Any] = json.loads(self.out)
        return document

    @property
    def failure(self) -> dict[str, Any]:
        """The error for machines, which has to be all that was printed."""
        assert self.out == ""
        failure: dict[str, Any] = json.loads(self.err)["error"]
        return failure

    @property
    def complaint(self) -> str:
        """The line in which a failure is told; there has to be one, and nothing on the standard output."""
        assert self.out == ""
        assert self.err.startswith("openrouter-async: ")
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        return self.err.removeprefix("openrouter-async: ").rstrip("\n")


@attrs.frozen(kw_only=True)
class Shell:
    """A user's environment, in which commands are run."""

    home: Path
    environment: Mapping[str, str]

    async def start(self, *arguments: str | Path, **options: Any) -> asyncio.subprocess.Process:
        options.setdefault("preexec_fn", restore_signals)
        return await asyncio.create_subprocess_exec(
            *PROGRAM,
            *map(str, arguments),
            cwd=self.home,
            env=dict(self.environment),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            **options,
        )

    async def run(self, *arguments: str | Path, stdin: str = "") -> Ended:
        """Run a command as a process."""
        process = await self.start(*arguments, stdin=asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(PATIENCE):
                out, err = await process.communicate(stdin.encode())
        except BaseException:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        return Ended(status=process.returncode, out=out.decode(), err=err.decode())

    @property
    def data(self) -> Path:
        """Where the command line keeps files."""
        return self.home / "data" / "openrouter-async"


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a process, without the variables of the developer who runs the tests."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "LANG", "VIRTUAL_ENV") or name.startswith(("COVERAGE", "COV_"))
    }
    return kept | {
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "KEYRING_FILE": str(home / "keyring.json"),
        "COLUMNS": "80",
        # Even a faulty test must not reach another computer.
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }


KEYRING = {"PYTHON_KEYRING_BACKEND": "tests.cli.keyring_in_file.KeyringInFile"}
"""A computer with a keyring."""


def run_here(*arguments: str | Path) -> int:
    """Run a command in this process."""
    return run([str(argument) for argument in arguments])


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait in a thread until a condition holds that can only be polled."""
    give_up_at = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
