"""Secrets that come from a file, the standard input or the keyboard, and not from the command line."""

from __future__ import annotations

import asyncio
import contextlib
import os
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
"""How the standard input is named."""

_LARGEST: Final = 65_536


class StdinReader:
    """The lines of the standard input, for which the event loop can wait.

    A thread reads them, since neither a regular file nor Windows' console can be watched, and without Python's buffer,
    whose lock would stop the interpreter from ending while somebody is still being asked.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._buffer = b""
        self._is_over = False
        self._reading: asyncio.Future[bytes] | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether somebody sits there."""
        return os.isatty(self._descriptor)

    async def next(self) -> str | None:
        """The next line; None when there is none. What is read when nobody waits any more is kept for the next one."""
        while b"\n" not in self._buffer and not self._is_over:
            if self._reading is None:
                self._reading = self._read()
            chunk = await asyncio.shield(self._reading)
            self._reading = None
            self._buffer += chunk
            self._is_over = not chunk or len(self._buffer) > _LARGEST
        if not self._buffer:
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace").strip()

    def _read(self) -> asyncio.Future[bytes]:
        loop = asyncio.get_running_loop()
        reading: asyncio.Future[bytes] = loop.create_future()

        def give(chunk: bytes) -> None:
            if not reading.done():
                reading.set_result(chunk)

        def run() -> None:
            chunk = b""
            with contextlib.suppress(OSError):
                chunk = os.read(self._descriptor, _LARGEST)
            # The loop may be closed by now.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(give, chunk)

        threading.Thread(target=run, name="openrouter-async-input", daemon=True).start()
        return reading


@contextlib.contextmanager
def no_echo(output: Output, descriptor: int = 0) -> Iterator[None]:
    """Do not show what is typed or pasted, where the terminal can do so."""
    if os.name != "posix" or not os.isatty(descriptor):
        yield
        return
    import termios

    before = termios.tcgetattr(descriptor)
    quiet = before[:]
    # The line's end is shown.
    quiet[3] = quiet[3] & ~termios.ECHO | termios.ECHONL
    try:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
        yield
    finally:
        output.end_question()
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def ask(question: str, lines: StdinReader, output: Output) -> str | None:
    """What somebody at the terminal answers, or else the next line of the standard input; None when there is none."""
    if lines.is_terminal:
        output.ask(question)
    answer = await lines.next()
    output.end_question(answered=answer is not None)
    return answer


async def read_secret(name: str, value: str | None, file: Path | None, lines: StdinReader) -> str | None:
    """A secret from wherever it is: the command line, a file, or the next line of the standard input.

    Args:
        name: What it is called in messages.
        value: What the command line says; "-" means the standard input.
        file: The file that the command line names; "-" means the standard input.
        lines: The standard input.

    Returns:
        The secret; None when the command line names no place for it.

    Raises:
        UsageError: There are two places, or nothing is there.
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
    """The text of a file, without the space around it.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode().strip()
    except OSError as failure:
        raise UsageError(f"{name} cannot be read from {path}: {failure.strerror}.") from failure
    except UnicodeDecodeError:
        raise UsageError(f"{name} cannot be read from {path}: it is not text.") from None


def can_open_browser() -> bool:
    """Return whether a browser is likely to come up on the screen of the user at the terminal."""
    if os.environ.get("BROWSER"):
        return bool(browsers_from_environment())
    if sys.platform not in ("darwin", "win32"):
        # Without a display, a browser would be one that takes the terminal.
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
