"""Wake the callers of finished exchanges a few at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

_WOKEN_AT_ONCE: Final = 8


class WakeQueue(deque["asyncio.Future[None]"]):
    """Callers whose exchange has ended, woken a few at a time in each pass of the loop."""

    def add(self, waiter: asyncio.Future[None]) -> None:
        """Wake a caller in one of the next passes."""
        if not self:
            loop = waiter.get_loop()
            loop.call_soon(self._wake_some, loop)
        self.append(waiter)

    def _wake_some(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(min(_WOKEN_AT_ONCE, len(self))):
            wake(self.popleft())
        if self:
            loop.call_soon(self._wake_some, loop)

    def wake_all(self) -> None:
        """Wake all callers now."""
        while self:
            wake(self.popleft())


def wake(waiter: asyncio.Future[None]) -> None:
    """Wake a caller, unless it is awake or was cancelled."""
    if not waiter.done():
        waiter.set_result(None)
