"""A clock that runs by itself and that a test can advance."""

from __future__ import annotations

import asyncio
import contextlib

from openrouter_async._values.clock import Clock
from openrouter_async._values.validation import check_number


class MovableClock:
    """A clock that is ahead of another one by a number of seconds.

    `advance` increases that number.

    Args:
        clock: The other clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = 0.0
        self._sleepers: set[asyncio.Future[None]] = set()

    def time(self) -> float:
        """Return the seconds since the epoch."""
        return self._clock.time() + self._ahead

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary start."""
        return self._clock.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        """Move the clock forward, from any thread, and wake the sleepers to check it.

        Raises:
            RequestValidationError: The number of seconds is negative or not finite.
        """
        check_number("seconds", seconds, least=0)
        self._ahead += seconds
        for sleeper in list(self._sleepers):
            # A closed loop has no sleepers to wake.
            with contextlib.suppress(RuntimeError):
                sleeper.get_loop().call_soon_threadsafe(_wake, sleeper)

    async def sleep(self, seconds: float) -> None:
        """Wait until this clock has advanced by a number of seconds."""
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
                # The sleep of a fake clock may return without advancing its time; another round would not end.
                return


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
