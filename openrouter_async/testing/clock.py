"""A clock that goes by itself and that a test can move."""

from __future__ import annotations

import asyncio

from openrouter_async.clock import Clock


class MovableClock:
    """Another clock, so many seconds later.

    Args:
        clock: The other one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = 0.0
        self._sleepers: set[asyncio.Future[None]] = set()

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._clock.time() + self._ahead

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""
        return self._clock.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        """Move it forward, and wake who has slept enough."""
        if not seconds >= 0:
            raise ValueError("seconds: must be 0 or more")
        self._ahead += seconds
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Wait until so many seconds went by, or the clock was moved as far."""
        due = self.monotonic() + seconds
        while (left := due - self.monotonic()) > 0:
            moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiting = asyncio.ensure_future(self._clock.sleep(left))
            self._sleepers.add(moved)
            try:
                done, _ = await asyncio.wait((moved, waiting), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._sleepers.discard(moved)
                waiting.cancel()
            if waiting in done:
                # A clock may let its sleepers go on without moving.
                return
