from __future__ import annotations

import asyncio
import errno
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

try:
    import uvloop
except ImportError:  # there is none for Windows
    uvloop = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parent.parent
"""The folder of the project."""

PATIENCE = 120.0
"""Seconds until a test gives up waiting for an event; many more than it takes on a busy machine."""

STRESS = bool(os.environ.get("STRESS"))
"""Whether large tests run at full size."""

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
"""Factories of event loops, by the name of the library."""

if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop


# Far apart in processes whose numbers follow one another.
_ports = itertools.count(os.getpid() * 7_919)


def free_port() -> int:
    """Return a port on which nothing listens.

    It is below Linux's range of ephemeral ports, so that the kernel gives it to no connection and to no server that
    takes any port; and browsers do not block it. Processes that ask at the same time begin at different ports.
    """
    while True:
        port = 11_000 + next(_ports) % 20_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port


def restore_signals() -> None:
    """Give a child process the default actions of signals that nohup or a shell's ``&`` ignores."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def missing(name: str) -> NoReturn:
    """Skip a test that needs something from outside the project; fail where ``REQUIRE_ALL`` is set."""
    if os.environ.get("REQUIRE_ALL"):
        pytest.fail(f"{name} is missing, and REQUIRE_ALL is set")
    pytest.skip(f"{name} is missing")


def find_axe() -> Path:
    """Return the script of axe-core, which checks the accessibility of a page."""
    script = ROOT / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        missing("axe-core from npm")
    return script


def import_error_without(package: str, *lines: str) -> str:
    """Return the message of the ImportError that lines of code raise where a package is not installed."""
    program = "\n".join(
        [
            f"import sys; sys.modules[{package!r}] = None",
            *("try:", *(f"    {line}" for line in lines)),
            "except ImportError as error: print(error)",
        ]
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    return shown.strip()
