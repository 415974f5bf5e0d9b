"""A pytest plugin that lets no test hang, and says where one does.

When a test has used up nine tenths of its ``timeout`` (see `pyproject.toml`), the stacks of all threads, tasks and
child processes are printed. Then pytest-timeout makes it fail by an exception. Where that does not end the test,
because it waits for a child process in a ``finally`` for example, the child processes are killed after a grace period,
and the process that runs the test is ended after another one; pytest-xdist replaces it, and goes on.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

_PY_SPY_TIMEOUT: Final = 30


class Watchdog:
    """Watches one test after the other.

    Args:
        stderr: A file descriptor that pytest does not capture.
        grace: Seconds from the end of a test's time until its child processes are killed, and until its own is ended.
    """

    def __init__(self, stderr: int, grace: float) -> None:
        self._stderr = stderr
        self._grace = grace
        self._over = threading.Event()

    @pytest.hookimpl(tryfirst=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> None:
        """Watch a test that has a time limit."""
        over = self._over = threading.Event()
        threading.Thread(
            target=self._watch, args=(item.nodeid, settings.timeout, over), name="watchdog", daemon=True
        ).start()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Watch it until its fixtures are torn down, also after it has failed, when pytest-timeout no longer does."""
        try:
            return (yield)
        finally:
            self._over.set()

    def _watch(self, test: str, timeout: float, over: threading.Event) -> None:
        # The stacks have to be read before pytest-timeout changes them.
        until_read = timeout * 0.9
        if over.wait(until_read):
            return
        self._say(f"{test} has run for {until_read:g} s")
        faulthandler.dump_traceback(self._stderr, all_threads=True)
        for task in _running_tasks():
            self._say(f"{task.get_name()}: {' > '.join(_describe_awaits(task.get_coro()))}")
        for pid, command in _descendants(os.getpid()):
            self._say(f"child process {pid}: {command[:200]}\n{_read_stacks(pid)}")
        if over.wait(timeout - until_read + self._grace):
            return
        self._say(f"{test} does not end; its child processes are killed")
        for pid, _ in _descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if over.wait(self._grace):
            return
        self._say(f"{test} does not end; this process is ended")
        os._exit(1)

    def _say(self, text: str) -> None:
        os.write(self._stderr, f"\n{text}\n".encode(errors="replace"))


def _running_tasks() -> list[asyncio.Task[Any]]:
    """Return the tasks of all loops; `asyncio.all_tasks` knows those of one."""
    return [found for found in gc.get_objects() if isinstance(found, asyncio.Task) and not found.done()]


def _describe_awaits(awaited: Any) -> Iterator[str]:
    """Yield what a coroutine waits for, from the outermost to the innermost function."""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is None:
            yield type(awaited).__name__
            return
        yield f"{frame.f_code.co_qualname} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


def _descendants(ancestor: int) -> Iterator[tuple[int, str]]:
    """Yield the children of a process and theirs, with their commands; none where there is no ``/proc``."""
    children: dict[int, list[tuple[int, str]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
            children.setdefault(parent, []).append((int(folder.name), command))
    parents = [ancestor]
    for parent in parents:
        for pid, command in children.get(parent, ()):
            parents.append(pid)
            yield pid, command


def _read_stacks(pid: int) -> str:
    """Return the stacks of a Python process, or why they cannot be read."""
    program = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if program is None:
        return "py-spy is missing"
    try:
        read = subprocess.run(
            [program, "dump", "--pid", str(pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PY_SPY_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return repr(error)
    # What follows the message of an error are its own frames.
    return read.stdout.decode(errors="replace").partition("\nStack backtrace:")[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting of the grace period."""
    parser.addini("timeout_grace", "seconds in which a test that has used up its time has to end", default="60")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the standard error of now, which is not captured yet."""
    config.pluginmanager.register(Watchdog(os.dup(2), float(config.getini("timeout_grace"))), "watchdog")
