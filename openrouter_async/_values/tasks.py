"""Tasks that continue when their caller is cancelled, because a code that was sent cannot be sent again."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")


def _ignore_result(task: asyncio.Task[Any]) -> None:
    # asyncio logs an exception that was never retrieved.
    if not task.cancelled():
        task.exception()


# Nested work needs no second task: the outer one is never cancelled.
_SHIELDED: Final[weakref.WeakSet[asyncio.Task[Any]]] = weakref.WeakSet()


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end; its result and its error are ignored."""
    task.cancel()
    await asyncio.wait((task,))
    _ignore_result(task)


class ShieldedTasks(Generic[T]):
    """A set of tasks that continue when their callers are cancelled, as with `asyncio.shield`.

    Args:
        on_abandoned: Called with each finished task whose caller was cancelled; by default its result is ignored.
    """

    def __init__(self, on_abandoned: Callable[[asyncio.Task[T]], object] = _ignore_result) -> None:
        self._on_abandoned = on_abandoned
        self._tasks: set[asyncio.Task[T]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in a task that the cancellation of the caller does not cancel.

        Within such a task the coroutine is awaited directly: the task of the outermost caller shields it already.
        """
        if asyncio.current_task() in _SHIELDED:
            return await work
        task = asyncio.get_running_loop().create_task(work)
        _SHIELDED.add(task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.add_done_callback(self._on_abandoned)
            raise
        return task.result()

    async def drain(self, timeout: float | None = None) -> int:
        """Wait for all tasks under way.

        Args:
            timeout: Seconds to wait; None waits without a limit.

        Returns:
            The number of tasks that did not end in time.
        """
        if not self._tasks:
            return 0
        _, late = await asyncio.wait(tuple(self._tasks), timeout=timeout)
        return len(late)
