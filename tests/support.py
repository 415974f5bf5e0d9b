from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

try:
    import uvloop
except ImportError:  # there is none for Windows
    uvloop = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parent.parent
"""The folder of the project."""

STRESS = bool(os.environ.get("STRESS"))
"""Whether large tallies run in full."""

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
"""What makes a loop, by its kind."""

if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop


def free_port() -> int:
    """A port that nobody listens on; the system draws it, so that processes that ask at once get different ones."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def missing(what: str) -> NoReturn:
    """Skip for want of something outside the project, or fail where everything has to be there."""
    if os.environ.get("REQUIRE_ALL"):
        pytest.fail(f"{what} is missing, and REQUIRE_ALL is set")
    pytest.skip(f"{what} is missing")


def without_coverage(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is not measured."""
    return {name: value for name, value in environment.items() if not name.startswith(("COVERAGE_", "COV_"))}
