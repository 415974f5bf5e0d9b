"""A terminal of 80 columns, in which a command runs as it does for a user."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import pyte

from tests.cli.support import PROGRAM, Shell
from tests.support import PATIENCE, restore_signals

CTRL_C = "\x03"
CTRL_D = "\x04"
CTRL_Z = "\x1a"


class Terminal:
    """Runs a command in a pseudo-terminal of its own.

    Args:
        shell: The user's environment.
        arguments: The arguments of the program.
        env: Variables that differ from the user's.
        lines: The height.
        ignores_sigint: Whether the program starts with SIGINT ignored, as under nohup.
        program: The program.

    Attributes:
        text: All that was written to it.
    """

    def __init__(
        self,
        shell: Shell,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        lines: int = 60,
        ignores_sigint: bool = False,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._program = program
        self._shell = shell
        self._arguments = arguments
        self._ignores_sigint = ignores_sigint
        self._env = {**shell.environment, "TERM": "xterm-256color", "PYTHON_COLORS": "0", **(env or {})}
        self._screen = pyte.Screen(80, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._news = asyncio.Event()
        self._is_over = False
        self.text = ""
        # A character may arrive in two chunks.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    async def __aenter__(self) -> Self:
        self._primary, secondary = os.openpty()
        fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", self._screen.lines, 80, 0, 0))
        os.set_blocking(self._primary, False)
        asyncio.get_running_loop().add_reader(self._primary, self._read)

        def prepare() -> None:
            os.login_tty(secondary)
            restore_signals()
            if self._ignores_sigint:
                signal.signal(signal.SIGINT, signal.SIG_IGN)

        try:
            self.process = await asyncio.create_subprocess_exec(
                *self._program,
                *self._arguments,
                cwd=self._shell.home,
                env=self._env,
                preexec_fn=prepare,
            )
        finally:
            os.close(secondary)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        asyncio.get_running_loop().remove_reader(self._primary)
        os.close(self._primary)

    @property
    def screen(self) -> list[str]:
        """Return the lines of the screen, without the empty ones at the end."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip().split("\n")

    def has_echo(self) -> bool:
        """Return whether the terminal shows typed text."""
        return bool(termios.tcgetattr(self._primary)[3] & termios.ECHO)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._primary, text.encode())

    async def shows(self, text: str, *, times: int = 1) -> None:
        """Wait until a text was written a number of times."""
        async with asyncio.timeout(PATIENCE):
            while self.text.count(text) < times:
                assert not self._is_over, f"it ended without {text!r}: {self.text}"
                self._news.clear()
                await self._news.wait()

    async def end(self) -> int:
        """Wait until the command ends; gives its status."""
        async with asyncio.timeout(PATIENCE):
            status = await self.process.wait()
            while not self._is_over:
                self._news.clear()
                await self._news.wait()
        return status

    def _read(self) -> None:
        try:
            chunk = os.read(self._primary, 65536)
        except BlockingIOError:
            return
        except OSError:
            # Nobody has the other side open any more.
            chunk = b""
        if not chunk:
            asyncio.get_running_loop().remove_reader(self._primary)
            self._is_over = True
        self._stream.feed(chunk)
        self.text += self._decoder.decode(chunk)
        self._news.set()
