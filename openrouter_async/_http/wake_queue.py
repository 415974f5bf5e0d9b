"""Wake the callers of finished exchanges a few at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

_WOKEN_AT_ONCE: Final = 8


class WakeQueue:
    """Callers whose exchange has ended, woken a few at a time in each pass of the loop."""

    def __init__(self) -> None:
        self._waiters: deque[asyncio.Future[None]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def add(self, waiter: asyncio.Future[None]) -> None:
        """Wake a caller in one of the next passes."""
        if not self._waiters:
            loop = waiter.get_loop()
            loop.call_soon(self._wake_some, loop)
        self._waiters.append(waiter)

    def _wake_some(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(min(_WOKEN_AT_ONCE, len(self._waiters))):
            wake(self._waiters.popleft())
        if self._waiters:
            loop.call_soon(self._wake_some, loop)

    def wake_all(self) -> None:
        """Wake all callers now."""
        while self._waiters:
            wake(self._waiters.popleft())


def wake(waiter: asyncio.Future[None]) -> None:
    """Wake a caller, unless it is awake or was cancelled."""
    if not waiter.done():
        waiter.set_result(None)
