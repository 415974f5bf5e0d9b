"""Blocking calls in daemon threads, which neither delay the end of the process nor keep a cancelled caller waiting."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def run_in_daemon_thread(function: Callable[[], T], *, name: str) -> asyncio.Future[T]:
    """Call a function in a daemon thread.

    `asyncio.to_thread` uses an executor whose threads are joined when the interpreter exits: a call that never
    returns, such as one to a locked keyring, would keep the process alive.

    Args:
        function: The function to call.
        name: The name of the thread.

    Returns:
        A future of the running loop with the result; a RuntimeError stands for an exception that is no `Exception`.
        Cancelling it abandons the call, which goes on.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # None only if T allows it
        else:
            future.set_exception(error)

    def run() -> None:
        result: T | None = None
        error: Exception | None = None
        try:
            result = function()
        except StopIteration:
            # A future cannot hold one.
            error = RuntimeError("the call raised StopIteration")
        except Exception as failure:  # noqa: BLE001 - handed to the caller
            error = failure
        except BaseException as failure:  # noqa: BLE001 - nobody would be told, and it must not end the event loop
            error = RuntimeError(f"the call raised {type(failure).__name__}")
        # RuntimeError: the loop may be closed by now.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
