"""Input of secrets from a file, the standard input or the keyboard instead of the command line."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openrouter_async.cli._exit import UsageError
from openrouter_async.login._browser import browsers_from_environment

if TYPE_CHECKING:
    from openrouter_async.cli._options import Output

STDIN: Final = "-"
"""The name of the standard input on the command line."""

_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

MAX_SIZE: Final = 65_536


class StdinReader:
    """Reads lines of the standard input without blocking the event loop; a read can be cancelled.

    A daemon thread reads them, because selectors watch neither regular files nor the Windows console. It bypasses
    Python's buffered stream, whose lock would stop the interpreter from ending during a read.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._buffer = b""
        self._is_over = False
        self._reading: asyncio.Future[bytes] | None = None

    @property
    def is_terminal(self) -> bool:
        """Return whether the standard input is a terminal."""
        return os.isatty(self._descriptor)

    async def next(self) -> str | None:
        """Read the next line. A line that arrives after a cancelled read is kept for the next one.

        Returns:
            The line; None at the end of the input.

        Raises:
            UsageError: The input is in UTF-16.
        """
        while b"\n" not in self._buffer and not self._is_over:
            if self._reading is None:
                self._reading = self._read()
            chunk = await asyncio.shield(self._reading)
            self._reading = None
            self._buffer += chunk
            self._is_over = not chunk or len(self._buffer) > MAX_SIZE
        if not self._buffer:
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        if line.startswith(_UTF16):
            raise UsageError("The standard input is in UTF-16; give it in UTF-8.")
        return line.removeprefix(codecs.BOM_UTF8).decode(errors="replace").strip()

    def _read(self) -> asyncio.Future[bytes]:
        loop = asyncio.get_running_loop()
        reading: asyncio.Future[bytes] = loop.create_future()

        def give(chunk: bytes) -> None:
            if not reading.done():
                reading.set_result(chunk)

        def run() -> None:
            chunk = b""
            with contextlib.suppress(OSError):
                chunk = os.read(self._descriptor, MAX_SIZE)
            # The loop may have been closed meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(give, chunk)

        threading.Thread(target=run, name="openrouter-async-input", daemon=True).start()
        return reading


@contextlib.contextmanager
def no_echo(output: Output, descriptor: int = 0) -> Iterator[None]:
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
            output.end_question()
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def ask(question: str, lines: StdinReader, output: Output) -> str | None:
    """Ask the user at the terminal, or read the next line of the standard input.

    Returns:
        The answer; None at the end of the input.
    """
    if lines.is_terminal:
        output.ask(question)
    answer = await lines.next()
    output.end_question(answered=answer is not None)
    return answer


async def read_secret(name: str, value: str | None, file: Path | None, lines: StdinReader) -> str | None:
    """Read a secret from the command line, a file, or the next line of the standard input.

    Args:
        name: The name of the secret in messages.
        value: The value on the command line; "-" means the standard input.
        file: The file named on the command line; "-" means the standard input.
        lines: The standard input.

    Returns:
        The secret; None if the command line gives neither a value nor a file.

    Raises:
        UsageError: Both are given, or the secret is empty.
    """
    if value is not None and file is not None:
        raise UsageError(f"Give {name} itself or a file with it, not both.")
    if STDIN in (value, str(file)):
        value = await lines.next()
    elif file is not None:
        value = read_file(name, file)
    if value == "" or (value is None and file is not None):
        raise UsageError(f"There is no {name} in what was given for it.")
    return value


def read_file(name: str, path: Path) -> str:
    """Read a text file.

    Returns:
        Its text, without a byte order mark and the space around it.

    Raises:
        UsageError: The file cannot be read, or is not in UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE)
        if data.startswith(_UTF16):
            raise UsageError(f"{name} cannot be read from {path}: it is in UTF-16; save it as UTF-8.")
        return data.decode("utf-8-sig").strip()
    except OSError as failure:
        raise UsageError(f"{name} cannot be read from {path}: {failure.strerror}.") from failure
    except UnicodeDecodeError:
        raise UsageError(f"{name} cannot be read from {path}: it is not text.") from None


def can_open_browser() -> bool:
    """Return whether a browser is likely to come up on the screen of the user at the terminal."""
    if os.environ.get("BROWSER"):
        return bool(browsers_from_environment())
    if sys.platform not in ("darwin", "win32"):
        # Without a display, only a text browser is left, which would take over the terminal.
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            return False
    elif os.environ.get("SSH_CONNECTION"):
        return False
    import webbrowser

    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True
