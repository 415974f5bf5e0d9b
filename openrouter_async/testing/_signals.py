"""Ending a server that runs in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal


def stop_on_sigterm() -> asyncio.Event:
    """Return an event that SIGTERM sets, instead of ending the process.

    The kernel discards a SIGTERM for PID 1, as which a container runs its program, unless there is a handler.
    """
    stop = asyncio.Event()
    # NotImplementedError: on Windows. RuntimeError, ValueError: the loop runs in a thread that gets no signals.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return stop
