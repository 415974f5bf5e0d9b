"""Gates that hold requests until a test opens them."""

from __future__ import annotations

import asyncio

from openrouter_async import Handler, Request, Response


class Gate:
    """A middleware that holds requests, before they are sent or after they were answered.

    Args:
        after: Whether the requests are sent first, and their answers held.

    Attributes:
        reached: Set when the first request is held.
        waiting: The number of requests that are held.
        passed: The number of requests that passed.
        most: The largest number of requests that were held at the same time.
        is_open: Whether the gate holds no more requests.
    """

    def __init__(self, *, after: bool = False) -> None:
        self._after = after
        self._permits = asyncio.Semaphore(0)
        self.reached = asyncio.Event()
        self.waiting = self.passed = self.most = 0
        self.is_open = False

    def let(self, count: int | None = None) -> None:
        """Let a number of requests pass; by default all, now and later."""
        self.is_open = self.is_open or count is None
        for _ in range(self.waiting if count is None else count):
            self._permits.release()

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        response = await call_next(request) if self._after else None
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        self.reached.set()
        try:
            if not self.is_open:
                await self._permits.acquire()
        finally:
            self.waiting -= 1
        self.passed += 1
        return response or await call_next(request)
