"""A clock that goes by itself and that a test can move."""

from __future__ import annotations

import asyncio
import contextlib

from openrouter_async._http.retry_policy import check_number
from openrouter_async._values.clock import Clock


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
        """Move it forward, from whatever thread, and let who sleeps look at it.

        Raises:
            RequestValidationError: It is no finite number from 0.
        """
        check_number("seconds", seconds, least=0)
        self._ahead += seconds
        for sleeper in list(self._sleepers):
            # A loop that is closed has nobody sleeping in it.
            with contextlib.suppress(RuntimeError):
                sleeper.get_loop().call_soon_threadsafe(_wake, sleeper)

    async def sleep(self, seconds: float) -> None:
        """Wait until so many seconds went by, or the clock was moved as far."""
        due = self.monotonic() + seconds
        while (left := due - self.monotonic()) > 0:
            moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._sleepers.add(moved)
            waiting = asyncio.ensure_future(self._clock.sleep(left))
            try:
                await asyncio.wait((moved, waiting), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._sleepers.discard(moved)
                waiting.cancel()
            if not moved.done():
                # A clock may let its sleepers go on without having moved.
                return


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
