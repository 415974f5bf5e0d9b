"""Questions at a terminal, which can be cancelled and whose answers stay hidden."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Final

from openrouter_async._values.threads import run_in_daemon_thread
from openrouter_async.errors import OpenRouterError

MAX_SIZE: Final = 65_536


class LineReader:
    """Reads lines of a descriptor without blocking the event loop; a read can be cancelled.

    It waits until there is something to read, so that a cancelled read takes nothing that is typed afterwards. Where
    the loop cannot watch the descriptor, a regular file or the console of Windows, a daemon thread reads.

    Args:
        descriptor: The descriptor; by default the standard input.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._buffer = b""
        self._is_over = False
        self._reading: asyncio.Future[bytes] | None = None

    @property
    def is_terminal(self) -> bool:
        """Return whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    async def next_line(self) -> bytes | None:
        """Read the next line.

        Returns:
            The line; None at the end of the input.
        """
        while b"\n" not in self._buffer and not self._is_over:
            chunk = await self._read()
            self._buffer += chunk
            self._is_over = not chunk or len(self._buffer) > MAX_SIZE
        if not self._buffer:
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        is_readable = asyncio.Event()
        try:
            loop.add_reader(self._descriptor, is_readable.set)
        except (NotImplementedError, OSError):
            return await self._read_in_thread()
        try:
            await is_readable.wait()
        finally:
            loop.remove_reader(self._descriptor)
        return self._read_now()

    async def _read_in_thread(self) -> bytes:
        if self._reading is None:
            self._reading = run_in_daemon_thread(self._read_now, name="openrouter-async-input")
        # A cancelled read is kept for the next one, since its thread will take the next line.
        chunk = await asyncio.shield(self._reading)
        self._reading = None
        return chunk

    def _read_now(self) -> bytes:
        # Not Python's buffered stream, whose lock would stop the interpreter from ending during a read.
        try:
            return os.read(self._descriptor, MAX_SIZE)
        except OSError:
            return b""


@contextlib.contextmanager
def no_echo(descriptor: int = 0) -> Iterator[None]:
    """Turn the terminal's echo off, and restore it however the program ends or is suspended."""
    if os.name != "posix" or not os.isatty(descriptor):
        yield
        return
    import termios

    before = termios.tcgetattr(descriptor)
    quiet = before[:]
    # ECHONL still echoes the newline, so that the next message starts on a new line.
    quiet[3] = quiet[3] & ~termios.ECHO | termios.ECHONL

    def pass_on(number: int, _frame: object) -> None:
        # Restore the terminal, then trigger the signal's default action. After SIGTSTP, os.kill() returns on resume.
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, pass_on)
        termios.tcsetattr(descriptor, termios.TCSANOW, quiet)

    with contextlib.ExitStack() as handlers:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
                # An ignored signal, such as SIGHUP under nohup, must stay ignored.
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, pass_on)
                    handlers.callback(signal.signal, number, signal.SIG_DFL)
        try:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class TerminalPrompt:
    """Ask at the terminal for a code, without showing the answer: a prompt for `LoginSession.wait`.

    ::

        grant = await login.wait(prompt=TerminalPrompt())

    It can be cancelled: when the browser comes back first, the program goes on at once, the terminal's echo is on
    again, and later input goes to the program. Questions and errors are written to the standard error. On Windows the
    console shows the answer.

    Args:
        question: The question.
    """

    def __init__(self, question: str = "Paste the code that the page shows; it stays hidden: ") -> None:
        self._question = question
        self._lines = LineReader()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._question!r}>"

    async def __call__(self, error: OpenRouterError | None = None) -> str:
        """Ask for a code.

        Args:
            error: The error of the previous answer; None for the first question.

        Returns:
            The answer.

        Raises:
            EOFError: Nobody can answer: the standard input is at its end.
        """
        if error is not None:
            write_message(f"{error.user_message}\n")
        line = None
        with no_echo():
            write_message(self._question)
            try:
                line = await self._lines.next_line()
            finally:
                if line is None or not self._lines.is_terminal:
                    # The terminal echoes the end of an answer, but there was none.
                    write_message("\n")
        if line is None:
            raise EOFError("the standard input is at its end")
        return line.removeprefix(codecs.BOM_UTF8).decode(errors="replace").strip()


def write_message(text: str) -> None:
    """Print text on the standard error; a failure is ignored, as it could not be reported."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(text, end="", file=sys.stderr, flush=True)  # noqa: T201
