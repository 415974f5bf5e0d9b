"""Work that outlives its caller: a code that was sent cannot be sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def _pass_over(task: asyncio.Task[Any]) -> None:
    # asyncio would tell of an exception that nobody asked for.
    if not task.cancelled():
        task.exception()


class ShieldedTasks(Generic[T]):
    """Work that goes on when its caller is cancelled.

    Args:
        on_abandoned: Called with a task whose caller was cancelled, when it is over; by default nothing is told of it.
    """

    def __init__(self, on_abandoned: Callable[[asyncio.Task[T]], object] = _pass_over) -> None:
        self._on_abandoned = on_abandoned
        self._tasks: set[asyncio.Task[T]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it, also when the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.add_done_callback(self._on_abandoned)
            raise
        return task.result()

    async def drain(self, timeout: float | None = None) -> int:
        """Wait for what is under way.

        Args:
            timeout: Seconds to wait; None waits as long as it takes.

        Returns:
            How much did not end in time.
        """
        if not self._tasks:
            return 0
        _, late = await asyncio.wait(tuple(self._tasks), timeout=timeout)
        return len(late)
