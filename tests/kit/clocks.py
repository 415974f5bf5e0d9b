"""Clocks that tests move, and waiting without real time."""

from __future__ import annotations

import asyncio
import itertools
import random
import selectors
import time
from collections.abc import Callable, Iterable

import attrs

from openrouter_async import Clock
from openrouter_async._values.clock import SYSTEM_CLOCK
from tests.support import PATIENCE

EPOCH = 1_800_000_000.0
"""The time at which the clocks of tests start: 2027-01-15 08:00:00 UTC."""

FROZEN = Clock(time=lambda: EPOCH, monotonic=lambda: 1000.0)
"""A clock that never moves; its ``sleep`` is real."""


@attrs.define
class WallClock:
    """A clock whose time of day stands still until a test sets it; the rest is the system's."""

    now: float = EPOCH

    @property
    def clock(self) -> Clock:
        return Clock(time=lambda: self.now)


@attrs.define
class ShiftedClock:
    """The system's clock with a time of day that is some seconds ahead."""

    seconds: float = 0.0

    @property
    def clock(self) -> Clock:
        return Clock(time=lambda: SYSTEM_CLOCK.time() + self.seconds)


class FakeClock:
    """A clock that each sleep moves forward at once, and that records the sleeps.

    Args:
        chances: The values of ``random``, repeated without end.
    """

    def __init__(self, chances: Iterable[float] = (0.5,)) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self._chances = itertools.cycle(chances)
        self.clock = Clock(
            monotonic=lambda: self.now,
            time=lambda: EPOCH + self.now - 1000.0,
            sleep=self.sleep,
            random=lambda: next(self._chances),
        )

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        wake_up = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, wake_up)

    def advance(self, seconds: float) -> None:
        self.now += seconds


class StoppedClock(FakeClock):
    """A clock whose sleepers wake up when the test advances it."""

    def __init__(self, chances: Iterable[float] = (0.5,)) -> None:
        super().__init__(chances)
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, awake))
        await awake

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        for due, awake in self._sleepers:
            if due <= self.now and not awake.done():
                awake.set_result(None)
        self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[1].done()]

    @property
    def sleeping(self) -> int:
        return sum(not awake.done() for _, awake in self._sleepers)


def fast_clock(factor: float) -> Clock:
    """Return the system's clock, running faster by a factor."""
    return Clock(
        monotonic=lambda: time.monotonic() * factor,
        time=lambda: EPOCH + time.monotonic() * factor,
        sleep=lambda seconds: asyncio.sleep(seconds / factor),
    )


class _Selector(selectors.DefaultSelector):
    """A selector that advances the time instead of waiting when no socket is ready."""

    now = 1000.0
    patience = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else min(timeout, self.patience))
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with virtual time, which jumps to the next timer when nothing else is to be done.

    Args:
        patience: Real seconds to wait for threads, which run in real time, before each jump.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self._virtual = _Selector()
        self._virtual.patience = patience
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def loop_clock(seed: int) -> Clock:
    """Return a clock with the time of the running loop and randomness from a seed."""
    loop = asyncio.get_running_loop()
    return Clock(
        monotonic=loop.time,
        time=lambda: EPOCH + loop.time() - 1000.0,
        sleep=asyncio.sleep,
        random=random.Random(seed).random,
    )


async def passes(count: int = 10) -> None:
    """Let the loop run some passes, in each of which it also reads from its sockets."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - there is no event for everything
            await asyncio.sleep(0)
