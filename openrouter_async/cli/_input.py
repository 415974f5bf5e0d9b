"""Input of secrets from a file, the standard input or the keyboard instead of the command line."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openrouter_async._values.threads import run_in_daemon_thread
from openrouter_async.cli._exit import UsageError
from openrouter_async.login._browser import browsers_from_environment
from openrouter_async.login._terminal import MAX_SIZE, LineReader, no_echo

if TYPE_CHECKING:
    from openrouter_async.cli._options import Output

STDIN: Final = "-"
"""The name of the standard input on the command line."""

_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class StdinReader(LineReader):
    """Reads lines of text from the standard input."""

    async def next(self) -> str | None:
        """Read the next line as text.

        Returns:
            The line, without the space around it; None at the end of the input.

        Raises:
            UsageError: The input is in UTF-16.
        """
        line = await self.next_line()
        if line is None:
            return None
        if line.startswith(_UTF16):
            raise UsageError("The standard input is in UTF-16; give it in UTF-8.")
        return line.removeprefix(codecs.BOM_UTF8).decode(errors="replace").strip()


@contextlib.contextmanager
def hidden_input(output: Output) -> Iterator[None]:
    """Turn the terminal's echo off, and end the line of an open question before it is on again."""
    with no_echo():
        try:
            yield
        finally:
            output.end_question()


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
        # The file may be a pipe, such as a shell's <(…), whose read cannot be interrupted.
        value = await run_in_daemon_thread(lambda: read_file(name, file), name="openrouter-async-input")
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
